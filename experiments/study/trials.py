"""What a run of the study does, how far it goes, and whose ANN it begins with.

Trials that serve a choice end with the fine-tune and never see the test split.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from experiments.config import with_fields
from experiments.convert import scaled_snn
from experiments.fields import Config
from experiments.finetune import last_snn, starting_snn
from experiments.hybrid import up_to
from experiments.presets import PRESETS
from experiments.recipes import Fields
from experiments.runs.networks import stream_keys
from experiments.runs.records import read_results
from experiments.runs.schema import Results
from experiments.runs.scoring import score_ann, score_snn
from experiments.runs.splits import open_source
from experiments.runs.workdir import Run
from experiments.study.gradients import agreement, descent, silent_neurons
from experiments.train_ann import trained_ann
from jsnn.data.augment import scale
from jsnn.data.datasets import TEST, VALIDATION

SEEDS = (0, 1, 2)


def tested(run: Run) -> Results:
    """The whole pipeline, with the test split, and spikes per pixel and step that its images are encoded into."""
    source = open_source(run.config, TEST)
    images = jnp.asarray(source.resident.images)[: source.num_examples]
    return {**as_far_as("evaluate", run), "input_rate": float(jnp.abs(scale(images)).mean())}


def as_far_as(stage: str, run: Run) -> Results:
    """The pipeline up to a stage."""
    up_to(stage, run)
    return read_results(run.directory)


def ann_tested(run: Run) -> Results:
    """The ANN alone, with its accuracy on the test split."""
    results = as_far_as("train_ann", run)
    return results | {"ann": results["ann"] | {"accuracy": score_ann(run.config, trained_ann(run), TEST)}}


def validated(run: Run) -> Results:
    """The pipeline without its last stage, and accuracies on the validation split."""
    return {**as_far_as("finetune", run), "streams": over_streams(run)}


def over_streams(run: Run) -> dict[str, list[float]]:
    """Validation accuracies of the converted net at its factor and the net after the last epoch, one for each stream.

    No choice was made on these streams; the factor was, by another, on the first half of the images.
    """
    nets, config = {"converted": scaled_snn(run), "hybrid": last_snn(run)}, run.config
    keys = stream_keys(config, VALIDATION, config.evaluate.streams)
    score = partial(score_snn, config, num_steps=config.convert.num_steps, split=VALIDATION)
    return {name: [float(score(snn, key=key).accuracy[-1]) for key in keys] for name, snn in nets.items()}


def explained(run: Run) -> Results:
    """The pipeline up to the conversion, and what steps along each surrogate's gradient would do."""
    return {**as_far_as("convert", run), "descent": descent(run)}


def diagnosed(run: Run) -> Results:
    """Also which neurons never fire and how far batches agree, before the fine-tune and after it."""
    results, nets = validated(run), {"before": starting_snn(run), "after": last_snn(run)}
    silent = {name: silent_neurons(run.config, snn) for name, snn in nets.items()}
    return {**results, "silence": silent, "agreement": {name: agreement(run, snn) for name, snn in nets.items()}}


class Trial(NamedTuple):
    """A variation of a preset.

    Attributes:
        name: the folder of its results.
        fields: what differs.
        work: what its runs do.
        seeds: with which seeds.
        ann: name of the trial whose ANN it takes over; its own for one that trains it.
    """

    name: str
    fields: Fields
    work: Callable[[Run], Results] = validated
    seeds: tuple[int, ...] = SEEDS
    ann: str = "ann"


def config_of_trial(preset: str, trial: Trial, seed: int) -> Config:
    """The config of a trial's run with a seed."""
    return replace(with_fields(PRESETS[preset].config, trial.fields), seed=seed)


ANN = Trial("ann", {}, partial(as_far_as, "train_ann"))  # for the trials that name no other
