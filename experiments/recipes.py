"""Recipes: named sets of fields for turning an ANN into a spiking network, each for a range of time steps.

`--recipe NAME` applies one to a preset; any field can still be set by itself. docs/recipes.md says what each is for.
All recipes set the same fields, so one recipe replaces another completely.
"""

from typing import Any

from experiments.config import with_fields
from experiments.fields import AUTO, TRAINED, Config

Fields = dict[str, Any]  # GROUP.FIELD of a config -> value

FEW_STEPS = 8  # up to which `qcfs-diet` is taken where none is named


def _of(group: str, **fields: Any) -> Fields:
    return {f"{group}.{name}": value for name, value in fields.items()}


RELU: Fields = {"network.levels": None, "convert.scaling_factor": AUTO}  # chosen for the time steps
QCFS: Fields = {"network.levels": 4, "convert.scaling_factor": 1.0, "convert.percentile": 100.0}
# A sum of Poisson spikes' results, in the paper's units; weights alone are trained, of leaky neurons.
POISSON: Fields = {
    **_of("convert", encoding="poisson", initial=0.0, scaling="paper", logits="sum", percentile=100.0),
    **_of("finetune", leak=0.99, trained=("weights",), gamma=0.3, neuron_lr=3e-4, schedule="tenths"),
    **_of("finetune", distillation=0.0, temperature=1.0),
}
STDB = _of("finetune", surrogate="stdb", lr=1e-4, weight_decay=5e-4)
LINEAR = _of("finetune", surrogate="linear", lr=3e-4, weight_decay=0.0)
# The image is the current at every step, neurons start half way to their thresholds; the mean of the results counts.
# Half of the loss asks for the ANN's own logits, softened.
DIRECT: Fields = {
    **_of("convert", encoding="constant", initial=0.5, scaling="uniform", logits="mean"),
    **_of("finetune", surrogate="linear", gamma=1.0, schedule="cosine", leak=1.0, lr=2e-4, neuron_lr=2e-4),
    **_of("finetune", weight_decay=0.0, logit_scale=1.0, distillation=0.5, temperature=2.0),
}
RECIPES: dict[str, Fields] = {
    "paper": {**RELU, **POISSON, **STDB, "finetune.logit_scale": 1.0},
    "linear": {**RELU, **POISSON, **LINEAR, "finetune.logit_scale": AUTO},
    "diet": {**RELU, **DIRECT, "convert.percentile": 99.7, "finetune.trained": TRAINED},
    "qcfs": {**QCFS, **DIRECT, "finetune.trained": ()},
    "qcfs-diet": {**QCFS, **DIRECT, "finetune.trained": TRAINED},
}


def with_recipe(config: Config, name: str | None) -> Config:
    """The config with the fields of a recipe, or as it is."""
    return config if name is None else with_fields(config, RECIPES[name])


def recipe_for(num_steps: int) -> str:
    """The recipe for so many time steps where none is named."""
    return "qcfs-diet" if num_steps <= FEW_STEPS else "linear"
