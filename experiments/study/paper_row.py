"""The paper's own row: VGG5 on CIFAR-10 at its size, by STDB at T = 75 as in the paper, and at few steps.

STDB at T = 75 also in a net of a quarter of the width, which two CPU cores train in an hour, and not in a night.

At full size a run takes them hours: it is of one seed, the ANN's epochs are fewer than the paper's 300 and follow a
cosine from a higher rate, thresholds are balanced over 250 steps, and nets are compared and tested on one Poisson
stream. A batch is of 128 images: in float32 with 64, what a step of the ANN does with each of its 51 million weights is
45 % of its time, not 24 %. Matrix products take bfloat16, with which two cores with AMX take 0.74 of float32's time for
a step.

The QCFS ANN has 40 epochs, which end at 86.30 %, short of the paper's 87.88. So the ReLU ANN has 100, and few steps
begin with it, too.
"""

from collections.abc import Iterator

from experiments.fields import AUTO
from experiments.recipes import QCFS, RECIPES, Fields
from experiments.study.trials import Trial, ann_tested, tested

ONE_SEED = (0,)
OF_75_STEPS: Fields = {"convert.balance_steps": 250, "evaluate.eval_steps": 75, "evaluate.streams": 1}
AT_FULL_SIZE: Fields = OF_75_STEPS | {
    "data.batch_size": 128,
    "network.precision": "bfloat16",
    "ann.epochs": 100,
    "ann.lr": 0.04,
    "ann.schedule": "cosine",
}
QCFS_AT_FULL_SIZE: Fields = AT_FULL_SIZE | {"network.levels": QCFS["network.levels"], "ann.epochs": 40}
STDB_EPOCHS: Fields = {"finetune.epochs": 2, "finetune.comparison_streams": 1, "run.chunk": 15}  # 75 without padding
BEST_FACTOR: Fields = {"convert.scaling_factor": AUTO, "finetune.trained": ()}
AT_A_QUARTER: Fields = {  # what `vgg5_cifar10` has of itself, for a preset of other recipes
    **OF_75_STEPS,
    **RECIPES["paper"],
    "convert.scaling_factor": 0.7,
    "convert.num_steps": 75,
    "finetune.alpha": 0.5,
    "finetune.beta": 0.035,
}
FEW_STEPS_EPOCHS = {8: 3, 4: 6}  # T -> epochs of fine-tuning
# Adam moves each weight by the rate, and so the sum over a neuron's inputs by the rate times their number: a quarter of
# the recipe's, chosen at a quarter of the width. At the recipe's own, `qcfs-diet` at T = 8 ends 0.8 points below the
# converted net (validation).
RATE_OF_WEIGHTS = 5e-5


def as_in_the_paper() -> Iterator[Trial]:
    """The paper's pipeline with its factor on thresholds, and the conversion by the best factor."""
    yield Trial("relu", AT_FULL_SIZE, ann_tested, ONE_SEED, "relu")
    yield Trial("stdb-t75", AT_FULL_SIZE | STDB_EPOCHS, tested, ONE_SEED, "relu")
    yield Trial("converted-t75", AT_FULL_SIZE | BEST_FACTOR, tested, ONE_SEED, "relu")


def at_a_quarter() -> Iterator[Trial]:
    """The same pipelines in the net of `cifar10_cpu`, a quarter as wide, from its ANN; also with calibrated logits."""
    yield Trial("paper-t75", AT_A_QUARTER | STDB_EPOCHS, tested, ONE_SEED)
    calibrated = {"finetune.logit_scale": AUTO, "finetune.epochs": 1}
    yield Trial("calibrated-t75", AT_A_QUARTER | STDB_EPOCHS | calibrated, tested, ONE_SEED)
    yield Trial("converted-t75", AT_A_QUARTER | BEST_FACTOR, tested, ONE_SEED)


def at_few_steps() -> Iterator[Trial]:
    """The net at full size by `diet`, from the ReLU ANN, and by `qcfs-diet` from a QCFS ANN of fewer epochs."""
    for num_steps in FEW_STEPS_EPOCHS:
        fields = AT_FULL_SIZE | RECIPES["diet"] | _at(num_steps) | {"finetune.lr": RATE_OF_WEIGHTS}
        yield Trial(f"diet-t{num_steps}", fields, tested, ONE_SEED, "relu")
    yield Trial("qcfs", QCFS_AT_FULL_SIZE, ann_tested, ONE_SEED, "qcfs")
    yield Trial("qcfs-diet-t8", QCFS_AT_FULL_SIZE | RECIPES["qcfs-diet"] | _at(8), tested, ONE_SEED, "qcfs")


def _at(num_steps: int) -> Fields:
    """The fields of so few steps."""
    epochs = FEW_STEPS_EPOCHS[num_steps]
    return {"convert.num_steps": num_steps, "finetune.epochs": epochs, "evaluate.eval_steps": 16}
