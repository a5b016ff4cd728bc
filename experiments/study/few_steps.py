"""Question f: the runs at few time steps, which recipes they take and what is left out of one.

Nets are named by architecture and norm, trials by the net, the recipe and T.
"""

from collections.abc import Iterator, Mapping
from itertools import product

from experiments.fields import TRAINED
from experiments.recipes import RECIPES, Fields
from experiments.study.trials import SEEDS, Trial, ann_tested, tested

FieldsAt = Mapping[int, Fields]  # T -> what the fine-tune takes at it, where it is not the recipe's
OF_THE_RECIPE: FieldsAt = {}

STEPS = (1, 2, 4, 8)
HALF_THE_EPOCHS: Fields = {"ann.epochs": 20}  # of nets whose epochs cost several times as much
NETS: dict[str, Fields] = {
    "vgg5": {},
    "vgg5-norm": {"network.norm": "batch"},
    "resnet8": HALF_THE_EPOCHS | {"network.architecture": "resnet8"},
    "resnet8-norm": HALF_THE_EPOCHS | {"network.architecture": "resnet8", "network.norm": "batch"},
    "vgg11-norm": HALF_THE_EPOCHS | {"network.architecture": "vgg11", "network.norm": "batch"},
}
ACTIVATIONS: dict[str, Fields] = {"relu": {"network.levels": None}, "qcfs": {}}
HALF_THE_FINETUNE: FieldsAt = {8: {"finetune.epochs": 3}}  # at a T where epochs take long
# On validation better than the recipe's.
OF_FASHION: FieldsAt = {num_steps: {"finetune.lr": 5e-4} for num_steps in (1, 2)}
OF_NETS: dict[str, FieldsAt] = {
    "resnet8-norm": {t: {"finetune.lr": 1e-3, "finetune.epochs": 9} for t in (1, 2, 4)} | {8: {"finetune.lr": 1e-3}}
}


def activation_of(recipe: str) -> str:
    """The activation of the ANN that a recipe converts."""
    return "relu" if RECIPES[recipe]["network.levels"] is None else "qcfs"


def _at(num_steps: int, finetune: FieldsAt = OF_THE_RECIPE) -> Fields:
    """T, and what fine-tuning takes at it."""
    return {"convert.num_steps": num_steps} | HALF_THE_FINETUNE.get(num_steps, {}) | finetune.get(num_steps, {})


def anns(net: str, seeds: tuple[int, ...] = SEEDS) -> Iterator[Trial]:
    """The ANNs of a net, with either activation."""
    for activation, fields in ACTIVATIONS.items():
        name = f"{net}-{activation}"
        yield Trial(name, NETS[net] | fields, ann_tested, seeds, ann=name)


def trials(
    net: str,
    recipes: tuple[str, ...],
    steps: tuple[int, ...] = STEPS,
    seeds: tuple[int, ...] = SEEDS,
    finetune: FieldsAt = OF_THE_RECIPE,
) -> Iterator[Trial]:
    """The whole pipeline of a net by several recipes at each T."""
    for recipe, num_steps in product(recipes, steps):
        fields = NETS[net] | RECIPES[recipe]
        fields |= _at(num_steps, finetune if fields["finetune.trained"] else OF_THE_RECIPE)
        yield Trial(f"{net}-{recipe}-t{num_steps}", fields, tested, seeds, f"{net}-{activation_of(recipe)}")


PARTS: dict[str, tuple[str, ...]] = {  # what is trained, by labels alone
    "weights": ("weights",),
    "weights-threshold": ("weights", "threshold"),
    "weights-leak": ("weights", "leak"),
    "weights-initial": ("weights", "initial"),
    "threshold-leak-initial": ("threshold", "leak", "initial"),
    "all": TRAINED,
}
BY_CHANNEL = "by-channel"
PENALTIES = (0.1, 0.3, 1.0, 3.0)


def qcfs_diet(num_steps: int) -> str:
    """The trial of the small VGG5 by `qcfs-diet` as it is, which those of parts and penalties stand beside."""
    return f"vgg5-qcfs-diet-t{num_steps}"


def parts(num_steps: int, seeds: tuple[int, ...] = SEEDS, finetune: FieldsAt = OF_THE_RECIPE) -> Iterator[Trial]:
    """What each part of `qcfs-diet` does, at one T."""
    labels = {"finetune.distillation": 0.0, "finetune.temperature": 1.0}
    by_labels = {name: labels | {"finetune.trained": trained} for name, trained in PARTS.items()}
    for name, fields in (by_labels | {BY_CHANNEL: {"finetune.by_channel": True}}).items():
        yield Trial(f"part-{name}", fields | _at(num_steps, finetune), tested, seeds, "vgg5-qcfs")


def penalties(num_steps: int, seeds: tuple[int, ...] = SEEDS) -> Iterator[Trial]:
    """Penalties on rates at one T."""
    for penalty in PENALTIES:
        fields = {"finetune.rate_penalty": penalty} | _at(num_steps)
        yield Trial(f"rate-{penalty:g}", fields, tested, seeds, "vgg5-qcfs")


def in_bytes(num_steps: int, seeds: tuple[int, ...] = SEEDS) -> Iterator[Trial]:
    """`qcfs-diet` with a byte a neuron and step for its gradient, beside the exact one of `trials`."""
    fields = {"finetune.residuals": "byte"} | _at(num_steps)
    yield Trial(f"byte-t{num_steps}", fields, tested, seeds, "vgg5-qcfs")
