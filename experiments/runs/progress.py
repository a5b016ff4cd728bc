"""What a run says while it works: bars with the time left on a terminal, plain lines in a log.

Of several processes the first speaks. Where nobody reads any more, the run goes on.
"""

import sys
from collections.abc import Callable, Iterable
from errno import EIO, EPIPE
from typing import Any

from tqdm import tqdm

from experiments.runs.stopping import discard_output, stop_if_asked
from jsnn.folding import State
from jsnn.training.hosts import is_first_process

REPORT_EVERY = 60  # seconds of work after which a log is told how much is left


def say(line: str) -> None:
    """Print a line, above the bar where there is one."""
    if is_first_process():
        try:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            if error.errno not in (EPIPE, EIO):  # the reader of a pipe is gone, or the terminal
                raise
            discard_output([sys.stdout.fileno()])


def duration(seconds: float) -> str:
    """Seconds in words that are short: 40 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def bar(label: str, total: int, done: int = 0, unit: str = "step") -> tqdm:
    """A bar that is shown on a terminal only."""
    hidden = None if is_first_process() else True
    return tqdm(total=total, initial=done, desc=label, unit=unit, leave=False, disable=hidden, dynamic_ncols=True)


def watched(name: str, total: int, items: Callable[[int], Iterable], add: Callable[[State, Any], State]) -> State:
    """Folds with a bar, and stops the run between two items where it is asked to; see `jsnn.folding.fold`."""
    state = None
    with bar(name, total, unit="batch") as progress:
        for item in items(0):
            stop_if_asked()
            state = add(state, item)
            progress.update()
    return state
