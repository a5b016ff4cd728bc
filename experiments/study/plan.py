"""The runs of the study: which fields of a preset each changes, and how far it goes.

All runs of a seed begin with the same ANN. Trials that serve a choice end with the fine-tune and never see the test
split; where a run is long, one seed has to do.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.config import AUTO, Config
from experiments.convert import scaled_snn
from experiments.finetune import last_snn, starting_snn
from experiments.hybrid import hybrid, up_to
from experiments.presets import PRESETS
from experiments.runs.networks import open_source, stream_keys
from experiments.runs.scoring import score_snn
from experiments.runs.workdir import Results, Run, read_results
from experiments.study.conversion import conversion
from experiments.study.gradients import agreement, descent, silent_neurons
from jsnn.augment import scale
from jsnn.datasets import TEST, VALIDATION

SEEDS = (0, 1, 2)
Fields = Mapping[str, object]  # GROUP.FIELD of a config -> value


def tested(run: Run) -> Results:
    """The whole pipeline, with the test split, and spikes per pixel and step that its images are encoded into."""
    hybrid(run)
    images = open_source(run.config, TEST).resident.images
    return {**read_results(run.directory), "input_rate": float(jnp.abs(scale(jnp.asarray(images))).mean())}


def _as_far_as(stage: str, run: Run) -> Results:
    up_to(stage, run)
    return read_results(run.directory)


def validated(run: Run) -> Results:
    """The pipeline without its last stage, and accuracies on the validation split."""
    return {**_as_far_as("finetune", run), "streams": over_streams(run)}


def over_streams(run: Run) -> dict[str, list[float]]:
    """Validation accuracies of the converted net at its factor and the net after the last epoch, one for each stream.

    No choice was made on these streams, so that the best of many factors has no advantage on them.
    """
    nets = {"converted": scaled_snn(run), "hybrid": last_snn(run)}
    keys, steps = stream_keys(run.config, VALIDATION, run.config.evaluate.streams), run.config.convert.num_steps

    def accuracy(net: str, key: jax.Array) -> float:
        return float(score_snn(run.config, nets[net], steps, VALIDATION, key).accuracy[-1])

    return {net: [accuracy(net, key) for key in keys] for net in nets}


def _explained(run: Run) -> Results:
    return {**_as_far_as("convert", run), "descent": descent(run)}


def _compared(run: Run) -> Results:
    """Also which neurons never fire and how far batches agree, before the fine-tune and after it."""
    results = validated(run)
    nets = {"before": starting_snn(run), "after": last_snn(run)}
    silent = {name: silent_neurons(run.config, snn) for name, snn in nets.items()}
    return {**results, "silence": silent, "agreement": {name: agreement(run, snn) for name, snn in nets.items()}}


class Trial(NamedTuple):
    """A variation of a preset: the folder of its results, what differs, what its runs do, and with which seeds."""

    name: str
    fields: Fields
    work: Callable[[Run], Results] = validated
    seeds: tuple[int, ...] = SEEDS


def with_fields(config: Config, fields: Fields) -> Config:
    """The config with some fields changed, as in {"finetune.lr": 1e-3}."""
    for name, value in fields.items():
        group, field = name.split(".")
        config = replace(config, **{group: replace(getattr(config, group), **{field: value})})
    return config


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
    **{
        f"{name}-leak{leak:g}": fields | {"finetune.leak": leak}
        for name, fields in BOTH.items()
        for leak in (1.0, 0.95)
    },
    **{f"{name}-decay": fields | {"finetune.weight_decay": 5e-4} for name, fields in BOTH.items()},
    "linear-warmup": {"finetune.warmup": 0.25},
    "linear-clip": {"finetune.clip": 1.0},
}
# With all seeds: each surrogate's best, and what the recipe is made of.
REPEATED = "stdb-lr3e-05 plain-linear-lr0.001 linear-lr0.001 stdb-calibrated stdb-percentile linear-percentile".split()
HARMS: dict[str, Fields] = {  # question c: four epochs at a constant rate
    "harm-stdb": STDB,
    "harm-stdb-fast": STDB | {"finetune.lr": 3e-4},
    "harm-linear": {},
    "harm-linear-fast": {"finetune.lr": 1e-2},
}
MAXIMUM = {"convert.percentile": 100.0, "finetune.epochs": 2}  # of the thresholds, for CIFAR-10
CONSTANT = {"finetune.schedule": "constant"}
SCRATCH = {"finetune.start": "scratch", **PLAIN}
SCRATCH_RATES = {"stdb": (1e-4, 3e-4, 1e-3), "linear": (3e-4, 1e-3, 3e-3)}
SCRATCH_BEST = {"stdb": 3e-4, "linear": 1e-3}  # of these, after two epochs


def _hybrid(preset: str, surrogate: str, num_steps: int, seeds: tuple[int, ...] = SEEDS) -> Trial:
    """Questions a, d and e: the whole pipeline at a T."""
    longest = min(8 * num_steps, PRESETS[preset].config.evaluate.eval_steps)
    fields = {"convert.num_steps": num_steps, "evaluate.eval_steps": longest, **BOTH[surrogate]}
    return Trial(f"{surrogate}-t{num_steps}", fields, tested, seeds)


def _scratch(name: str, surrogate: str, num_steps: int, epochs: int) -> Trial:
    """Question b: random weights, with the surrogate's best learning rate."""
    fields = {"convert.num_steps": num_steps, "finetune.surrogate": surrogate, "finetune.epochs": epochs}
    return Trial(name, SCRATCH | fields | {"finetune.lr": SCRATCH_BEST[surrogate]}, tested, (0,))


def _scratch_rate(surrogate: str, rate: float) -> Trial:
    """Question b: random weights, one of several learning rates, for two epochs."""
    trial = _scratch(f"scratch-{surrogate}-lr{rate:g}", surrogate, num_steps=4, epochs=2)
    return trial._replace(fields=trial.fields | CONSTANT | {"finetune.lr": rate}, work=validated)


STUDIES: dict[str, dict[str, tuple[Trial, ...]]] = {
    "fashion_mnist_cpu": {
        "steps": (
            *(_hybrid("fashion_mnist_cpu", "linear", num_steps) for num_steps in (8, 4, 2)),
            _hybrid("fashion_mnist_cpu", "stdb", 4),
        ),
        "explain": (Trial("explain", FEW, _explained),),
        "rates": tuple(
            Trial(name, FEW | fields, seeds=SEEDS if name in REPEATED else (0,))
            for name, fields in (RATES | VARIATIONS).items()
        ),
        "harms": tuple(
            Trial(name, FEW | CONSTANT | {"finetune.epochs": 4} | fields, _compared) for name, fields in HARMS.items()
        ),
        "scratch": (
            *(_scratch_rate(surrogate, rate) for surrogate, rates in SCRATCH_RATES.items() for rate in rates),
            _scratch("scratch-stdb", "stdb", 4, epochs=14),  # the hybrid run's operations
            _scratch("scratch-linear", "linear", 4, epochs=14),
            _scratch("scratch-linear-long", "linear", 4, epochs=28),
        ),
        "conversion": (Trial("conversion", {}, partial(conversion, images=2048)),),
    },
    "cifar10_cpu": {
        "steps": tuple(_hybrid("cifar10_cpu", "linear", num_steps, (0,)) for num_steps in (32, 16, 8)),
        "rates": (
            Trial("maximum-lr0.0003", MAXIMUM | {"finetune.lr": 3e-4}, tested, (0,)),
            Trial("maximum-lr0.001", MAXIMUM | {"finetune.lr": 1e-3}, partial(_as_far_as, "finetune"), (0,)),
        ),
        "conversion": (Trial("conversion", {}, partial(conversion, images=1024)),),
        "scratch": (
            _scratch("scratch-linear", "linear", 8, epochs=11),  # the hybrid run's operations
            _scratch("scratch-linear-long", "linear", 8, epochs=22),
            _scratch("scratch-linear-longest", "linear", 8, epochs=33),
        ),
    },
}
