"""Memory on a CPU: what one training step frees, the next one takes."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed() -> None:
    """Keep freed memory in this process, where its malloc is glibc's; elsewhere change nothing.

    The buffers of a training step glibc returns to the kernel when they are freed: those above 32 MiB at once, those of
    XLA's threads with the last one in a heap of 64 MiB. Each step then waits until the kernel has cleared their pages
    anew, which a virtual machine may be slow at.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 1)  # all threads have one heap
        libc.mallopt(M_MMAP_MAX, 0)  # ... which large blocks come from, too
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # ... and which never shrinks
