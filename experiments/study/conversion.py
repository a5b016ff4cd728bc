"""Question a: the accuracy of the converted net against time steps, thresholds by maximum and by percentile, with
factor 1 and with the factor that serves a number of steps best on the validation split.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from itertools import islice
from typing import Any

from experiments.config import Config
from experiments.convert import FACTORS, balance
from experiments.evaluate import score_ann
from experiments.networks import build_snn, chunk_of, encoding_of, open_source, random_key
from experiments.progress import say
from experiments.train_ann import trained_ann
from experiments.workdir import Results, Run
from jsnn.conversion import convert, scale_thresholds
from jsnn.datasets import TEST, VALIDATION
from jsnn.evaluation import Evaluation, evaluate_snn
from jsnn.parallel import evaluate_split, parallel_evaluation
from jsnn.simulation import Variables
from jsnn.sources import Source

PERCENTILES = (100.0, 99.7)
SHORT = (8, 16, 32)
LONG = (64, 128, 256, 512)
LONG_FACTORS = (0.4, 0.55, 0.7, 0.85, 1.0)  # smaller ones saturate
LONG_IMAGES = 1024  # of the validation split, on which a factor for LONG is chosen


def conversion(run: Run, longest: int) -> Results:
    """Accuracies of a run's converted net.

    Args:
        run: the run, its ANN trained.
        longest: the most time steps; longer presentations are left out.

    Returns:
        Results by percentile and number of steps, in JSON's types.
    """
    ann = trained_ann(run)
    found = {f"{percentile:g}": _of_percentile(run, ann, percentile, longest) for percentile in PERCENTILES}
    return {"config": dataclasses.asdict(run.config), "ann": {"accuracy": score_ann(run)}, "percentiles": found}


def _of_percentile(run: Run, ann: Variables, percentile: float, longest: int) -> Results:
    config = dataclasses.replace(run.config, percentile=percentile)
    thresholds = balance(run._replace(config=config), ann)
    snn = convert(ann, thresholds)
    validation = _sweep(run, snn, tuple(steps for steps in SHORT if steps <= longest), FACTORS, None)
    validation |= _sweep(run, snn, tuple(steps for steps in LONG if steps <= longest), LONG_FACTORS, LONG_IMAGES)
    chosen = {steps: max(scores, key=lambda factor: (scores[factor], factor)) for steps, scores in validation.items()}
    unscaled = _accuracies(run, snn, max(chosen), TEST)
    test: dict[int, dict[str, float]] = {steps: {"factor_1": unscaled[steps - 1]} for steps in chosen}
    for factor in set(chosen.values()):
        these = [steps for steps in chosen if chosen[steps] == factor]
        by_step = unscaled if factor == 1 else _accuracies(run, scale_thresholds(snn, factor), max(these), TEST)
        for steps in these:
            test[steps] |= {"factor": factor, "chosen": by_step[steps - 1]}
    for steps, scores in test.items():
        say(f"percentile {percentile:g}, T={steps}: {scores}")
    return {
        "thresholds": {layer: float(threshold) for layer, threshold in thresholds.items()},
        "validation": _named(validation),
        "test": _named(test),
    }


def _sweep(
    run: Run, snn: Variables, steps: tuple[int, ...], factors: tuple[float, ...], images: int | None
) -> dict[int, dict[float, float]]:
    """Number of steps -> factor -> accuracy on the validation split, or its first images."""
    found: dict[int, dict[float, float]] = {num_steps: {} for num_steps in steps}
    for factor in factors if steps else ():
        by_step = _accuracies(run, scale_thresholds(snn, factor), max(steps), VALIDATION, images)
        for num_steps in steps:
            found[num_steps][factor] = by_step[num_steps - 1]
    return found


def _accuracies(run: Run, snn: Variables, num_steps: int, split: str, images: int | None = None) -> list[float]:
    """Accuracy after each of `num_steps` steps."""
    present, source = _presentation(run.config, num_steps, split, images)
    scores = evaluate_split(present, snn, source, run.config.eval_batch_size, random_key(run.config, split))
    return [round(float(value), 5) for value in scores.accuracy]


@cache
def _presentation(
    config: Config, num_steps: int, split: str, images: int | None
) -> tuple[Callable[..., Evaluation], Source]:
    """The compiled evaluation, and the images that it is for."""
    source = open_source(config, split)
    if images is not None:
        source = _beginning(source, images)
    chunk = chunk_of(config, num_steps)
    present = partial(evaluate_snn, build_snn(config), encoding_of(config), num_steps, chunk, source)
    return parallel_evaluation(present), source


def _beginning(source: Source, images: int) -> Source:
    """The first images of a split."""

    def in_order(batch_size: int) -> Any:
        return islice(source.in_order(batch_size), -(-images // batch_size))

    return source._replace(num_examples=images, in_order=in_order)


def _named(tree: dict) -> dict[str, Any]:
    """With JSON's keys."""
    return {str(key): _named(value) if isinstance(value, dict) else value for key, value in tree.items()}
