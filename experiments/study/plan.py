"""The runs of the study: which fields of a preset each changes, and how far it goes.

All runs of a seed begin with the same ANN. Trials that serve a choice end with the fine-tune and never see the test
split; where a run is long, one seed has to do.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.finetune import last_snn, starting_snn
from experiments.hybrid import hybrid, up_to
from experiments.networks import open_source
from experiments.study.conversion import conversion
from experiments.study.gradients import cosines
from experiments.study.silence import silence
from experiments.workdir import Results, Run, read_results
from jsnn.augment import scale
from jsnn.datasets import TEST

SEEDS = (0, 1, 2)
Work = Callable[[Run], Results]


def tested(run: Run) -> Results:
    """The whole pipeline, with the test split; also counts what Poisson encoding feeds to the network."""
    hybrid(run)
    return {**read_results(run.directory), "input_rate": _input_rate(run)}


def _input_rate(run: Run) -> float:
    """Spikes per pixel and step that the test images are encoded into, on average."""
    images = open_source(run.config, TEST).resident.images
    return float(np.abs(scale(jnp.asarray(images))).mean())


def validated(run: Run) -> Results:
    """The pipeline without its last stage: what it finds comes from the validation split."""
    up_to("finetune", run)
    return read_results(run.directory)


def _trained(run: Run) -> Results:
    up_to("train_ann", run)
    return read_results(run.directory)


def _explained(run: Run) -> Results:
    up_to("convert", run)
    return {**read_results(run.directory), "cosines": cosines(run)}


def _watched(run: Run) -> Results:
    """Also counts the neurons that never fire, before the fine-tune and after it."""
    up_to("finetune", run)
    silent = {name: silence(run.config, snn(run)) for name, snn in (("before", starting_snn), ("after", last_snn))}
    return {**read_results(run.directory), "silence": silent}


class Trial(NamedTuple):
    """One variation of a preset.

    Attributes:
        name: of its results' folder.
        fields: what differs from the preset.
        work: what to do with its run.
        seeds: with which to do it.
    """

    name: str
    fields: Mapping[str, object] = {}
    work: Work = validated
    seeds: tuple[int, ...] = SEEDS


ANN = Trial("ann", work=_trained)

STDB_RATES = (1e-5, 3e-5, 1e-4, 3e-4)
LINEAR_RATES = (1e-4, 3e-4, 1e-3)
SCRATCH_RATES = (3e-4, 1e-3, 3e-3)
SCRATCH_BEST = {"stdb": 1e-3, "linear": 1e-3}
STDB, LINEAR = {"surrogate": "stdb", "hybrid_lr": 3e-5}, {"surrogate": "linear", "hybrid_lr": 3e-4}
FEW = {"num_steps": 4, "hybrid_epochs": 1, "hybrid_lr": 3e-5}  # for questions that ask for many runs
VARIATIONS = {
    "beta": (0.3, 1.0, 3.0),
    "alpha": (1.0,),
    "leak": (1.0, 0.95),
    "hybrid_weight_decay": (5e-4,),
    "hybrid_warmup": (0.25,),
    "hybrid_clip": (1.0,),
}


def _rates() -> tuple[Trial, ...]:
    """Question c: each surrogate with several learning rates, then one number of STDB's recipe after the other."""
    stdb = [Trial(f"stdb-lr{rate:g}", FEW | {"hybrid_lr": rate}) for rate in STDB_RATES]
    linear = [Trial(f"linear-lr{rate:g}", FEW | {"hybrid_lr": rate, "surrogate": "linear"}) for rate in LINEAR_RATES]
    varied = [
        Trial(f"stdb-{name.removeprefix('hybrid_')}{value:g}", FEW | {name: value})
        for name, values in VARIATIONS.items()
        for value in values
    ]
    return (*stdb, *linear, *varied)


def _harms() -> tuple[Trial, ...]:
    """Question c: four epochs at a constant rate, with one thing that harms at a time."""
    common = FEW | {"hybrid_epochs": 4, "hybrid_schedule": "constant"}
    harms = {
        "good": {},
        "rate": {"hybrid_lr": 3e-4},
        "decay": {"hybrid_weight_decay": 5e-4},
        "linear-good": LINEAR,
        "linear-decay": LINEAR | {"hybrid_weight_decay": 5e-4},
    }
    return tuple(Trial(f"harm-{name}", common | fields, _watched, (0,)) for name, fields in harms.items())


def _hybrids(*steps: int) -> tuple[Trial, ...]:
    """Questions a, d and e: the whole pipeline at several T, with either surrogate."""
    return tuple(
        Trial(f"{name}-t{num_steps}", {"num_steps": num_steps, "eval_steps": 8 * num_steps, **fields}, tested)
        for num_steps in steps
        for name, fields in (("stdb", STDB), ("linear", LINEAR))
    )


def _from_scratch(num_steps: int, epochs: int) -> tuple[Trial, ...]:
    """Question b: random weights at the compute of the hybrid run, and until it stops improving."""
    common = {"start": "scratch", "num_steps": num_steps}
    tuned = [
        Trial(
            f"scratch-{surrogate}-lr{rate:g}",
            common | {"surrogate": surrogate, "hybrid_lr": rate, "hybrid_epochs": 2, "hybrid_schedule": "constant"},
            seeds=(0,),
        )
        for surrogate in ("stdb", "linear")
        for rate in SCRATCH_RATES
    ]
    equal = [
        Trial(
            f"scratch-{surrogate}",
            common | {"surrogate": surrogate, "hybrid_lr": rate, "hybrid_epochs": epochs},
            tested,
        )
        for surrogate, rate in SCRATCH_BEST.items()
    ]
    return (*tuned, *equal)


STUDIES: dict[str, dict[str, tuple[Trial, ...]]] = {
    "fashion_mnist_cpu": {
        "preset": (Trial("preset", work=tested),),
        "conversion": (
            Trial("conversion", work=partial(conversion, longest=512), seeds=(0,)),
            Trial("conversion", work=partial(conversion, longest=64), seeds=(1, 2)),
        ),
        "explain": (Trial("explain", FEW, _explained, seeds=(0,)),),
        "rates": _rates(),
        "harms": _harms(),
        "steps": _hybrids(8, 4, 2),
        "scratch": _from_scratch(4, 7),
    },
    "cifar10_cpu": {
        "rates": (
            Trial("stdb-lr3e-05", {"num_steps": 16, "hybrid_epochs": 1, **STDB}, seeds=(0,)),
            Trial("linear-lr0.0003", {"num_steps": 16, "hybrid_epochs": 1, **LINEAR}, seeds=(0,)),
        ),
    },
}
