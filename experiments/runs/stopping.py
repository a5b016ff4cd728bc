"""Stopping on request: the first SIGTERM, SIGINT or SIGHUP asks a run to save and stop, a second ends it at once.

Not so a second SIGHUP: a terminal that closes sends it twice, itself and by its shell.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from jsnn.training.hosts import global_max

GO_ON, SAVE, STOP = range(3)  # what a process asks for after a step; the highest of all is done by all
STOPPED = 75  # exit status: EX_TEMPFAIL of sysexits.h, the same command goes on later

_requests: list[int] = []  # signals received by this process


class Stopped(Exception):
    """The run was asked to stop and has done so."""


@contextmanager
def on_signals() -> Iterator[None]:
    """Take SIGTERM, SIGINT and, unless it is ignored as under nohup, SIGHUP as requests to stop."""
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def take(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGHUP:  # the terminal is gone: to write to it would fail
            discard_output(terminals)
        elif _requests:
            os._exit(128 + number)
        _requests.append(number)

    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    numbers = (signal.SIGTERM, signal.SIGINT, *(() if ignored else (signal.SIGHUP,)))
    before = {number: signal.signal(number, take) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _requests.clear()


def discard_output(descriptors: Sequence[int]) -> None:
    """Have what is written to some file descriptors go nowhere from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def is_asked() -> bool:
    """Whether this process was asked to stop."""
    return bool(_requests)


def stop_if_asked() -> None:
    """Raise Stopped where any process of the run was asked to stop; all of them call it."""
    if int(global_max(is_asked())):
        raise Stopped("stopped on request; the same command goes on.")
