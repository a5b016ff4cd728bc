"""How programs are compiled, and what memory they ask the C library for."""

import ctypes
import os
import sys

import jax

LESS_EFFORT = "--xla_backend_optimization_level=1"  # on a CPU the numbers stay the same, to the bit
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, NO_TRIMMING = -1, -3, -1  # of glibc's malloc.h
MOST = 2**31 - 1, 32 * 2**20  # bytes that are kept; older versions of glibc refuse the first


def set_compiler(effort: str, folder: str | None) -> None:
    """Choose how much the compiler does, if the user's own flags don't, and a folder that keeps its programs."""
    flags = os.environ.get("XLA_FLAGS", "")
    if effort == "less" and LESS_EFFORT not in flags:
        os.environ["XLA_FLAGS"] = f"{LESS_EFFORT} {flags}".strip()
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def keep_freed_memory() -> None:
    """Let memory that a step frees stay with the process, where the C library is glibc: clearing pages takes time."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None and any(set_option(M_MMAP_THRESHOLD, size) for size in MOST):
        set_option(M_TRIM_THRESHOLD, NO_TRIMMING)
