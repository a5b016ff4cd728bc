"""What programs run on: devices, their memory, and their part of a batch."""

import os
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import jax

from experiments.fields import Config

# Of a device's memory, what the largest layer's currents may take in a chunk: a training step holds some tens of such
# arrays beside spikes and weights, an evaluation a few.
TRAINING_SHARE, EVALUATION_SHARE = 1 / 256, 1 / 32


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


def training_samples(config: Config, machine: Machine) -> int:
    """Samples that a device trains on at once."""
    return config.data.batch_size // machine.num_devices // config.run.accumulate


def evaluation_samples(config: Config, machine: Machine) -> int:
    """Samples that a device evaluates at once."""
    return config.run.eval_batch_size // machine.num_devices
