"""What compiling costs a run: effort, seconds, memory, and a folder where compiled programs outlive the process."""

import ctypes
import os
import sys
from functools import cache

import jax

PREFIX = "/jax/core/compile/"  # of jax's events: tracing, lowering, compiling
COMPILED = f"{PREFIX}backend_compile_duration"  # of them, that of a program which has not been called yet
LONG = 1.0  # seconds of compiling after which there is memory to give back

LESS_EFFORT = "--xla_backend_optimization_level=1"  # on a CPU the numbers stay the same, to the bit

_durations: list[float] = []  # of this process, in seconds


def take_effort(effort: str) -> None:
    """Choose, before any program is compiled, how much the compiler does; the user's own flags win."""
    if effort == "less" and LESS_EFFORT not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{LESS_EFFORT} {os.environ.get('XLA_FLAGS', '')}".strip()


@cache
def watch() -> None:
    """Begin to count the seconds spent on compiling; further calls change nothing."""

    def count(event: str, duration: float, **_: object) -> None:
        if event.startswith(PREFIX):
            _durations.append(duration)

    jax.monitoring.register_event_duration_secs_listener(count)


def take_seconds() -> float:
    """Seconds spent on tracing, lowering and compiling since `watch` or this was last called."""
    spent = sum(_durations)
    _durations.clear()
    return spent


@cache
def return_memory() -> None:
    """Give the system back what compiling took before a program runs, where the C library is glibc.

    XLA frees it, but the C library keeps it: at 64 images and T = 4 a third of what a training step of VGG5 takes at
    its peak, 0.96 GB. Further calls change nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

    def after(event: str, duration: float, **_: object) -> None:
        if event == COMPILED and duration > LONG:
            trim(0)

    if trim is not None:
        jax.monitoring.register_event_duration_secs_listener(after)


def keep_programs(folder: str | None) -> None:
    """Keep compiled programs in a folder and take them from there, so that a second run starts at once."""
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
