"""Presets made small, whose programs tests count and compile."""

from experiments.config import with_fields
from experiments.presets import PRESETS

VGG5 = with_fields(PRESETS["vgg5_cifar10"].config, {"network.width": 0.25, "network.hidden": (256,)})
