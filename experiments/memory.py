"""Memory on a CPU: what one training step frees, the next one takes."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed() -> None:
    """Keep freed memory in this process, where its malloc is glibc's; elsewhere change nothing.

    Blocks above 32 MiB, such as the buffers of a training step, glibc returns to the kernel as soon as they are freed.
    Each step then waits until the kernel has cleared their pages anew, which a virtual machine may be slow at.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap, too
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # ... which never shrinks
