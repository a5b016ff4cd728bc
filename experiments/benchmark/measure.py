"""Seconds and memory of this process."""

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
KIB = 1024
TOO_MUCH = 77  # exit status of a process that was stopped because it took more memory than it may
WATCH_EVERY = 0.05  # seconds


def resident_bytes() -> int:
    """What this process has in memory now (Linux)."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most that this process had in memory since `forget_peak` (Linux)."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the peak begin anew at what is in memory now."""
    CLEAR.write_text("5")


def device_peak_bytes(device: str) -> int | None:
    """The most that this process had in the accelerator's memory; None on a CPU.

    Args:
        device: "cpu" or "cuda".
    """
    if device == "cpu":
        return None
    if "torch" in sys.modules and "jax" not in sys.modules:
        return sys.modules["torch"].cuda.max_memory_allocated()
    return sys.modules["jax"].local_devices()[0].memory_stats()["peak_bytes_in_use"]


def limit_memory(most: int) -> None:
    """End this process, with status TOO_MUCH, as soon as it has more than `most` bytes in memory.

    Left alone it would drive the machine out of memory, and the system would end whatever it likes.
    """

    def watch() -> None:
        while resident_bytes() < most:
            time.sleep(WATCH_EVERY)
        os._exit(TOO_MUCH)

    threading.Thread(target=watch, daemon=True).start()


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def repeated(call: Callable[[], object], budget: float) -> list[float]:
    """Seconds of each of several calls, one at least, until the budget of seconds is spent."""
    durations = [seconds_of(call)]
    while sum(durations) < budget:
        durations.append(seconds_of(call))
    return durations


def machine_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _status(field: str) -> int:
    return int(re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE).group(1)) * KIB
