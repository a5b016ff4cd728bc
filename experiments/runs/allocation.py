"""Memory that a CPU's programs ask the C library for at each step."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
NEVER, MOST_OF_OLD_ONES = 2**31 - 1, 32 * 2**20  # bytes; older versions refuse a larger threshold for maps
NO_TRIMMING = -1  # by the manual; a number of bytes is an int here, at most 2 GiB, and large nets free more


def keep_freed_memory() -> None:
    """Let memory that a step frees stay with the process, where the C library is glibc.

    Else XLA:CPU's arrays go back to the system after each step, which has to clear their pages for the next: an ANN's
    training step of VGG5 at a quarter of the width takes 1.5 times as long. Threads have heaps of 64 MiB and ask the
    system for larger arrays, see `huge_pages`. One heap for all (M_ARENA_MAX) would keep those, too, but small arrays
    that come to lie in the room of a large one leave none for the next: the process would grow by a step's memory again
    and again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, NEVER) or mallopt(M_MMAP_THRESHOLD, MOST_OF_OLD_ONES)):
        mallopt(M_TRIM_THRESHOLD, NO_TRIMMING)
