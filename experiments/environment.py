"""What a run ran on: versions and devices."""

import platform
from importlib.metadata import version

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> dict[str, object]:
    """Versions of Python and the packages that results depend on, and the devices."""
    return {
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
    }
