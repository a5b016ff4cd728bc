"""The runs of the study: which fields of a preset each changes, with which seeds, and from whose ANN."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import NamedTuple

from experiments.config import with_fields
from experiments.fields import AUTO, TRAINED, Config
from experiments.presets import PRESETS
from experiments.recipes import QCFS, RECIPES, Fields
from experiments.runs.workdir import Results, Run
from experiments.study.work import ann_tested, as_far_as, conversion, diagnosed, explained, tested, validated

FASHION, CIFAR = "fashion_mnist_cpu", "cifar10_cpu"
FASHION_FEW, CIFAR_FEW = "fashion_mnist_t4", "cifar10_t4"
Numbers = tuple[int, ...]
SEEDS, ONE = (0, 1, 2), (0,)  # where a run is long


class Trial(NamedTuple):
    """A variation of a preset."""

    name: str  # Of its results.
    fields: Fields  # What differs.
    work: Callable[[Run], Results] = validated  # What its runs do.
    seeds: Numbers = SEEDS
    ann: str = "ann"  # The trial whose ANN it takes over; its own name where it trains one.


Trials = tuple[Trial, ...]
ANN = Trial("ann", {}, partial(as_far_as, "train_ann"))  # for the trials that name no other


def config_of_trial(preset: str, trial: Trial, seed: int) -> Config:
    """The config of a trial's run with a seed."""
    return replace(with_fields(PRESETS[preset].config, trial.fields), seed=seed)


def _trials(named: Mapping[str, Fields], *how: object) -> Trials:
    """Trials by their names, which have all else in common."""
    return tuple(Trial(name, fields, *how) for name, fields in named.items())


# Questions a, d and e: the whole pipeline with a surrogate at a T. The presets' own recipe is linear.
PLAIN = {"finetune.logit_scale": 1.0}  # as in the paper
STDB = {"finetune.surrogate": "stdb", "finetune.lr": 3e-5, **PLAIN}
BOTH: dict[str, Fields] = {"linear": {}, "stdb": STDB}
AT_T: dict[str, Fields] = {
    f"{name}-t{t}": BOTH[name] | {"convert.num_steps": t, "evaluate.eval_steps": 8 * t}
    for name, t in (("linear", 8), ("linear", 4), ("linear", 2), ("stdb", 4))
}
# Question b: from random weights, for the operations of the hybrid run; twice (long) or three times (longest) as many.
SCRATCH_RATES = {"stdb": (1e-4, 3e-4, 1e-3), "linear": (3e-4, 1e-3, 3e-3)}
SCRATCH_BEST = {"stdb": 3e-4, "linear": 1e-3}  # of these, after two epochs
CONSTANT = {"finetune.schedule": "constant"}


def _scratch(name: str, num_steps: int, epochs: int, rate: float | None = None) -> Trial:
    """From random weights, by the best learning rate and tested, or to try a rate."""
    surrogate, *_ = name.split("-")
    fields = PLAIN | {"finetune.start": "scratch", "finetune.surrogate": surrogate, "finetune.epochs": epochs}
    fields |= {"finetune.lr": rate or SCRATCH_BEST[surrogate], "convert.num_steps": num_steps}
    return Trial(f"scratch-{name}", fields | (CONSTANT if rate else {}), validated if rate else tested, ONE)


SCRATCH_BY_RATE = [_scratch(f"{name}-lr{rate:g}", 4, 2, rate) for name in SCRATCH_RATES for rate in SCRATCH_RATES[name]]
# Question c: each surrogate with several learning rates, plain and by the presets' recipe; one thing changed in each
# surrogate's best; and four epochs at a constant rate, each surrogate's best and a faster one.
ONE_EPOCH_AT_4 = {"convert.num_steps": 4, "finetune.epochs": 1}  # for questions that ask for many runs
RATES: dict[str, Fields] = {
    **{f"stdb-lr{rate:g}": STDB | {"finetune.lr": rate} for rate in (1e-5, 3e-5, 1e-4, 3e-4)},
    **{f"plain-linear-lr{rate:g}": PLAIN | {"finetune.lr": rate} for rate in (1e-4, 3e-4, 1e-3)},
    **{f"linear-lr{rate:g}": {"finetune.lr": rate} for rate in (3e-4, 1e-3, 3e-3, 1e-2)},
    "stdb-calibrated": STDB | {"finetune.logit_scale": AUTO},
    **{f"{name}-percentile": BOTH[name] | {"convert.percentile": 99.7} for name in BOTH},
    **{f"stdb-beta{beta:g}": STDB | {"finetune.beta": beta} for beta in (0.3, 1.0, 3.0)},
    "stdb-alpha1": STDB | {"finetune.alpha": 1.0},
    **{f"{name}-leak{leak:g}": BOTH[name] | {"finetune.leak": leak} for name in BOTH for leak in (1.0, 0.95)},
    **{f"{name}-decay": fields | {"finetune.weight_decay": 5e-4} for name, fields in BOTH.items()},
    "linear-warmup": {"finetune.warmup": 0.25},
    "linear-clip": {"finetune.clip": 1.0},
}
# With all seeds: each surrogate's best, and what the recipe is made of.
REPEATED = "stdb-lr3e-05 plain-linear-lr0.001 linear-lr0.001 stdb-calibrated stdb-percentile linear-percentile".split()
HARMS: dict[str, Fields] = {
    f"harm-{name}{speed}": ONE_EPOCH_AT_4 | CONSTANT | {"finetune.epochs": 4} | BOTH[name] | rate
    for name, fast in (("stdb", 3e-4), ("linear", 1e-2))
    for speed, rate in (("", {}), ("-fast", {"finetune.lr": fast}))
}
MAXIMUM = {"convert.percentile": 100.0, "finetune.epochs": 2}  # of the thresholds, for CIFAR-10

# Question f: few time steps. Nets are named by architecture and norm, trials by the net, the recipe and T.
STEPS, NARROW = (1, 2, 4, 8), "vgg5"
HALF: Fields = {"ann.epochs": 20}  # of the ANN's epochs, for nets where they cost several times as much
NETS: dict[str, Fields] = {
    NARROW: {},
    "vgg5-norm": {"network.norm": "batch"},
    "resnet8": HALF | {"network.architecture": "resnet8"},
    "resnet8-norm": HALF | {"network.architecture": "resnet8", "network.norm": "batch"},
    "vgg11-norm": HALF | {"network.architecture": "vgg11", "network.norm": "batch"},
}
ACTIVATIONS: dict[str, Fields] = {"relu": {"network.levels": None}, "qcfs": {}}
# What a fine-tune takes at a T: fewer epochs where they take long, and what is better on validation than the recipe's.
FieldsAt = Mapping[int, Fields]
OF_ALL: FieldsAt = {8: {"finetune.epochs": 3}}
OF_FASHION: FieldsAt = OF_ALL | {t: {"finetune.lr": 5e-4} for t in (1, 2)}
OF_NORM: FieldsAt = {t: {"finetune.lr": 1e-3, "finetune.epochs": 3 if t == 8 else 9} for t in STEPS}
OTHER_NETS: dict[str, FieldsAt] = {"vgg5-norm": OF_ALL, "resnet8": OF_ALL, "resnet8-norm": OF_NORM}  # on CIFAR-10
# Variations of `qcfs-diet` in the narrow VGG5, beside which they stand. Of its parts: what is trained, by labels alone.
QCFS_DIET = f"{NARROW}-qcfs-diet-t"  # and T
LABELS: Fields = {"finetune.distillation": 0.0, "finetune.temperature": 1.0}
SOME_TRAINED = "weights weights-threshold weights-leak weights-initial threshold-leak-initial".split()
PARTS: dict[str, Fields] = {
    **{f"part-{part}": LABELS | {"finetune.trained": tuple(part.split("-"))} for part in SOME_TRAINED},
    "part-all": LABELS | {"finetune.trained": TRAINED},
    "part-by-channel": {"finetune.by_channel": True},
}
PENALTIES: dict[str, Fields] = {f"rate-{nats:g}": {"finetune.rate_penalty": nats} for nats in (0.1, 0.3, 1.0, 3.0)}


def activation_of(recipe: str) -> str:
    """The activation of the ANN that a recipe converts."""
    return "relu" if RECIPES[recipe]["network.levels"] is None else "qcfs"


def _few(net: str, recipes: str, seeds: Numbers = SEEDS, own: FieldsAt = OF_ALL, only_at: Numbers = ()) -> Trials:
    """The ANNs of a net and the whole pipeline by several recipes at each T; or only the latter, at some T."""
    anns = {} if only_at else {f"{net}-{activation}": NETS[net] | fields for activation, fields in ACTIVATIONS.items()}
    trials = [Trial(name, fields, ann_tested, seeds, name) for name, fields in anns.items()]
    for recipe, t in product(recipes.split(), only_at or STEPS):
        fields = NETS[net] | RECIPES[recipe] | {"convert.num_steps": t}
        fields |= (own if fields["finetune.trained"] else OF_ALL).get(t, {})
        trials.append(Trial(f"{net}-{recipe}-t{t}", fields, tested, seeds, f"{net}-{activation_of(recipe)}"))
    return tuple(trials)


def _varied(named: dict[str, Fields], t: int, seeds: Numbers = SEEDS, own: FieldsAt = OF_ALL) -> Trials:
    """Variations of `qcfs-diet` by these names at one T."""
    at: Fields = {"convert.num_steps": t} | own.get(t, {})
    return _trials({name: fields | at for name, fields in named.items()}, tested, seeds, f"{NARROW}-qcfs")


# The paper's own row: VGG5 on CIFAR-10 at its size, by STDB at T = 75 and at few steps. It takes two CPU cores a night:
# so one seed, fewer epochs, fewer steps of balancing and one Poisson stream. A quarter of the width takes an hour.
OF_75_STEPS: Fields = {"convert.balance_steps": 250, "evaluate.eval_steps": 75, "evaluate.streams": 1}
BY_COSINE: Fields = {"ann.epochs": 100, "ann.lr": 0.04, "ann.schedule": "cosine"}
WHOLE: Fields = OF_75_STEPS | BY_COSINE | {"data.batch_size": 128, "network.precision": "bfloat16"}
WHOLE_QCFS: Fields = WHOLE | {"network.levels": QCFS["network.levels"], "ann.epochs": 40}
QUARTER: Fields = OF_75_STEPS | RECIPES["paper"]  # and what `vgg5_cifar10` has of itself
QUARTER |= {"convert.scaling_factor": 0.7, "convert.num_steps": 75, "finetune.alpha": 0.5, "finetune.beta": 0.035}
BY_STDB: Fields = {"finetune.epochs": 2, "finetune.comparison_streams": 1, "run.chunk": 15}  # 75 without padding
CALIBRATED: Fields = BY_STDB | {"finetune.logit_scale": AUTO, "finetune.epochs": 1}
BEST_FACTOR: Fields = {"convert.scaling_factor": AUTO, "finetune.trained": ()}
# A quarter of the rate chosen at a quarter of the width: Adam moves a sum over inputs by the rate times their number.
BY_DIET: Fields = WHOLE | RECIPES["diet"] | {"finetune.lr": 5e-5}
AT_8: Fields = {"convert.num_steps": 8, "finetune.epochs": 3, "evaluate.eval_steps": 16}
AT_4: Fields = AT_8 | {"convert.num_steps": 4, "finetune.epochs": 6}

STUDIES: dict[str, dict[str, Trials]] = {
    FASHION: {
        "steps": _trials(AT_T, tested),
        "explain": _trials({"explain": ONE_EPOCH_AT_4}, explained),
        "rates": tuple(Trial(n, ONE_EPOCH_AT_4 | RATES[n], seeds=SEEDS if n in REPEATED else ONE) for n in RATES),
        "harms": _trials(HARMS, diagnosed),
        "scratch": (
            *SCRATCH_BY_RATE,
            *(_scratch(n, 4, e) for n, e in (("stdb", 14), ("linear", 14), ("linear-long", 28))),
        ),
        "conversion": (Trial("conversion", {}, partial(conversion, 2048)),),
    },
    CIFAR: {
        "steps": _trials({f"linear-t{t}": {"convert.num_steps": t} for t in (32, 16, 8)}, tested, ONE),
        "rates": (
            Trial("maximum-lr0.0003", MAXIMUM | {"finetune.lr": 3e-4}, tested, ONE),
            Trial("maximum-lr0.001", MAXIMUM | {"finetune.lr": 1e-3}, partial(as_far_as, "finetune"), ONE),
        ),
        "conversion": (Trial("conversion", {}, partial(conversion, 1024)),),
        "scratch": (_scratch("linear", 8, 11), _scratch("linear-long", 8, 22), _scratch("linear-longest", 8, 33)),
        "paper": (
            Trial("paper-t75", QUARTER | BY_STDB, tested, ONE),
            Trial("calibrated-t75", QUARTER | CALIBRATED, tested, ONE),
            Trial("converted-t75", QUARTER | BEST_FACTOR, tested, ONE),
        ),
    },
    FASHION_FEW: {
        "few": _few(NARROW, "qcfs qcfs-diet diet", own=OF_FASHION),
        "nets": tuple(trial for net in OTHER_NETS for trial in _few(net, "qcfs qcfs-diet", ONE, OF_FASHION)),
        "parts": _varied(PARTS, 2, own=OF_FASHION),
        "penalties": _varied(PENALTIES, 4),
        "residuals": _varied({"byte-t8": {"finetune.residuals": "byte"}}, 8),
    },
    CIFAR_FEW: {
        "few": _few(NARROW, "qcfs qcfs-diet diet"),
        "nets": sum((_few(n, "qcfs") + _few(n, "qcfs-diet", SEEDS, own, (4,)) for n, own in OTHER_NETS.items()), ()),
        "steps": tuple(one for n, own in OTHER_NETS.items() for one in _few(n, "qcfs-diet", (2,), own, (1, 2, 8))),
        "depth": _few("vgg11-norm", "qcfs", ONE) + _few("vgg11-norm", "qcfs-diet", ONE, only_at=(4,)),
        "parts": _varied(PARTS, 2, ONE),
    },
    "vgg5_cifar10": {
        "paper": (  # with its factor on thresholds, and the conversion by the best factor
            Trial("relu", WHOLE, ann_tested, ONE, "relu"),
            *_trials({"stdb-t75": WHOLE | BY_STDB, "converted-t75": WHOLE | BEST_FACTOR}, tested, ONE, "relu"),
        ),
        "few": (
            *_trials({"diet-t8": BY_DIET | AT_8, "diet-t4": BY_DIET | AT_4}, tested, ONE, "relu"),
            Trial("qcfs", WHOLE_QCFS, ann_tested, ONE, "qcfs"),
            Trial("qcfs-diet-t8", WHOLE_QCFS | RECIPES["qcfs-diet"] | AT_8, tested, ONE, "qcfs"),
        ),
    },
}
