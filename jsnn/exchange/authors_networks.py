"""Which network a checkpoint of the paper's authors holds, by the names and shapes of its weights."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jsnn.models.architectures import POOL, RESNET_CHANNELS, VGG, VGG_STAGES, ResNet

STAGES = tuple(f"layer{stage}" for stage in range(1, 1 + len(RESNET_CHANNELS)))  # of a ResNet's blocks
PARTS = ("features", "pre_process", *STAGES, "classifier")  # of their networks, in forward order
# Numbers count dropout, ReLU and pools, too; a block has its number and two branches.
PARAMETER = re.compile(rf"({'|'.join(PARTS)})\.(?:(\d+)\.(residual|identity)\.)?(\d+)\.\w+")


def is_parameter(name: str) -> bool:
    """Whether a name is that of a parameter of their networks."""
    return PARAMETER.fullmatch(name) is not None


def in_order(names: Iterable[str]) -> list[str]:
    """Names of parameters in forward order, a block's shortcut last."""

    def place(name: str) -> tuple[int, int, bool, int]:
        part, block, branch, number = PARAMETER.fullmatch(name).groups()
        return PARTS.index(part), int(block or 0), branch == "identity", int(number)

    return sorted(names, key=place)


def network_of(path: str | Path, parameters: Mapping[str, Any]) -> VGG | ResNet:
    """The network whose parameters these are, in forward order; ValueError, with the file's path, where none is."""
    units: dict[str, dict[str, int]] = {}  # part -> a layer's weight -> its channels or units
    for name, value in parameters.items():
        if name.endswith(".weight"):
            units.setdefault(name.partition(".")[0], {})[name] = int(value.shape[0])
    *hidden, classes = units.get("classifier", {}).values() or [None]
    if classes is None:
        raise ValueError(f"{path} has no classifier: only the authors' VGGs and ResNets are read.")
    if "pre_process" not in units:
        return VGG(_vgg_stages(path, [*units.get("features", {}).values()]), tuple(hidden), classes)
    if hidden:
        raise ValueError(f"{path} has a classifier of {len(hidden) + 1} layers: jsnn.models.ResNet has one.")
    blocks = tuple(sum(name.endswith(".residual.0.weight") for name in units.get(stage, ())) for stage in STAGES)
    widest = [max(units.get(stage, {}).values(), default=None) for stage in STAGES]
    channels = tuple(own or usual for own, usual in zip(widest, RESNET_CHANNELS, strict=True))
    return ResNet(blocks, channels, classes)


def _vgg_stages(path: str | Path, channels: list[int]) -> tuple[int | str, ...]:
    """The stages of the VGG whose convolutions have as many channels; a file does not tell where its pools are."""
    for words in VGG_STAGES.values():
        stages = tuple(word if word == POOL else int(word) for word in words.split())
        if [stage for stage in stages if stage != POOL] == channels:
            return stages
    raise ValueError(f"{path} has convolutions of {channels} channels: none of {', '.join(VGG_STAGES)} has these.")
