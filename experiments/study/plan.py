"""The runs of the study: which fields of a preset each changes, and how far it goes.

All runs of a seed begin with the same ANN. Trials that serve a choice end with the fine-tune and never see the test
split; where a run is long, one seed has to do.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from experiments.hybrid import hybrid, up_to
from experiments.study.conversion import conversion
from experiments.study.gradients import explain
from experiments.workdir import Results, Run, read_results

SEEDS = (0, 1, 2)
Work = Callable[[Run], Results]


def tested(run: Run) -> Results:
    """The whole pipeline, with the test split."""
    hybrid(run)
    return read_results(run.directory)


def validated(run: Run) -> Results:
    """The pipeline without its last stage: what it finds comes from the validation split."""
    up_to("finetune", run)
    return read_results(run.directory)


def _trained(run: Run) -> Results:
    up_to("train_ann", run)
    return read_results(run.directory)


def _explained(run: Run) -> Results:
    up_to("convert", run)
    return {**read_results(run.directory), "explained": explain(run)}


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

STDB_RATES = (3e-5, 1e-4, 3e-4, 1e-3)
LINEAR_RATES = (1e-4, 3e-4, 1e-3)
FEW = {"num_steps": 4, "hybrid_epochs": 1, "hybrid_lr": 1e-4}  # for questions that ask for many runs
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


def _hybrids(*steps: int) -> tuple[Trial, ...]:
    """Questions a, d and e: the whole pipeline at several T, with either surrogate."""
    return tuple(
        Trial(f"{surrogate}-t{num_steps}", {"num_steps": num_steps, "surrogate": surrogate}, tested)
        for num_steps in steps
        for surrogate in ("stdb", "linear")
    )


STUDIES: dict[str, dict[str, tuple[Trial, ...]]] = {
    "fashion_mnist_cpu": {
        "conversion": (
            Trial("conversion", work=partial(conversion, longest=512), seeds=(0,)),
            Trial("conversion", work=partial(conversion, longest=64), seeds=(1, 2)),
        ),
        "explain": (Trial("explain", FEW, _explained, seeds=(0,)),),
        "rates": _rates(),
    },
}
