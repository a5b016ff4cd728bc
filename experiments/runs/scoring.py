"""Networks scored on a split of the data, by programs that all networks of a run share."""

from collections.abc import Callable
from functools import cache

import jax

from experiments.config import Config
from experiments.runs.networks import build_ann, open_source, presentation_of, random_key
from experiments.runs.progress import watcher
from jsnn.datasets import VALIDATION
from jsnn.simulation import Variables
from jsnn.sources import Source, first_images
from jsnn.training.evaluation import Evaluate, Evaluation, ann_evaluation, snn_evaluation
from jsnn.training.parallel import evaluate_split, parallel_evaluation


def score(
    config: Config, evaluate: Evaluate, variables: Variables, source: Source, key: jax.Array, label: str
) -> Evaluation:
    """Means over a split, by a compiled evaluation, with a progress bar."""
    batch_size = config.run.eval_batch_size
    watch = watcher(label, -(-source.num_examples // batch_size))  # the last batch is padded
    return evaluate_split(evaluate, variables, source, batch_size, key, watch)


def score_ann(config: Config, variables: Variables, split: str, images: int | None = None) -> float:
    """The share of the images of a split, or of its first ones, that an ANN classifies correctly."""
    source = first_images(open_source(config, split), images)
    scores = score(config, ann_program(config, split), variables, source, random_key(config, split), "ann")
    return float(scores.accuracy[-1])


def score_snn(
    config: Config,
    variables: Variables,
    num_steps: int,
    split: str,
    key: jax.Array,
    images: int | None = None,
    *,
    label: str | None = None,
) -> Evaluation:
    """Scores of one stream of noise after each of `num_steps` time steps, on a split or its `first_images`."""
    source = first_images(open_source(config, split), images)
    return score(config, snn_program(config, num_steps, split), variables, source, key, label or split)


def validator(config: Config, evaluate: Evaluate) -> Callable[[Variables], float]:
    """Accuracy of variables on the validation split after the last step, by a program for that split."""
    source, key = open_source(config, VALIDATION), random_key(config, "validation")
    return lambda variables: float(score(config, evaluate, variables, source, key, "validation").accuracy[-1])


@cache
def ann_program(config: Config, split: str) -> Evaluate:
    """The compiled evaluation of a batch by the ANN."""
    return parallel_evaluation(ann_evaluation(build_ann(config), open_source(config, split)))


@cache
def snn_program(config: Config, num_steps: int, split: str) -> Evaluate:
    """The compiled evaluation of a batch by SNNs."""
    return parallel_evaluation(snn_evaluation(presentation_of(config, num_steps), open_source(config, split)))
