"""Watching a long pass over data: a function is handed the items, and may show a bar or stop the pass between two."""

from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


def unwatched(items: Iterable[Any], name: str, total: int) -> Iterable[Any]:
    """Give the items of a pass as they are; with a bar it is `lambda items, name, total: tqdm(items, name, total)`.

    Args:
        items: what the pass goes over.
        name: of the pass, to be shown.
        total: how many items there are.
    """
    del name, total
    return items
