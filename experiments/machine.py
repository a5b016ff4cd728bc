"""What programs run on: devices and their memory; code, versions and machine of a result."""

import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")  # that results depend on


class Machine(NamedTuple):
    """The devices that programs run on, or are compiled for."""

    devices: Sequence[jax.Device] | None  # None for all that jax has
    num_devices: int
    device_bytes: int | None  # memory of each; None for a CPU


@cache
def this_machine() -> Machine:
    """The devices that jax has."""
    stats = jax.local_devices()[0].memory_stats()
    return Machine(None, jax.device_count(), stats["bytes_limit"] if stats else None)


def host_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def environment() -> dict[str, object]:
    """The commit, "-dirty" where files are changed, versions of Python and packages, the machine and the devices."""
    try:
        folder, command = Path(__file__).parent, ["git", "describe", "--always", "--dirty", "--exclude=*"]
        commit = subprocess.check_output(command, cwd=folder, stderr=subprocess.DEVNULL, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None  # these files are no checkout
    return {
        "commit": commit,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
    }
