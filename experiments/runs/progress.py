"""What a run says while it works, of several processes the first one; if nobody reads any more, the run goes on."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from errno import EIO, EPIPE
from typing import Any

from experiments.runs.stopping import stop_if_asked
from jsnn.training.hosts import is_first_process

CLEAR = "\r\x1b[K"  # back to the beginning of a terminal's line, which is emptied
SELDOM = 60.0  # seconds at least between two lines of a pass over data in a pipe

Show = Callable[[int, str], None]  # (what is done, what to say of it)


def say(line: str) -> None:
    """Print a line, in the place of the moving one where there is one."""
    _write(f"{CLEAR if sys.stdout.isatty() else ''}{line}\n")


@contextmanager
def moving_line(name: str, total: int, done: int = 0, pause: float = 0.0) -> Iterator[Show]:
    """On a terminal a line that moves and goes away; in a pipe one at each tenth but the last, `pause` s apart."""
    on_terminal, shown_at, tenth = sys.stdout.isatty(), time.monotonic(), 10 * done // total
    begin, start = None, done  # when the first part was done, which compiles, and how much that was

    def show(done: int, text: str = "") -> None:
        nonlocal shown_at, tenth, begin, start
        now, before = time.monotonic(), tenth
        tenth = 10 * done // total
        if begin is None:
            begin, start = now, done
        left = duration((now - begin) / max(1, done - start) * (total - done))
        if on_terminal and now - shown_at > 0.1:
            bar = "#" * (20 * done // total)
            _write(f"{CLEAR}{name} [{bar:.<20}] {text}  {left} left"[: shutil.get_terminal_size().columns - 1])
        elif not on_terminal and before < tenth < 10 and now - shown_at >= pause:
            say(f"{name} {done / total:.0%}  {text}  {left} left")
        else:
            return
        shown_at = now

    yield show
    if on_terminal:
        _write(CLEAR)


def watched(items: Iterable[Any], name: str, total: int) -> Iterator[Any]:
    """Watches a pass with a moving line, and stops the run between two items where it is asked to."""
    with moving_line(name, total, pause=SELDOM) as show:
        for done, item in enumerate(items, start=1):
            stop_if_asked()
            yield item
            show(done, f"batch {done} of {total}")


def duration(seconds: float) -> str:
    """Seconds in words that are short: 40 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _write(text: str) -> None:
    """Write to stdout, of the first process alone."""
    if not is_first_process():
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (EPIPE, EIO):  # the reader of a pipe is gone, or the terminal: from now on nobody reads
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
