"""Question a: the accuracy of the converted net against time steps, thresholds by maximum and by percentile, with
factor 1 and with the factor that serves a number of steps best on the validation split.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

from experiments.convert import FACTORS, balance
from experiments.runs.networks import build_snn, random_key, scaled, stream_keys
from experiments.runs.progress import say
from experiments.runs.schema import Results
from experiments.runs.scoring import score_ann, score_snn
from experiments.runs.workdir import Run
from experiments.train_ann import trained_ann
from jsnn.conversion import convert, paper_thresholds
from jsnn.data.datasets import TEST, VALIDATION
from jsnn.network.transformation import Variables

PERCENTILES = (100.0, 99.7)
SHORT, FACTORS_FOR_SHORT = (8, 16, 32), FACTORS
LONG, FACTORS_FOR_LONG = (64, 128, 256, 512), (0.4, 0.55, 0.7, 0.85, 1.0)  # smaller ones saturate
IMAGES_FOR_SHORT, IMAGES_FOR_LONG = 2048, 512  # of the validation split, on which the factors are chosen


def conversion(run: Run, images: int) -> Results:
    """Accuracies of the converted net by percentile and number of steps, on so many test images for LONG ones."""
    of_ann = partial(score_ann, run.config, trained_ann(run), TEST)
    ann = {"accuracy": of_ann(), "accuracy_for_long": of_ann(range(images))}
    by_percentile = {f"{percentile:g}": _of_percentile(run, percentile, images) for percentile in PERCENTILES}
    return {"config": asdict(run.config), "ann": ann, "images_for_long": images, "percentiles": by_percentile}


def _of_percentile(run: Run, percentile: float, images: int) -> Results:
    config, ann = replace(run.config, convert=replace(run.config.convert, percentile=percentile)), trained_ann(run)
    thresholds = balance(run._replace(config=config), ann)
    snn = convert(build_snn(config), ann, thresholds)
    by_layer = {layer: float(value) for layer, value in paper_thresholds(thresholds).items()}
    short = _sweep(run, snn, SHORT, FACTORS_FOR_SHORT, IMAGES_FOR_SHORT)
    long = _sweep(run, snn, LONG, FACTORS_FOR_LONG, IMAGES_FOR_LONG)
    test = on_test(run, snn, short, None) | on_test(run, snn, long, images)
    say(f"percentile {percentile:g}: {test}")
    return {"thresholds": by_layer, "validation": short | long, "test": test}


def on_test(run: Run, snn: Variables, validation: dict[str, dict[str, float]], images: int | None) -> Results:
    """Number of steps -> accuracies on the test split with factor 1 and with the factor that validation chooses."""
    chosen = {steps: max(scores, key=lambda f: (scores[f], float(f))) for steps, scores in validation.items()}
    (key,), curves = stream_keys(run.config, TEST, 1), {}
    for factor in {"1", *chosen.values()}:
        longest = max(int(steps) for steps in chosen if factor in ("1", chosen[steps]))
        net, part = scaled(run.config, snn, float(factor)), range(images) if images else None
        curves[factor] = score_snn(run.config, net, longest, TEST, key, images=part).accuracy.tolist()
    return {
        t: {"factor_1": curves["1"][int(t) - 1], "factor": float(factor), "chosen": curves[factor][int(t) - 1]}
        for t, factor in chosen.items()
    }


def _sweep(run: Run, snn: Variables, steps: Sequence[int], factors: Sequence[float], images: int) -> Results:
    """Number of steps -> factor -> accuracy on the first images of the validation split."""
    score = partial(score_snn, run.config, num_steps=max(steps), split=VALIDATION, images=range(images))
    key = random_key(run.config, VALIDATION)
    curves = {f"{factor:g}": score(scaled(run.config, snn, factor), key=key).accuracy.tolist() for factor in factors}
    return {str(t): {factor: curve[t - 1] for factor, curve in curves.items()} for t in steps}
