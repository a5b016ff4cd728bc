"""The data of a config, split by split."""

from functools import cache
from importlib import import_module

import jax
import numpy as np

from experiments.fields import Config
from jsnn.data.datasets import TEST, TRAIN, VALIDATION, Split, info, load_split, open_split
from jsnn.data.sources import Source, resident_source
from jsnn.training.parallel import replicate


def import_data_module(config: Config) -> None:
    """Import the module that registers the user's own data sets, if there is one; ValueError where it can't be."""
    if config.run.data_module:
        try:
            import_module(config.run.data_module)
        except ImportError as error:
            raise ValueError(f"data_module {config.run.data_module!r} can't be imported: {error}.") from error


@cache
def open_source(config: Config, split: str) -> Source:
    """A split of the config's data set, read once and held on the devices where it fits.

    What is evaluated is held in arrays of `evaluated_images`, filled up with zeros, so that programs are shared.
    """
    data, run = config.data, config.run
    if info(data.dataset).streamed:
        from jsnn.data.streaming import streamed_source  # grain takes a second to import, and only streams need it

        return streamed_source(data.dataset, split, run.data_dir, run.workers)
    if split == TRAIN:
        source = resident_source(load_split(data.dataset, split, run.data_dir), data.crop_padding, data.flip)
        return source._replace(resident=replicate(source.resident))
    source = resident_source(_evaluated(config, split))
    missing = evaluated_images(config) - source.num_examples
    filled = jax.tree.map(lambda x: np.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)]), source.resident)
    return source._replace(resident=replicate(filled))


@cache
def _evaluated(config: Config, split: str) -> Split:
    """A split that is evaluated, read once though its size is asked for, too: arrays of a user's own may take long."""
    return load_split(config.data.dataset, split, config.run.data_dir)


@cache
def evaluated_images(config: Config) -> int:
    """The images of the larger one of the splits that are evaluated."""
    name, folder = config.data.dataset, config.run.data_dir
    if callable(info(name).origin):
        return max(len(_evaluated(config, split).labels) for split in (VALIDATION, TEST))
    return max(len(open_split(name, split, folder)) for split in (VALIDATION, TEST))


def steps_per_epoch(config: Config) -> int:
    """Optimiser steps in an epoch, of full batches; ValueError where a batch is larger than the training split."""
    num_examples, batch_size = open_source(config, TRAIN).num_examples, config.data.batch_size
    if num_examples < batch_size:
        raise ValueError(
            f"a batch of {batch_size} is larger than the training split of {num_examples} images: "
            "choose a smaller batch_size."
        )
    return num_examples // batch_size


def check_data(config: Config) -> None:
    """Read the training images and open what is read later, so that bad data are refused before anything is written.

    Raises:
        ValueError: as `steps_per_epoch` and `jsnn.data.datasets.open_split`.
    """
    steps_per_epoch(config)
    if not callable(info(config.data.dataset).origin):
        for split in (VALIDATION, TEST):
            open_split(config.data.dataset, split, config.run.data_dir)
