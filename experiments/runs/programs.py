"""How programs are compiled, and what memory they ask the C library for."""

import ctypes
import os
import sys
from functools import cache

import jax

LESS_EFFORT = "--xla_backend_optimization_level=1"  # on a CPU the numbers stay the same, to the bit
COMPILED = "/jax/core/compile/backend_compile_duration"  # an event of jax: a program is compiled, and not called yet
LONG = 1.0  # seconds of compiling after which there is memory to give back
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MOST = 2**31 - 1, 32 * 2**20  # bytes that are kept; older versions of glibc refuse the first
NO_TRIMMING = -1


def set_compiler(effort: str, folder: str | None) -> None:
    """Choose how much the compiler does, if the user's own flags don't, and a folder that keeps its programs."""
    flags = os.environ.get("XLA_FLAGS", "")
    if effort == "less" and LESS_EFFORT not in flags:
        os.environ["XLA_FLAGS"] = f"{LESS_EFFORT} {flags}".strip()
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def keep_freed_memory() -> None:
    """Let memory that a step frees stay with the process, where the C library is glibc.

    Else XLA:CPU's arrays go back to the system after each step, which clears their pages for the next: a training step
    of the ANN of `cifar10_cpu` takes 1.5 times as long.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None and any(set_option(M_MMAP_THRESHOLD, size) for size in MOST):
        set_option(M_TRIM_THRESHOLD, NO_TRIMMING)


@cache
def return_memory() -> None:
    """Give the system back what compiling took, where the C library is glibc, which keeps what XLA frees.

    At 64 images and T = 4 that is a third of a training step's peak for VGG5. Further calls change nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

    def after(event: str, duration: float, **_: object) -> None:
        if event == COMPILED and duration > LONG:
            trim(0)

    if trim is not None:
        jax.monitoring.register_event_duration_secs_listener(after)
