"""A cache for functions that make functions: the same arguments give the same function, and so the same program."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P, R = ParamSpec("P"), TypeVar("R")


def cached(make: Callable[P, R]) -> Callable[P, R]:
    """`functools.cache` that knows methods of equal objects as equal, as `model.apply` of two models with like fields.

    What can't be hashed, as a method of a module with a list among its fields, is made anew each time.
    """
    results: dict[Hashable, R] = {}

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        key = tuple(map(_identity, args)), tuple((name, _identity(kwargs[name])) for name in sorted(kwargs))
        try:
            hash(key)
        except TypeError:
            return make(*args, **kwargs)
        if key not in results:
            results[key] = make(*args, **kwargs)
        return results[key]

    return call


def _identity(value: Any) -> Any:
    """What tells a value from others: of a method its object and function, for Python compares objects by place.

    The types beside the values, for True equals 1.
    """
    if hasattr(value, "__func__"):
        return _types(value.__self__), value.__self__, value.__func__
    return _types(value), value


def _types(value: Any) -> Any:
    """The type of a value, with those of what it holds, as a module's fields."""
    if is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in fields(value) if field.name != "parent")  # of Flax, which holds the value
        return type(value), *(_types(getattr(value, name, None)) for name in names)
    if isinstance(value, Mapping):
        return type(value), *((_types(key), _types(inner)) for key, inner in value.items())
    if isinstance(value, tuple | list):
        return type(value), *map(_types, value)
    return type(value)
