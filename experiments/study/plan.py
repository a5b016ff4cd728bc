"""The runs of the study: which fields of a preset each changes, and how far it goes.

All runs of a seed begin with the same ANN. Trials that serve a choice end with the fine-tune and never see the test
split; where a run is long, one seed has to do.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from experiments.config import AUTO
from experiments.finetune import last_snn, starting_snn
from experiments.hybrid import hybrid, up_to
from experiments.presets import PRESETS
from experiments.runs.networks import open_source
from experiments.runs.workdir import Results, Run, read_results
from experiments.study.accuracy import over_streams
from experiments.study.agreement import agreement
from experiments.study.conversion import conversion
from experiments.study.descent import descent
from experiments.study.silence import silence
from jsnn.augment import scale
from jsnn.datasets import TEST

SEEDS = (0, 1, 2)
Work = Callable[[Run], Results]
Fields = Mapping[str, object]


def tested(run: Run) -> Results:
    """The whole pipeline, with the test split; also counts what Poisson encoding feeds to the network."""
    hybrid(run)
    return {**read_results(run.directory), "input_rate": _input_rate(run)}


def _input_rate(run: Run) -> float:
    """Spikes per pixel and step that the test images are encoded into, on average."""
    images = open_source(run.config, TEST).resident.images
    return float(jnp.abs(scale(jnp.asarray(images))).mean())


def validated(run: Run) -> Results:
    """The pipeline without its last stage: what it finds comes from the validation split."""
    return {**_as_far_as("finetune", run), "streams": over_streams(run)}


def _as_far_as(stage: str, run: Run) -> Results:
    up_to(stage, run)
    return read_results(run.directory)


def _explained(run: Run) -> Results:
    return {**_as_far_as("convert", run), "descent": descent(run)}


def _watched(run: Run) -> Results:
    """Also counts the neurons that never fire and how far batches agree, before the fine-tune and after it."""
    found = validated(run)
    nets = {"before": starting_snn(run), "after": last_snn(run)}
    silent = {name: silence(run.config, snn) for name, snn in nets.items()}
    return {**found, "silence": silent, "agreement": {name: agreement(run, snn) for name, snn in nets.items()}}


class Trial(NamedTuple):
    """One variation of a preset.

    Attributes:
        name: of its results' folder.
        fields: what differs from the preset.
        work: what to do with its run.
        seeds: with which to do it.
    """

    name: str
    fields: Fields
    work: Work = validated
    seeds: tuple[int, ...] = SEEDS


ANN = Trial("ann", {}, partial(_as_far_as, "train_ann"))

PLAIN = {"hybrid_logit_scale": 1.0}  # as in the paper; the presets' own recipe is linear
STDB = {"surrogate": "stdb", "hybrid_lr": 3e-5, **PLAIN}
FEW = {"num_steps": 4, "hybrid_epochs": 1}  # for questions that ask for many runs
BOTH: dict[str, Fields] = {"linear": {}, "stdb": STDB}

RATES: dict[str, Fields] = {  # question c: each surrogate with several learning rates, plain and by the presets' recipe
    **{f"stdb-lr{rate:g}": STDB | {"hybrid_lr": rate} for rate in (1e-5, 3e-5, 1e-4, 3e-4)},
    **{f"plain-linear-lr{rate:g}": PLAIN | {"hybrid_lr": rate} for rate in (1e-4, 3e-4, 1e-3)},
    **{f"linear-lr{rate:g}": {"hybrid_lr": rate} for rate in (3e-4, 1e-3, 3e-3, 1e-2)},
}
VARIATIONS: dict[str, Fields] = {  # question c: one thing changed in each surrogate's best
    "stdb-calibrated": STDB | {"hybrid_logit_scale": AUTO},
    **{f"{name}-percentile": fields | {"percentile": 99.7} for name, fields in BOTH.items()},
    **{f"stdb-beta{beta:g}": STDB | {"beta": beta} for beta in (0.3, 1.0, 3.0)},
    "stdb-alpha1": STDB | {"alpha": 1.0},
    **{f"{name}-leak{leak:g}": fields | {"leak": leak} for name, fields in BOTH.items() for leak in (1.0, 0.95)},
    **{f"{name}-decay": fields | {"hybrid_weight_decay": 5e-4} for name, fields in BOTH.items()},
    "linear-warmup": {"hybrid_warmup": 0.25},
    "linear-clip": {"hybrid_clip": 1.0},
}
REPEATED = (  # with all seeds: each surrogate's best, and what the recipe is made of
    "stdb-lr3e-05",
    "plain-linear-lr0.001",
    "linear-lr0.001",
    "stdb-calibrated",
    "stdb-percentile",
    "linear-percentile",
)
HARMS: dict[str, Fields] = {  # question c: four epochs at a constant rate
    "stdb": STDB,
    "stdb-fast": STDB | {"hybrid_lr": 3e-4},
    "linear": {},
    "linear-fast": {"hybrid_lr": 1e-2},
}
SCRATCH = {"start": "scratch", **PLAIN}
SCRATCH_RATES = {"stdb": (1e-4, 3e-4, 1e-3), "linear": (3e-4, 1e-3, 3e-3)}
SCRATCH_BEST = {"stdb": 3e-4, "linear": 1e-3}  # of these, after two epochs


def _hybrids(
    preset: str, surrogates: tuple[str, ...], steps: tuple[int, ...], seeds: tuple[int, ...] = SEEDS
) -> tuple[Trial, ...]:
    """Questions a, d and e: the whole pipeline at several T."""
    longest = PRESETS[preset].config.evaluate.eval_steps
    return tuple(
        Trial(
            f"{name}-t{num_steps}",
            {"num_steps": num_steps, "eval_steps": min(8 * num_steps, longest), **BOTH[name]},
            tested,
            seeds,
        )
        for num_steps in steps
        for name in surrogates
    )


def _scratch_rates(num_steps: int) -> tuple[Trial, ...]:
    """Question b: random weights, with several learning rates."""
    common = SCRATCH | {"num_steps": num_steps, "hybrid_epochs": 2, "hybrid_schedule": "constant"}
    return tuple(
        Trial(f"scratch-{name}-lr{rate:g}", common | {"surrogate": name, "hybrid_lr": rate}, seeds=(0,))
        for name, rates in SCRATCH_RATES.items()
        for rate in rates
    )


def _scratch(trial: str, surrogate: str, num_steps: int, epochs: int) -> Trial:
    """Question b: random weights, with the surrogate's best learning rate."""
    fields = {"surrogate": surrogate, "hybrid_lr": SCRATCH_BEST[surrogate], "hybrid_epochs": epochs}
    return Trial(trial, SCRATCH | {"num_steps": num_steps, **fields}, tested, seeds=(0,))


STUDIES: dict[str, dict[str, tuple[Trial, ...]]] = {
    "fashion_mnist_cpu": {
        "steps": (
            *_hybrids("fashion_mnist_cpu", ("linear",), (8, 4, 2)),
            *_hybrids("fashion_mnist_cpu", ("stdb",), (4,)),
        ),
        "explain": (Trial("explain", FEW, _explained),),
        "rates": tuple(
            Trial(name, FEW | fields, seeds=SEEDS if name in REPEATED else (0,))
            for name, fields in (RATES | VARIATIONS).items()
        ),
        "harms": tuple(
            Trial(f"harm-{name}", FEW | {"hybrid_epochs": 4, "hybrid_schedule": "constant"} | fields, _watched)
            for name, fields in HARMS.items()
        ),
        "scratch": (
            *_scratch_rates(4),
            _scratch("scratch-stdb", "stdb", 4, epochs=14),  # the hybrid run's operations
            _scratch("scratch-linear", "linear", 4, epochs=14),
            _scratch("scratch-linear-long", "linear", 4, epochs=28),
        ),
        "conversion": (Trial("conversion", {}, partial(conversion, images=2048)),),
    },
    "cifar10_cpu": {
        "steps": _hybrids("cifar10_cpu", ("linear",), (32, 16, 8), (0,)),
        "rates": tuple(
            Trial(f"maximum-lr{rate:g}", {"percentile": 100.0, "hybrid_epochs": 2, "hybrid_lr": rate}, work, seeds=(0,))
            for rate, work in ((3e-4, tested), (1e-3, partial(_as_far_as, "finetune")))
        ),
        "conversion": (Trial("conversion", {}, partial(conversion, images=1024)),),
        "scratch": (
            _scratch("scratch-linear", "linear", 8, epochs=11),  # the hybrid run's operations
            _scratch("scratch-linear-long", "linear", 8, epochs=22),
            _scratch("scratch-linear-longest", "linear", 8, epochs=33),
        ),
    },
}
