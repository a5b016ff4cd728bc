"""Whether a config fits the devices, the processes and the memory that are there."""

import math

import jax

from experiments.fields import Config
from experiments.runs.machine import host_bytes, this_machine
from experiments.runs.networks import init_variables
from jsnn.training.parallel import check_batch_size
from jsnn.training.step import check_parts

BYTES_PER_WEIGHT = 12  # the weight, its gradient and its momentum


def check_fits(config: Config) -> None:
    """Refuse a config whose network can't take the images or whose batches don't divide by the devices or processes.

    Raises:
        ValueError: naming what does not fit.
    """
    check_batch_size(config.data.batch_size, "batch_size")
    check_parts(config.data.batch_size // jax.device_count(), config.run.accumulate)
    check_batch_size(config.run.eval_batch_size, "eval_batch_size")
    images, processes = config.convert.balance_images, jax.process_count()
    if images % processes:
        raise ValueError(
            f"balance_images {images} can't be split evenly over {processes} processes: "
            f"choose a multiple of {processes}."
        )
    shapes = jax.eval_shape(lambda: init_variables(config, "init"))
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    memory = this_machine().device_bytes or host_bytes()
    needed = BYTES_PER_WEIGHT * weights
    if needed > memory:
        raise ValueError(
            f"the network has {weights:.2g} weights, which training takes {needed / 1e9:.0f} GB for, of "
            f"{memory / 1e9:.0f} GB that are there: choose a smaller width or hidden."
        )
