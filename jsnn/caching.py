"""A cache for functions that make functions: the same arguments give the same function, and so the same program."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from numbers import Number
from typing import Any, ParamSpec, TypeVar

MOST = 256  # results of a function that are kept, those that were asked for last
P, R = ParamSpec("P"), TypeVar("R")


def cached(make: Callable[P, R]) -> Callable[P, R]:
    """`functools.cache` that knows methods of equal objects as equal, as `model.apply` of two models with like fields.

    What can't be hashed, as a method of a module with a list among its fields, is made anew each time.
    """
    results: OrderedDict[Hashable, R] = OrderedDict()

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        key = tuple(map(identity, args)), tuple((name, identity(kwargs[name])) for name in sorted(kwargs))
        try:
            hash(key)
        except TypeError:
            return make(*args, **kwargs)
        result = results[key] if key in results else make(*args, **kwargs)
        results[key] = result
        results.move_to_end(key)
        if len(results) > MOST:
            results.popitem(last=False)
        return result

    return call


def identity(value: Any) -> Any:
    """What tells a value from others: of a method its object and function, for Python compares objects by place.

    Beside what equals lies what `==` does not see.
    """
    if hasattr(value, "__func__"):
        return _unseen(value.__self__), value.__self__, value.__func__
    return _unseen(value), value


def _unseen(value: Any) -> Any:
    """What tells a value from an equal one: True from 1, 0.0 from -0.0, fields that a dataclass does not compare."""
    if is_dataclass(value) and not isinstance(value, type):
        held = [field for field in fields(value) if field.name != "parent"]  # of Flax, which holds the value
        inner = ((field.compare, getattr(value, field.name, None)) for field in held)
        return type(value), *(_unseen(one) if is_compared else _identity_of_field(one) for is_compared, one in inner)
    if isinstance(value, Mapping):
        return type(value), *((_unseen(key), _unseen(inner)) for key, inner in value.items())
    if isinstance(value, tuple | list):
        return type(value), *map(_unseen, value)
    return (type(value), repr(value)) if isinstance(value, Number) else type(value)


def _identity_of_field(value: Any) -> Any:
    """Of a field that is not compared its value, or the place of what can't be hashed, which its object holds."""
    try:
        hash(value)
    except TypeError:
        return _unseen(value), id(value)
    return identity(value)
