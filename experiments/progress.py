"""What a run says while it works: bars with the time left on a terminal, plain lines in a log."""

import sys
from collections.abc import Callable, Iterable

from tqdm import tqdm


def say(line: str) -> None:
    """Print a line, above the bar where there is one."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def bar(label: str, total: int, done: int = 0) -> tqdm:
    """A bar that is shown on a terminal only."""
    return tqdm(total=total, initial=done, desc=label, unit="step", leave=False, disable=None, dynamic_ncols=True)


def watcher(label: str, total: int) -> Callable[[Iterable], Iterable]:
    """Wraps an iterable of `total` items into a bar that is shown on a terminal only."""
    return lambda items: tqdm(
        items, total=total, desc=label, unit="batch", leave=False, disable=None, dynamic_ncols=True
    )
