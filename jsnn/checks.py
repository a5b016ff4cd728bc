"""Checks of arguments that several functions share."""

import operator
from typing import Any


def check_array(name: str, value: Any) -> None:
    """Refuse what is no array of numbers, as a list of images, by its name."""
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise ValueError(f"{name} must be one array, got a {type(value).__name__}: make one of it, as by numpy.stack.")
    if getattr(value.dtype, "kind", "") in tuple("OSU"):  # objects and texts; a random key's dtype has no kind
        raise ValueError(f"{name} must be an array of numbers, got one of {value.dtype}.")


def is_broadcastable(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of a shape can be broadcast to another, which keeps its own."""
    sizes = zip(shape[::-1], to[::-1], strict=False)
    return len(shape) <= len(to) and all(size in (1, of) for size, of in sizes)


def is_whole(number: Any) -> bool:
    """Whether a number is a whole one by its type, as those of Python, NumPy and, where it is known, JAX."""
    try:
        operator.index(number)
    except TypeError:
        return False
    return True
