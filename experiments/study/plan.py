"""The runs of the study: which fields of a preset each changes, and how far it goes.

All runs of a seed begin with the same ANN. Trials that serve a choice end with the fine-tune and never see the test
split; where a run is long, one seed has to do.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from experiments.config import with_fields
from experiments.convert import scaled_snn
from experiments.fields import AUTO, Config
from experiments.finetune import last_snn, starting_snn
from experiments.hybrid import up_to
from experiments.presets import PRESETS
from experiments.runs.networks import open_source, stream_keys
from experiments.runs.records import read_results
from experiments.runs.schema import Results
from experiments.runs.scoring import score_snn
from experiments.runs.workdir import Run
from experiments.study.conversion import conversion
from experiments.study.gradients import agreement, descent, silent_neurons
from jsnn.data.augment import scale
from jsnn.data.datasets import TEST, VALIDATION

FASHION, CIFAR = "fashion_mnist_cpu", "cifar10_cpu"
SEEDS = (0, 1, 2)
Fields = dict[str, object]  # GROUP.FIELD of a config -> value


def tested(run: Run) -> Results:
    """The whole pipeline, with the test split, and spikes per pixel and step that its images are encoded into."""
    images = open_source(run.config, TEST).resident.images
    return {**_as_far_as("evaluate", run), "input_rate": float(jnp.abs(scale(jnp.asarray(images))).mean())}


def _as_far_as(stage: str, run: Run) -> Results:
    up_to(stage, run)
    return read_results(run.directory)


def validated(run: Run) -> Results:
    """The pipeline without its last stage, and accuracies on the validation split."""
    return {**_as_far_as("finetune", run), "streams": over_streams(run)}


def over_streams(run: Run) -> dict[str, list[float]]:
    """Validation accuracies of the converted net at its factor and the net after the last epoch, one for each stream.

    No choice was made on these streams; the factor was, by another, on the first half of the images.
    """
    nets, config = {"converted": scaled_snn(run), "hybrid": last_snn(run)}, run.config
    keys = stream_keys(config, VALIDATION, config.evaluate.streams)
    score = partial(score_snn, config, num_steps=config.convert.num_steps, split=VALIDATION)
    return {name: [float(score(snn, key=key).accuracy[-1]) for key in keys] for name, snn in nets.items()}


def _explained(run: Run) -> Results:
    return {**_as_far_as("convert", run), "descent": descent(run)}


def _compared(run: Run) -> Results:
    """Also which neurons never fire and how far batches agree, before the fine-tune and after it."""
    results, nets = validated(run), {"before": starting_snn(run), "after": last_snn(run)}
    silent = {name: silent_neurons(run.config, snn) for name, snn in nets.items()}
    return {**results, "silence": silent, "agreement": {name: agreement(run, snn) for name, snn in nets.items()}}


class Trial(NamedTuple):
    """A variation of a preset: the folder of its results, what differs, what its runs do, and with which seeds."""

    name: str
    fields: Fields
    work: Callable[[Run], Results] = validated
    seeds: tuple[int, ...] = SEEDS


def planned(preset: str, trial: Trial, seed: int) -> Config:
    """The config of a trial's run with a seed."""
    return replace(with_fields(PRESETS[preset].config, trial.fields), seed=seed)


ANN = Trial("ann", {}, partial(_as_far_as, "train_ann"))

PLAIN = {"finetune.logit_scale": 1.0}  # as in the paper; the presets' own recipe is linear
STDB = {"finetune.surrogate": "stdb", "finetune.lr": 3e-5, **PLAIN}
FEW = {"convert.num_steps": 4, "finetune.epochs": 1}  # for questions that ask for many runs
BOTH: dict[str, Fields] = {"linear": {}, "stdb": STDB}

RATES: dict[str, Fields] = {  # question c: each surrogate with several learning rates, plain and by the presets' recipe
    **{f"stdb-lr{rate:g}": STDB | {"finetune.lr": rate} for rate in (1e-5, 3e-5, 1e-4, 3e-4)},
    **{f"plain-linear-lr{rate:g}": PLAIN | {"finetune.lr": rate} for rate in (1e-4, 3e-4, 1e-3)},
    **{f"linear-lr{rate:g}": {"finetune.lr": rate} for rate in (3e-4, 1e-3, 3e-3, 1e-2)},
}
VARIATIONS: dict[str, Fields] = {  # question c: one thing changed in each surrogate's best
    "stdb-calibrated": STDB | {"finetune.logit_scale": AUTO},
    **{f"{name}-percentile": fields | {"convert.percentile": 99.7} for name, fields in BOTH.items()},
    **{f"stdb-beta{beta:g}": STDB | {"finetune.beta": beta} for beta in (0.3, 1.0, 3.0)},
    "stdb-alpha1": STDB | {"finetune.alpha": 1.0},
    **{f"{name}-leak{leak:g}": BOTH[name] | {"finetune.leak": leak} for name in BOTH for leak in (1.0, 0.95)},
    **{f"{name}-decay": fields | {"finetune.weight_decay": 5e-4} for name, fields in BOTH.items()},
    "linear-warmup": {"finetune.warmup": 0.25},
    "linear-clip": {"finetune.clip": 1.0},
}
# With all seeds: each surrogate's best, and what the recipe is made of.
REPEATED = "stdb-lr3e-05 plain-linear-lr0.001 linear-lr0.001 stdb-calibrated stdb-percentile linear-percentile".split()
CONSTANT = {"finetune.schedule": "constant"}
HARMS: dict[str, Fields] = {  # question c: four epochs at a constant rate, each surrogate's best and a faster one
    f"harm-{name}{speed}": FEW | CONSTANT | {"finetune.epochs": 4} | BOTH[name] | rate
    for name, fast in (("stdb", 3e-4), ("linear", 1e-2))
    for speed, rate in (("", {}), ("-fast", {"finetune.lr": fast}))
}
MAXIMUM = {"convert.percentile": 100.0, "finetune.epochs": 2}  # of the thresholds, for CIFAR-10
SCRATCH_RATES = {"stdb": (1e-4, 3e-4, 1e-3), "linear": (3e-4, 1e-3, 3e-3)}
SCRATCH_BEST = {"stdb": 3e-4, "linear": 1e-3}  # of these, after two epochs


def _hybrids(preset: str, *nets: tuple[str, int], seeds: tuple[int, ...] = SEEDS) -> Iterator[Trial]:
    """Questions a, d and e: the whole pipeline with a surrogate at a T."""
    for surrogate, num_steps in nets:
        longest = min(8 * num_steps, PRESETS[preset].config.evaluate.eval_steps)
        fields = {"convert.num_steps": num_steps, "evaluate.eval_steps": longest, **BOTH[surrogate]}
        yield Trial(f"{surrogate}-t{num_steps}", fields, tested, seeds)


def _scratch(num_steps: int, epochs: dict[str, int]) -> Iterator[Trial]:
    """Question b: random weights, by SURROGATE[-LENGTH] for so many epochs, with the surrogate's best learning rate.

    The least number takes the operations of the hybrid run, long and longest ones twice and three times as many.
    """
    for name, number in epochs.items():
        surrogate, *_ = name.split("-")
        fields = {"finetune.start": "scratch", "finetune.surrogate": surrogate, "finetune.lr": SCRATCH_BEST[surrogate]}
        fields |= PLAIN | {"convert.num_steps": num_steps, "finetune.epochs": number}
        yield Trial(f"scratch-{name}", fields, tested, (0,))


def _scratch_rates() -> Iterator[Trial]:
    """Question b: random weights, several learning rates, for two epochs."""
    for trial in _scratch(4, dict.fromkeys(SCRATCH_RATES, 2)):
        for rate in SCRATCH_RATES[trial.fields["finetune.surrogate"]]:
            fields = trial.fields | CONSTANT | {"finetune.lr": rate}
            yield Trial(f"{trial.name}-lr{rate:g}", fields, seeds=trial.seeds)


STUDIES: dict[str, dict[str, tuple[Trial, ...]]] = {
    FASHION: {
        "steps": (*_hybrids(FASHION, ("linear", 8), ("linear", 4), ("linear", 2), ("stdb", 4)),),
        "explain": (Trial("explain", FEW, _explained),),
        "rates": tuple(
            Trial(name, FEW | fields, seeds=SEEDS if name in REPEATED else (0,))
            for name, fields in (RATES | VARIATIONS).items()
        ),
        "harms": tuple(Trial(name, fields, _compared) for name, fields in HARMS.items()),
        "scratch": (*_scratch_rates(), *_scratch(4, {"stdb": 14, "linear": 14, "linear-long": 28})),
        "conversion": (Trial("conversion", {}, partial(conversion, images=2048)),),
    },
    CIFAR: {
        "steps": (*_hybrids(CIFAR, ("linear", 32), ("linear", 16), ("linear", 8), seeds=(0,)),),
        "rates": tuple(
            Trial(f"maximum-lr{rate:g}", MAXIMUM | {"finetune.lr": rate}, work, (0,))
            for rate, work in ((3e-4, tested), (1e-3, partial(_as_far_as, "finetune")))
        ),
        "conversion": (Trial("conversion", {}, partial(conversion, images=1024)),),
        "scratch": (*_scratch(8, {"linear": 11, "linear-long": 22, "linear-longest": 33}),),
    },
}
