"""Memory that a CPU's programs ask the C library for at each step."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
NEVER, MOST_OF_OLD_ONES = 2**31 - 1, 32 * 2**20  # bytes; older versions refuse a larger threshold for maps


def keep_freed_memory() -> None:
    """Let memory that a step frees stay with the process, where the C library is glibc.

    Else XLA:CPU's arrays go back to the system after each step, which has to clear their pages for the next: a training
    step of a small network takes twice as long. All threads share one heap, for those of their own hold 64 MiB at most
    and hand larger arrays to the system whatever was asked: on two cores without AVX-512 a step of T = 4 takes three
    quarters of the time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, NEVER) or mallopt(M_MMAP_THRESHOLD, MOST_OF_OLD_ONES)):
        mallopt(M_TRIM_THRESHOLD, NEVER)
        mallopt(M_ARENA_MAX, 1)
