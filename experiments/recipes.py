"""Recipes: how an ANN becomes spiking for the time steps asked for, each a set of fields that go together.

`--recipe NAME` lays one over a preset; any field can still be set by itself. docs/recipes.md says what each is for.
"""

from typing import Any

from experiments.config import with_fields
from experiments.fields import AUTO, TRAINED, Config

Fields = dict[str, Any]  # GROUP.FIELD of a config -> value

FEW_STEPS = 16  # time steps up to which `qcfs-diet` is the best of them

RELU: Fields = {"network.levels": None}
QCFS: Fields = {"network.levels": 4, "convert.scaling_factor": 1.0}
# The image itself is the current at every step, and neurons start half way to their thresholds.
DIRECT: Fields = {"convert.encoding": "constant", "convert.initial": 0.5, "convert.scaling": "uniform"}
# A sum of Poisson spikes' results, in the paper's units, as the paper trains it.
POISSON: Fields = {
    "convert.encoding": "poisson",
    "convert.initial": 0.0,
    "convert.scaling": "paper",
    "finetune.leak": 0.99,
    "finetune.trained": ("weights",),
    "finetune.logits": "sum",
}
PAPER: Fields = {
    "finetune.surrogate": "stdb",
    "finetune.lr": 1e-4,
    "finetune.weight_decay": 5e-4,
    "finetune.logit_scale": 1.0,
    "finetune.schedule": "tenths",
    "convert.percentile": 100.0,
}
LINEAR: Fields = {
    "finetune.surrogate": "linear",
    "finetune.gamma": 0.3,
    "finetune.lr": 3e-4,
    "finetune.weight_decay": 0.0,
    "finetune.schedule": "tenths",
    "finetune.logit_scale": AUTO,
}
# Thresholds, leaks and initial membranes are trained with the weights, by the mean of the results.
DIET: Fields = {
    "finetune.surrogate": "linear",
    "finetune.gamma": 1.0,
    "finetune.lr": 5e-4,
    "finetune.weight_decay": 0.0,
    "finetune.schedule": "cosine",
    "finetune.logits": "mean",
    "finetune.logit_scale": 1.0,
    "finetune.leak": 1.0,
    "finetune.trained": TRAINED,
    "finetune.neuron_lr": 5e-4,
}
RECIPES: dict[str, Fields] = {
    "paper": {**RELU, **POISSON, **PAPER},
    "linear": {**RELU, **POISSON, **LINEAR},
    "diet": {**RELU, **DIRECT, "convert.percentile": 99.7, "convert.scaling_factor": AUTO, **DIET},
    "qcfs": {**QCFS, **DIRECT, **DIET, "finetune.epochs": 0},
    "qcfs-diet": {**QCFS, **DIRECT, **DIET},
}


def with_recipe(config: Config, name: str | None) -> Config:
    """The config with the fields of a recipe, or as it is."""
    return config if name is None else with_fields(config, RECIPES[name])


def recipe_for(num_steps: int) -> str:
    """The recipe that the study favours for so many time steps."""
    return "qcfs-diet" if num_steps <= FEW_STEPS else "linear"
