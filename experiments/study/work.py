"""What the runs of the study do, and how far they go.

Those that serve a choice end with the fine-tune and never see the test split.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import jax
import jax.numpy as jnp

from experiments.config import with_fields
from experiments.convert import FACTORS, balance, scaled_snn
from experiments.finetune import last_snn, starting_snn
from experiments.hybrid import up_to
from experiments.networks import build_snn, random_key, scaled, stream_keys
from experiments.runs.data import open_source
from experiments.runs.progress import say
from experiments.runs.workdir import Results, Run, read_results
from experiments.scoring import score_ann, score_snn
from experiments.study.gradients import agreement, descent, silent_neurons
from experiments.train_ann import trained_ann
from jsnn.conversion import convert, paper_thresholds
from jsnn.data.augment import scale
from jsnn.data.datasets import TEST, VALIDATION
from jsnn.network.transformation import Variables

# Question a: thresholds by the maximum and by a percentile; numbers of steps, and factors for them, chosen on so many
# images of the validation split.
PERCENTILES = (100.0, 99.7)
SHORT, FACTORS_FOR_SHORT, IMAGES_FOR_SHORT = (8, 16, 32), FACTORS, 2048
LONG, FACTORS_FOR_LONG, IMAGES_FOR_LONG = (64, 128, 256, 512), (0.4, 0.55, 0.7, 0.85, 1.0), 512  # smaller ones saturate


def as_far_as(stage: str, run: Run) -> Results:
    """The pipeline up to a stage."""
    up_to(stage, run)
    return read_results(run.directory)


def ann_tested(run: Run) -> Results:
    """The ANN alone, with its accuracy on the test split."""
    results = as_far_as("train_ann", run)
    return results | {"ann": results["ann"] | {"accuracy": score_ann(run.config, trained_ann(run), TEST)}}


def tested(run: Run) -> Results:
    """The whole pipeline, with the test split, and spikes per pixel and step that its images are encoded into."""
    source = open_source(run.config, TEST)
    images = jnp.asarray(source.resident.images)[: source.num_examples]
    return as_far_as("evaluate", run) | {"input_rate": float(jnp.abs(scale(images)).mean())}


def validated(run: Run) -> Results:
    """The pipeline up to the fine-tune, and validation accuracies of the nets before it and after its last epoch.

    They are of several streams. Nothing was chosen on these; the factor was, by another, on half of the images.
    """
    results, config = as_far_as("finetune", run), run.config
    nets = {"converted": scaled_snn(run), "hybrid": last_snn(run)}
    score = partial(score_snn, config, num_steps=config.convert.num_steps, split=VALIDATION)
    keys = stream_keys(config, VALIDATION, config.evaluate.streams)
    streams = {name: [float(score(snn, key=key).accuracy[-1]) for key in keys] for name, snn in nets.items()}
    return results | {"streams": streams}


def explained(run: Run) -> Results:
    """The pipeline up to the conversion, and what steps along each surrogate's gradient would do."""
    return as_far_as("convert", run) | {"descent": descent(run)}


def diagnosed(run: Run) -> Results:
    """As `validated`, and which neurons never fire and how far batches agree, before the fine-tune and after it."""
    results, nets = validated(run), {"before": starting_snn(run), "after": last_snn(run)}
    silent = {name: silent_neurons(run.config, snn) for name, snn in nets.items()}
    return results | {"silence": silent, "agreement": {name: agreement(run, snn) for name, snn in nets.items()}}


def conversion(images: int, run: Run) -> Results:
    """Accuracies of the converted net by percentile and number of steps, on so many test images for LONG ones."""
    ann, results = trained_ann(run), {}
    for percentile in PERCENTILES:
        config = with_fields(run.config, {"convert.percentile": percentile})
        thresholds = balance(run._replace(config=config), ann)
        snn = convert(build_snn(config), ann, thresholds)
        short, on_short = by_steps(run, snn, SHORT, FACTORS_FOR_SHORT, range(IMAGES_FOR_SHORT), None)
        long, on_long = by_steps(run, snn, LONG, FACTORS_FOR_LONG, range(IMAGES_FOR_LONG), range(images))
        by_layer = {layer: float(value) for layer, value in paper_thresholds(thresholds).items()}
        of_percentile = {"thresholds": by_layer, "validation": short | long, "test": on_short | on_long}
        results[f"{percentile:g}"] = of_percentile
        say(f"percentile {percentile:g}: {of_percentile['test']}")
    of_ann = partial(score_ann, run.config, ann, TEST)
    scores = {"accuracy": of_ann(), "accuracy_for_long": of_ann(range(images))}
    return {"config": asdict(run.config), "ann": scores, "images_for_long": images, "percentiles": results}


def by_steps(
    run: Run, snn: Variables, steps: Sequence[int], factors: Sequence[float], chosen_on: range, tested_on: range | None
) -> tuple[Results, Results]:
    """Number of steps -> accuracies by factor on validation images, and on test images with factor 1 and the best."""

    def accuracies(factor: float, split: str, key: jax.Array, images: range | None) -> list[float]:
        net = scaled(run.config, snn, factor)
        return score_snn(run.config, net, max(steps), split, key, images=images).accuracy.tolist()

    key, (of_test, *_) = random_key(run.config, VALIDATION), stream_keys(run.config, TEST, 1)
    tried = {factor: accuracies(factor, VALIDATION, key, chosen_on) for factor in factors}
    best = {t: max(factors, key=lambda factor: (tried[factor][t - 1], factor)) for t in steps}
    tests = {factor: accuracies(factor, TEST, of_test, tested_on) for factor in {1.0, *best.values()}}
    validation = {str(t): {f"{factor:g}": curve[t - 1] for factor, curve in tried.items()} for t in steps}
    return validation, {
        str(t): {"factor_1": tests[1.0][t - 1], "factor": factor, "chosen": tests[factor][t - 1]}
        for t, factor in best.items()
    }
