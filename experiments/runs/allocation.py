"""Memory that a CPU's programs ask the C library for at each step."""

import ctypes
import sys
from functools import cache

import jax

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
NEVER, MOST_OF_OLD_ONES = 2**31 - 1, 32 * 2**20  # bytes; older versions refuse a larger threshold for maps
COMPILED = "/jax/core/compile/backend_compile_duration"  # jax's event, after a compilation and before the first call
LONG = 1.0  # seconds of compiling after which there is memory to give back


def keep_freed_memory() -> None:
    """Let memory that a step frees stay with the process, where the C library is glibc.

    Else XLA:CPU's arrays go back to the system after each step, which has to clear their pages for the next: a training
    step of a small network takes twice as long. All threads share one heap, for those of their own hold 64 MiB at most
    and hand larger arrays to the system whatever was asked: on two cores a step of T = 4 takes three quarters of the
    time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, NEVER) or mallopt(M_MMAP_THRESHOLD, MOST_OF_OLD_ONES)):
        mallopt(M_TRIM_THRESHOLD, NEVER)
        mallopt(M_ARENA_MAX, 1)


@cache
def return_compilers_memory() -> None:
    """Give the system back what compiling took before a program runs, where the C library is glibc.

    XLA frees it, but the C library keeps it: 0.3 GB of the 0.9 that a training step of VGG5 takes at its peak. Further
    calls change nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

    def after(event: str, duration: float, **_: object) -> None:
        if event == COMPILED and duration > LONG:
            trim(0)

    if trim is not None:
        jax.monitoring.register_event_duration_secs_listener(after)
