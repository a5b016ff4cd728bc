"""Stopping on request: the first SIGTERM or SIGINT asks a run to save and stop, a second one ends it at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jsnn.training.hosts import global_max

STOPPED = 75  # exit status: EX_TEMPFAIL of sysexits.h, the same command goes on later

_requests: list[int] = []  # signals received by this process


class Stopped(Exception):
    """The run was asked to stop and has done so."""


@contextmanager
def on_signals() -> Iterator[None]:
    """Take SIGTERM and SIGINT as requests to stop."""

    def take(number: int, frame: FrameType | None) -> None:
        del frame
        if _requests:
            os._exit(128 + number)
        _requests.append(number)

    before = {number: signal.signal(number, take) for number in (signal.SIGTERM, signal.SIGINT)}
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
