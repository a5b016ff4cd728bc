"""Memory that a CPU's programs ask the C library for at each step."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let memory that a step frees stay with the process, where the C library is glibc.

    Else XLA:CPU's arrays go back to the system after each step, which has to clear their pages for the next: a training
    step of a small network takes twice as long.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, NEVER)
        mallopt(M_TRIM_THRESHOLD, NEVER)
