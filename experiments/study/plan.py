"""The runs of the study: which fields of a preset each changes, with which seeds.

All runs of a seed begin with the same ANN, but for those of question f, see `few_steps`. Where a run is long, one seed
has to do.
"""

from collections.abc import Iterator
from functools import partial

from experiments.fields import AUTO
from experiments.presets import PRESETS
from experiments.recipes import Fields
from experiments.study import few_steps, paper_row
from experiments.study.conversion import conversion
from experiments.study.trials import SEEDS, Trial, as_far_as, diagnosed, explained, tested

FASHION, CIFAR = "fashion_mnist_cpu", "cifar10_cpu"
FASHION_FEW, CIFAR_FEW = "fashion_mnist_t4", "cifar10_t4"
FULL_SIZE = "vgg5_cifar10"
OTHER_NETS = ("vgg5-norm", "resnet8", "resnet8-norm")

PLAIN = {"finetune.logit_scale": 1.0}  # as in the paper; the presets' own recipe is linear
STDB = {"finetune.surrogate": "stdb", "finetune.lr": 3e-5, **PLAIN}
ONE_EPOCH_AT_4 = {"convert.num_steps": 4, "finetune.epochs": 1}  # for questions that ask for many runs
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
    f"harm-{name}{speed}": ONE_EPOCH_AT_4 | CONSTANT | {"finetune.epochs": 4} | BOTH[name] | rate
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


def _four_steps(net: str, seeds: tuple[int, ...]) -> Iterator[Trial]:
    """Question f: other nets, converted at each T and fine-tuned at T = 4."""
    yield from few_steps.anns(net, seeds)
    yield from few_steps.trials(net, ("qcfs",), seeds=seeds)
    yield from _finetuned(net, (4,), seeds)


def _finetuned(net: str, steps: tuple[int, ...], seeds: tuple[int, ...]) -> Iterator[Trial]:
    """Question f: other nets, fine-tuned at some T."""
    yield from few_steps.trials(net, ("qcfs-diet",), steps, seeds, few_steps.OF_NETS.get(net, {}))


def _on_fashion(net: str) -> Iterator[Trial]:
    """Question f on Fashion-MNIST: other nets at every T, one seed."""
    yield from few_steps.anns(net, (0,))
    yield from few_steps.trials(net, ("qcfs", "qcfs-diet"), seeds=(0,), finetune=few_steps.OF_FASHION)


STUDIES: dict[str, dict[str, tuple[Trial, ...]]] = {
    FASHION: {
        "steps": (*_hybrids(FASHION, ("linear", 8), ("linear", 4), ("linear", 2), ("stdb", 4)),),
        "explain": (Trial("explain", ONE_EPOCH_AT_4, explained),),
        "rates": tuple(
            Trial(name, ONE_EPOCH_AT_4 | fields, seeds=SEEDS if name in REPEATED else (0,))
            for name, fields in (RATES | VARIATIONS).items()
        ),
        "harms": tuple(Trial(name, fields, diagnosed) for name, fields in HARMS.items()),
        "scratch": (*_scratch_rates(), *_scratch(4, {"stdb": 14, "linear": 14, "linear-long": 28})),
        "conversion": (Trial("conversion", {}, partial(conversion, images=2048)),),
    },
    CIFAR: {
        "steps": (*_hybrids(CIFAR, ("linear", 32), ("linear", 16), ("linear", 8), seeds=(0,)),),
        "rates": tuple(
            Trial(f"maximum-lr{rate:g}", MAXIMUM | {"finetune.lr": rate}, work, (0,))
            for rate, work in ((3e-4, tested), (1e-3, partial(as_far_as, "finetune")))
        ),
        "conversion": (Trial("conversion", {}, partial(conversion, images=1024)),),
        "scratch": (*_scratch(8, {"linear": 11, "linear-long": 22, "linear-longest": 33}),),
        "paper": tuple(paper_row.at_a_quarter()),
    },
    FASHION_FEW: {
        "few": (
            *few_steps.anns("vgg5"),
            *few_steps.trials("vgg5", ("qcfs", "qcfs-diet", "diet"), finetune=few_steps.OF_FASHION),
        ),
        "nets": tuple(trial for net in OTHER_NETS for trial in _on_fashion(net)),
        "parts": tuple(few_steps.parts(2, finetune=few_steps.OF_FASHION)),
        "penalties": tuple(few_steps.penalties(4)),
        "residuals": tuple(few_steps.in_bytes(8)),
    },
    CIFAR_FEW: {
        "few": (
            *few_steps.anns("vgg5"),
            *few_steps.trials("vgg5", ("qcfs", "qcfs-diet", "diet")),
        ),
        "nets": tuple(trial for net in OTHER_NETS for trial in _four_steps(net, SEEDS)),
        "steps": tuple(trial for net in OTHER_NETS for trial in _finetuned(net, (1, 2, 8), (2,))),
        "depth": tuple(_four_steps("vgg11-norm", (0,))),
        "parts": tuple(few_steps.parts(2, (0,))),
    },
    FULL_SIZE: {"paper": tuple(paper_row.as_in_the_paper()), "few": tuple(paper_row.at_few_steps())},
}
