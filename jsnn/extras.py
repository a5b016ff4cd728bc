"""Optional packages: importing them, with an error that says how to install them."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def from_extra(extra: str) -> Iterator[None]:
    """Say of a package that is missing which extra of jsnn installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        error.add_note(f'The library alone does not install it: pip install "jsnn[{extra}]".')
        raise
