"""The data of a config, split by split; and whether the config fits them and this machine."""

from functools import cache
from importlib import import_module

import jax
import numpy as np

from experiments.fields import Config
from experiments.machine import host_bytes, this_machine
from experiments.networks import init_variables
from jsnn.data.datasets import TEST, TRAIN, VALIDATION, info, load_split, open_split
from jsnn.data.sources import Source, resident_source
from jsnn.training.parallel import check_batch_size, replicate
from jsnn.training.step import check_parts

BYTES_PER_WEIGHT = 12  # the weight, its gradient and its momentum
_loaded = cache(load_split)  # splits that are evaluated are read once: arrays of a user's own may take long


def import_data_module(config: Config) -> None:
    """Import the module that registers the user's own data sets, if there is one; ValueError where it can't be."""
    if config.run.data_module:
        try:
            import_module(config.run.data_module)
        except ImportError as error:
            raise ValueError(f"data_module {config.run.data_module!r} can't be imported: {error}.") from error


def check_fits(config: Config) -> None:
    """Refuse a config whose network can't take the images or is too large, or whose batches can't be split evenly."""
    check_batch_size(config.data.batch_size, "batch_size")
    check_parts(config.data.batch_size // jax.device_count(), config.run.accumulate)
    check_batch_size(config.run.eval_batch_size, "eval_batch_size")
    images, processes = config.convert.balance_images, jax.process_count()
    if images % processes:
        raise ValueError(f"balance_images must be a multiple of {processes}, the number of processes, got {images}.")
    shapes = jax.eval_shape(lambda: init_variables(config, "init"))
    needed = BYTES_PER_WEIGHT * sum(leaf.size for leaf in jax.tree.leaves(shapes))
    memory = this_machine().device_bytes or host_bytes()
    if needed > memory:
        sizes = f"{needed / 1e9:.0f} GB, of {memory / 1e9:.0f} GB that are there"
        raise ValueError(f"training the network's weights takes {sizes}: choose a smaller width or hidden.")


@cache
def open_source(config: Config, split: str) -> Source:
    """A split of the config's data set, read once and held on the devices; filled with zeros, so that programs fit."""
    data, run = config.data, config.run
    if info(data.dataset).streamed:
        from jsnn.data.streaming import streamed_source  # grain takes a second to import, and only streams need it

        return streamed_source(data.dataset, split, run.data_dir, run.workers)
    if split == TRAIN:
        source = resident_source(load_split(data.dataset, split, run.data_dir), data.crop_padding, data.flip)
        return source._replace(resident=replicate(source.resident))
    source = resident_source(_loaded(data.dataset, split, run.data_dir))
    missing = evaluated_images(config) - source.num_examples
    filled = jax.tree.map(lambda x: np.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)]), source.resident)
    return source._replace(resident=replicate(filled))


@cache
def evaluated_images(config: Config) -> int:
    """The images of the larger one of the splits that are evaluated."""
    name, folder = config.data.dataset, config.run.data_dir
    if callable(info(name).origin):
        return max(len(_loaded(name, split, folder).labels) for split in (VALIDATION, TEST))
    return max(len(open_split(name, split, folder)) for split in (VALIDATION, TEST))


def steps_per_epoch(config: Config) -> int:
    """Optimiser steps in an epoch, of full batches; ValueError where a batch is larger than the training split."""
    num_examples, batch_size = open_source(config, TRAIN).num_examples, config.data.batch_size
    if num_examples < batch_size:
        problem = f"a batch of {batch_size} is larger than the training split of {num_examples} images"
        raise ValueError(f"{problem}: choose a smaller batch_size.")
    return num_examples // batch_size
