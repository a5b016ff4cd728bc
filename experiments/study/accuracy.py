"""Accuracies that the study measures beside those of the runs."""

from collections.abc import Callable
from functools import cache, partial
from itertools import islice
from typing import Any

import jax

from experiments.config import Config
from experiments.convert import chosen_factor, converted_snn
from experiments.finetune import last_snn
from experiments.networks import build_snn, chunk_of, encoding_of, open_source, random_key
from experiments.workdir import Run
from jsnn.conversion import scale_thresholds
from jsnn.datasets import VALIDATION
from jsnn.evaluation import Evaluation, evaluate_snn
from jsnn.parallel import evaluate_split, parallel_evaluation
from jsnn.simulation import Variables
from jsnn.sources import Source


def over_streams(run: Run) -> dict[str, list[float]]:
    """Accuracies on the validation split at num_steps, one for each of several streams of noise.

    No choice was made on these streams, so that the best of many factors has no advantage on them.

    Args:
        run: the run, its net fine-tuned.

    Returns:
        {"converted": accuracies of the converted net at its factor, "hybrid": of the net after the last epoch}.
    """
    converted = scale_thresholds(converted_snn(run), chosen_factor(run))
    nets = {"converted": converted, "hybrid": last_snn(run)}
    key, num_steps = random_key(run.config, VALIDATION), run.config.num_steps
    streams = [jax.random.fold_in(key, stream) for stream in range(run.config.streams)]
    return {
        net: [_by_step(run, snn, num_steps, VALIDATION, stream)[-1] for stream in streams] for net, snn in nets.items()
    }


def by_step(run: Run, snn: Variables, num_steps: int, split: str, images: int | None = None) -> list[float]:
    """Accuracy after each of several time steps.

    Args:
        run: whose data and network they are.
        snn: SNN variables.
        num_steps: how many steps.
        split: of the data.
        images: how many of the split, its first ones, a multiple of eval_batch_size; None is all.

    Returns:
        An accuracy for each step.
    """
    return _by_step(run, snn, num_steps, split, random_key(run.config, split), images)


def _by_step(
    run: Run, snn: Variables, num_steps: int, split: str, key: jax.Array, images: int | None = None
) -> list[float]:
    present, source = _presentation(run.config, num_steps, split, images)
    scores = evaluate_split(present, snn, source, run.config.eval_batch_size, key)
    return [round(float(value), 5) for value in scores.accuracy]


@cache
def _presentation(
    config: Config, num_steps: int, split: str, images: int | None
) -> tuple[Callable[..., Evaluation], Source]:
    """The compiled evaluation, and the images that it is for."""
    source = open_source(config, split)
    if images is not None and images < source.num_examples:
        source = _beginning(source, images)
    chunk = chunk_of(config, num_steps)
    present = partial(evaluate_snn, build_snn(config), encoding_of(config), num_steps, chunk, source)
    return parallel_evaluation(present), source


def _beginning(source: Source, images: int) -> Source:
    """The first images of a split, a multiple of the batch."""

    def in_order(batch_size: int) -> Any:
        if images % batch_size:
            raise ValueError(f"{images} images do not fill batches of {batch_size}: choose another eval_batch_size.")
        return islice(source.in_order(batch_size), images // batch_size)

    return source._replace(num_examples=images, in_order=in_order)
