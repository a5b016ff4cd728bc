"""A split of the data presented to spiking networks, by a program that all networks of a run share."""

from collections.abc import Callable
from functools import cache, partial
from itertools import islice
from typing import Any

import jax

from experiments.config import Config
from experiments.runs.networks import build_snn, chunk_of, encoding_of, num_batches, open_source
from experiments.runs.progress import watcher
from jsnn.training.evaluation import Evaluation, evaluate_snn
from jsnn.training.parallel import evaluate_split, parallel_evaluation
from jsnn.simulation import Variables
from jsnn.sources import Source


def present(
    config: Config,
    variables: Variables,
    num_steps: int,
    split: str,
    key: jax.Array,
    label: str,
    images: int | None = None,
) -> Evaluation:
    """Scores of one stream of noise, after each time step.

    Args:
        config: whose network and data they are.
        variables: SNN variables.
        num_steps: T, how many steps.
        split: of the data.
        key: of the noise.
        label: of the progress that is shown.
        images: how many of the split, its first ones, a multiple of eval_batch_size; None, or more than it has, is all.

    Returns:
        Evaluation of means.

    Raises:
        ValueError: where the images do not fill batches.
    """
    source = open_source(config, split)
    if images is not None:
        source = beginning(source, images)
    watch = watcher(label, num_batches(config, source))
    return evaluate_split(_program(config, num_steps, split), variables, source, config.run.eval_batch_size, key, watch)


def beginning(source: Source, images: int) -> Source:
    """The first images of a split.

    Args:
        source: of the split.
        images: how many; all where it has no more. Fewer than all must fill batches.

    Returns:
        A Source of them, which raises ValueError where its batches are not filled.
    """
    if images >= source.num_examples:
        return source

    def in_order(batch_size: int) -> Any:
        if images % batch_size:
            raise ValueError(f"{images} images do not fill batches of {batch_size}: choose another eval_batch_size.")
        return islice(source.in_order(batch_size), images // batch_size)

    return source._replace(num_examples=images, in_order=in_order)


@cache
def _program(config: Config, num_steps: int, split: str) -> Callable[..., Evaluation]:
    """The compiled evaluation of a batch."""
    source, chunk = open_source(config, split), chunk_of(config, num_steps)
    return parallel_evaluation(partial(evaluate_snn, build_snn(config), encoding_of(config), num_steps, chunk, source))
