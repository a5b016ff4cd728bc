"""Question a: the accuracy of the converted net against time steps, thresholds by maximum and by percentile, with
factor 1 and with the factor that serves a number of steps best on the validation split.
"""

import dataclasses

from experiments.convert import FACTORS, balance
from experiments.evaluate import score_ann
from experiments.runs.networks import random_key, stream_keys
from experiments.runs.progress import say
from experiments.runs.workdir import Results, Run
from experiments.study.accuracy import by_step
from experiments.train_ann import trained_ann
from jsnn.conversion import convert, scale_thresholds
from jsnn.datasets import TEST, VALIDATION
from jsnn.simulation import Variables

PERCENTILES = (100.0, 99.7)
SHORT, FACTORS_FOR_SHORT = (8, 16, 32), FACTORS
LONG, FACTORS_FOR_LONG = (64, 128, 256, 512), (0.4, 0.55, 0.7, 0.85, 1.0)  # smaller ones saturate
IMAGES_FOR_SHORT, IMAGES_FOR_LONG = 2048, 512  # of the validation split, on which the factors are chosen


def conversion(run: Run, images: int) -> Results:
    """Accuracies of a run's converted net.

    Args:
        run: the run, its ANN trained.
        images: of the test split that LONG presentations are measured on, the first ones, a multiple of
            eval_batch_size.

    Returns:
        Results by percentile and number of steps, in JSON's types.
    """
    ann = trained_ann(run)
    found = {f"{percentile:g}": _of_percentile(run, ann, percentile, images) for percentile in PERCENTILES}
    return {
        "config": dataclasses.asdict(run.config),
        "ann": {"accuracy": score_ann(run), "accuracy_for_long": score_ann(run, images)},
        "images_for_long": images,
        "percentiles": found,
    }


def _of_percentile(run: Run, ann: Variables, percentile: float, images: int) -> Results:
    config = dataclasses.replace(run.config, percentile=percentile)
    thresholds = balance(run._replace(config=config), ann)
    snn = convert(ann, thresholds)
    found: Results = {
        "thresholds": {layer: float(threshold) for layer, threshold in thresholds.items()},
        "validation": {},
        "test": {},
    }
    for steps, factors, to_choose, to_test in (
        (SHORT, FACTORS_FOR_SHORT, IMAGES_FOR_SHORT, None),
        (LONG, FACTORS_FOR_LONG, IMAGES_FOR_LONG, images),
    ):
        validation = _sweep(run, snn, steps, factors, to_choose)
        found["validation"] |= validation
        found["test"] |= _test(run, snn, validation, to_test)
    say(f"percentile {percentile:g}: {found['test']}")
    return found


def _test(run: Run, snn: Variables, validation: dict[str, dict[str, float]], images: int | None) -> Results:
    """Number of steps -> accuracies on the test split with factor 1 and with the factor that validation chooses."""
    chosen = {steps: max(scores, key=lambda f: (scores[f], float(f))) for steps, scores in validation.items()}
    (key,) = stream_keys(run.config, TEST, 1)
    by_factor = {}
    for factor in {"1", *chosen.values()}:
        longest = max(int(steps) for steps in chosen if factor in ("1", chosen[steps]))
        by_factor[factor] = by_step(run, scale_thresholds(snn, float(factor)), longest, TEST, key, images)
    return {
        steps: {
            "factor_1": by_factor["1"][int(steps) - 1],
            "factor": float(factor),
            "chosen": by_factor[factor][int(steps) - 1],
        }
        for steps, factor in chosen.items()
    }


def _sweep(
    run: Run, snn: Variables, steps: tuple[int, ...], factors: tuple[float, ...], images: int
) -> dict[str, dict[str, float]]:
    """Number of steps -> factor -> accuracy on the validation split, or its first images."""
    found: dict[str, dict[str, float]] = {str(num_steps): {} for num_steps in steps}
    key = random_key(run.config, VALIDATION)
    for factor in factors:
        accuracies = by_step(run, scale_thresholds(snn, factor), max(steps), VALIDATION, key, images)
        for num_steps in steps:
            found[str(num_steps)][f"{factor:g}"] = accuracies[num_steps - 1]
    return found
