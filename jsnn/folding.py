"""Long passes over data as folds: a state, and a function that adds an item to it.

So the caller can watch a pass, stop it and continue it later, without knowing what it computes.
"""

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

State = Any  # dict of arrays, or of dicts of them; None before the first item
Fold = Callable[[str, int, Callable[[int], Iterable[Any]], Callable[[State, Any], State]], State]


def fold(name: str, total: int, items: Callable[[int], Iterable[Any]], add: Callable[[State, Any], State]) -> State:
    """Add all items to a state, one after another, and return the last state.

        state[0] = None,    state[n + 1] = add(state[n], item[n])

    Another function of this signature may show a bar, save a state, and begin with the saved state of n items.

    Args:
        name: of the pass, which no other pass of its caller has.
        total: how many items there are, at least 1.
        items: n -> the items from the n-th on, from 0.
        add: (state, item) -> the next state, a dict of arrays.
    """
    del name, total
    return reduce(add, items(0), None)
