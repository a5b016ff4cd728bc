"""Huge pages, which a CPU's programs get from the C library where the environment asks for them."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import jax

VARIABLE, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
SINCE = 2, 35  # of glibc
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # of Linux; the choice is in brackets


def asking(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process that asks for huge pages, beside its other tunables; a choice made before stays."""
    tunables = variables.get(VARIABLE, "")
    if TUNABLE in tunables:
        return dict(variables)
    return {**variables, VARIABLE: ":".join(filter(None, (tunables, f"{TUNABLE}=1")))}


def advice() -> str | None:
    """What to put before a command that trains, on a CPU under Linux where huge pages are for those who ask.

    Large arrays that a step frees go back to the system, which clears their pages for the next: with pages of 2 MiB
    instead of 4 KiB a training step of T = 4 takes 0.75 to 0.85 of the time.
    """
    library, number = platform.libc_ver()
    takes_it = library == "glibc" and tuple(map(int, number.split("."))) >= SINCE
    on_demand = takes_it and SETTING.exists() and "[madvise]" in SETTING.read_text(encoding="utf-8")
    value = asking(os.environ)[VARIABLE]
    if not on_demand or value == os.environ.get(VARIABLE) or jax.default_backend() != "cpu":
        return None
    return f"note: {VARIABLE}={value} before a command makes its training steps faster"
