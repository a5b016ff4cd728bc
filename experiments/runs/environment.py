"""What a run ran on: code, versions, machine and devices."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> dict[str, object]:
    """The commit, versions of Python and the packages that results depend on, the machine and the devices."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
    }


def _commit() -> str | None:
    """The commit of the checkout that this file is part of, with "-dirty" where files are changed, if it is one."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.check_output(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
