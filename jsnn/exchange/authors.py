"""Checkpoints of the paper's authors: of hybrid-snn-conversion and of DIET-SNN, their VGGs and ResNets."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.conversion.scaling import from_paper_thresholds
from jsnn.conversion.thresholds import convert
from jsnn.exchange.authors_networks import in_order, is_parameter, network_of
from jsnn.exchange.state_dicts import as_array, from_torch
from jsnn.exchange.torch_files import read_torch_file
from jsnn.models.architectures import VGG, ResNet
from jsnn.network.transformation import NEURONS, Variables, spiking

THRESHOLD, LEAK = re.compile(r"threshold\.t(\d+)"), re.compile(r"leak\.l(\d+)")  # of DIET-SNN, trained
NUMBERS = {"thresholds", "scaling_threshold", "leak", "leak_mem", "timesteps"}  # beside the state_dict


class AuthorsCheckpoint(NamedTuple):
    """A network of the paper's authors."""

    ann: VGG | ResNet
    variables: Variables  # of the ANN; of its SNN, with "neurons", where the file has thresholds
    num_steps: int | None  # time steps that an SNN was trained for; None in the file of an ANN


def load_authors_checkpoint(path: str | Path, image_shape: tuple[int, int, int]) -> AuthorsCheckpoint:
    """Read a VGG or ResNet of the paper's authors, ANN, SNN or DIET-SNN, into `jsnn.models`.

    Thresholds come from the paper's units, V_l = v_l V_(l-1), so that `jsnn.spiking(ann.apply)` with the variables
    spikes as their network does; theirs emits the spikes of a layer one step later, and needs as many steps more as it
    has spiking layers. A shortcut's spikes have the unit of its block's input; where the block's first neurons have
    another, as their threshold is not 1, the kernel behind them is divided by it. Not in the file is that some versions
    of DIET-SNN have a ReLU in place of the first neurons.

    A file that holds objects beside tensors, as old ones may, is refused, for opening it runs what is in it. In the
    environment that made it, it is saved anew by

        state = torch.load(path)
        names = {"thresholds", "scaling_threshold", "leak", "leak_mem", "timesteps"} & set(state)
        others = {name: torch.tensor(state[name]) for name in names}
        safetensors.torch.save_file({**state["state_dict"], **others}, "checkpoint.safetensors")

    Args:
        path: of a file of `torch.save` or, by its name, of safetensors, see `read_torch_file`.
        image_shape: (H, W, C) of the images that the network was made for, as (32, 32, 3).

    Returns:
        The ANN's module, its or the SNN's variables, and the time steps.

    Raises:
        ValueError: where the file can't be read safely, or holds another network, or neurons out of their range.
    """
    state = read_torch_file(path)
    tensors = _tensors(path, state)
    parameters = {name: tensors[name] for name in in_order(filter(is_parameter, tensors))}
    ann = network_of(path, parameters)
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    modules = dict.fromkeys(name.rpartition(".")[0] for name in parameters)
    places = {module: place for place, module in enumerate(modules)}  # in front of names, which then are in order
    numbered = {f"{places[name.rpartition('.')[0]]}.{name}": value for name, value in parameters.items()}
    variables = from_torch(numbered, ann.apply, jax.eval_shape(ann.init, jax.random.key(0), x), x)
    thresholds, leaks, steps = _thresholds(state, tensors, ann), _leaks(state, tensors), _steps(state)
    if not thresholds:
        return AuthorsCheckpoint(ann, variables, None)
    names, leaks = ann.spiking_layers, leaks * len(thresholds) if len(leaks) == 1 else leaks
    if not len(names) == len(thresholds) == len(leaks):
        counts = f"{len(thresholds)} thresholds and {len(leaks)} leaks"
        raise ValueError(f"{path} has {counts} for the {len(names)} spiking layers of its network.")
    variables, thresholds = _in_our_units(variables, dict(zip(names, thresholds, strict=True)))
    return AuthorsCheckpoint(ann, _with_neurons(ann, variables, thresholds, leaks), steps)


def _tensors(path: str | Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's state_dict holds, by names without the prefix of DataParallel; ValueError for another one."""
    held = state.get("state_dict", state)
    if not isinstance(held, Mapping):
        raise ValueError(f"{path} has a {type(held).__name__} as its state_dict, which has to be a dict of tensors.")
    tensors = {}
    for name, value in held.items():
        own = str(name).removeprefix("module.")
        if not _is_known(own):
            raise ValueError(f"{path} holds {name}: only the authors' VGGs and ResNets are read.")
        if is_parameter(own) and not getattr(value, "shape", ()):
            raise ValueError(f"{path} holds a number as {name}: weights have to be tensors with axes.")
        tensors[own] = value
    return tensors


def _is_known(name: str) -> bool:
    """Whether a name is that of a parameter, of a trained threshold or leak, or of a number beside the state_dict."""
    return is_parameter(name) or name in NUMBERS or bool(THRESHOLD.fullmatch(name) or LEAK.fullmatch(name))


def _in_our_units(variables: Variables, thresholds: Mapping[str, float]) -> tuple[Variables, dict[str, float]]:
    """Thresholds from the paper's units, with the kernels whose spikes have the unit of a block's input."""
    firsts = {name: threshold for name, threshold in thresholds.items() if name.endswith("_conv0")}  # of blocks
    ours, params = from_paper_thresholds({**thresholds, **dict.fromkeys(firsts, 1.0)}), dict(variables["params"])
    for name, threshold in firsts.items():
        second = name.replace("_conv0", "_conv1")
        ours[name] *= threshold
        params[second] = {"kernel": params[second]["kernel"] / threshold}
    return {**variables, "params": params}, ours


def _with_neurons(
    ann: VGG | ResNet, variables: Variables, thresholds: Mapping[str, float], leaks: Sequence[float]
) -> Variables:
    converted = convert(spiking(ann.apply), variables, thresholds)
    for name, leak in zip(thresholds, leaks, strict=True):
        if not 0 < leak <= 1:
            raise ValueError(f"the leak of {name} must be in (0, 1], got {leak}.")
        converted[NEURONS][name]["leak"] = jnp.full_like(converted[NEURONS][name]["leak"], leak)
    return converted


def _thresholds(state: Mapping[str, Any], tensors: Mapping[str, Any], ann: VGG | ResNet) -> list[float]:
    """By layer, in the paper's units: trained ones, or listed ones, which older files scale when they are loaded.

    Those of a ResNet's blocks are not scaled.
    """
    listed, scaling = _listed(state, "thresholds"), _listed(state, "scaling_threshold") or [1.0]
    stem = listed[: len(ann.stem_layers)] if isinstance(ann, ResNet) else listed
    return _numbers(tensors, THRESHOLD) or [*(scaling[0] * threshold for threshold in stem), *listed[len(stem) :]]


def _leaks(state: Mapping[str, Any], tensors: Mapping[str, Any]) -> list[float]:
    """By layer, or one for all."""
    return _numbers(tensors, LEAK) or _listed(state, "leak") or _listed(state, "leak_mem") or [1.0]


def _numbers(tensors: Mapping[str, Any], pattern: re.Pattern[str]) -> list[float]:
    """The numbers by these names, in the order of their layers."""
    numbered = {int(matched[1]): value for name, value in tensors.items() if (matched := pattern.fullmatch(name))}
    return [float(as_array(numbered[place]).item()) for place in sorted(numbered)]


def _steps(state: Mapping[str, Any]) -> int | None:
    """The time steps, if there are any."""
    steps = next(iter(_listed(state, "timesteps")), None)
    if steps is not None and not (steps >= 1 and steps % 1 == 0):
        raise ValueError(f"the timesteps of a checkpoint must be a number of steps, at least 1, got {steps}.")
    return None if steps is None else int(steps)


def _listed(state: Mapping[str, Any], name: str) -> list[float]:
    """A number, or a list of them, as a list; empty where there is none."""
    value = state.get(name)
    if value is None:
        return []
    parts = value if isinstance(value, list | tuple) else [value]
    try:
        return [float(number) for part in parts for number in np.ravel(as_array(part))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} of a checkpoint must be a number or a list of numbers, got {value}.") from error
