"""Stopping on request: the first SIGTERM, SIGINT or SIGHUP asks a run to save and stop, a second ends it at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from jsnn.training.hosts import global_max

GO_ON, SAVE, STOP = range(3)  # what a process asks for after a step; the highest of all is done by all
STOPPED = 75  # exit status: EX_TEMPFAIL of sysexits.h, the same command goes on later

_requests: list[int] = []  # signals that this process has received


class Stopped(Exception):
    """The run was asked to stop and has done so."""


@contextmanager
def on_signals() -> Iterator[None]:
    """Take signals as requests to stop, but SIGHUP where it is ignored, as under nohup."""

    def take(number: int, _: object) -> None:
        if _requests:
            os._exit(128 + number)
        _requests.append(number)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in (number for number in numbers if before[number] != signal.SIG_IGN):
        signal.signal(number, take)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _requests.clear()


def is_asked() -> bool:
    """Whether this process was asked to stop."""
    return bool(_requests)


def stop_if_asked() -> None:
    """Raise Stopped where any process of the run was asked to stop; all of them call it."""
    if int(global_max(is_asked())):
        raise Stopped("stopped on request; the same command goes on.")
