"""What a run says while it works: bars with the time left on a terminal, plain lines in a log.

Of several processes the first speaks.
"""

import sys
from collections.abc import Callable, Iterable, Iterator

from tqdm import tqdm

from experiments.runs.stopping import stop_if_asked
from jsnn.training.hosts import is_first_process


def say(line: str) -> None:
    """Print a line, above the bar where there is one."""
    if is_first_process():
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()


def bar(label: str, total: int, done: int = 0, unit: str = "step") -> tqdm:
    """A bar that is shown on a terminal only."""
    hidden = None if is_first_process() else True
    return tqdm(total=total, initial=done, desc=label, unit=unit, leave=False, disable=hidden, dynamic_ncols=True)


def watcher(label: str, total: int) -> Callable[[Iterable], Iterable]:
    """Wraps an iterable of `total` items into a bar, and stops the run between two items where it is asked to."""

    def watched(items: Iterable) -> Iterator:
        with bar(label, total, unit="batch") as progress:
            for item in items:
                stop_if_asked()
                yield item
                progress.update()

    return watched
