"""All fields of a run in groups, with their units, defaults and ranges; a bad value is refused at the door.

The groups stand in the order of the stages: what a stage finds depends on its own group and those above it, and on
nothing in `run`. On the command line the stages whose fields share names are prefixes, --ann.lr; the others are not.
"""

import dataclasses
import json
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import tyro
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from jsnn.data.datasets import info
from jsnn.models import ARCHITECTURES
from jsnn.training.optimizers import OPTIMIZERS, SCHEDULES

AUTO = "auto"
Auto = Literal["auto"]
Schedule = Literal[SCHEDULES]

# A range, and how an error says it.
Count = Annotated[int, Field(ge=1, lt=2**31, description="at least 1 and below 2^31")]
Size = Annotated[int, Field(ge=0, le=1024, description="at least 0 and at most 1024")]
Epochs = Annotated[int, Field(ge=1, le=100_000, description="at least 1 and at most 100000")]
Streams = Annotated[int, Field(ge=1, le=1000, description="at least 1 and at most 1000")]
Units = Annotated[int, Field(ge=1, le=65_536)]
Steps = Annotated[int, Field(ge=1, le=100_000, description="at least 1 and at most 100000")]  # reported are up to 2,500
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="above 0 and finite")]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, description="at least 0 and finite")]
PositiveOrAuto = Annotated[Positive | Auto, Field(description="above 0 and finite, or auto")]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="at least 0 and below 2^32")]
DropoutRate = Annotated[float, Field(ge=0, lt=1, description="in [0, 1)")]
Unprefixed = tyro.conf.arg(name="")


def _group(fields: type) -> type:
    """A frozen dataclass whose JSON form has no other fields."""
    fields.__pydantic_config__ = ConfigDict(extra="forbid")
    return dataclass(frozen=True)(fields)


@_group
class Data:
    """Training data."""

    # Data set: digits, mnist, fashion_mnist, cifar10, cifar100, imagenet2012, or one that data_module registers.
    dataset: str = "digits"
    crop_padding: Size = 0  # Random crops of training images reach this many pixels beyond their border.
    flip: bool = False  # Mirror training images at random.
    batch_size: Count = 64  # Training images per step, over all devices.


@_group
class Network:
    """Architecture, the same for ANN and SNN."""

    architecture: Literal[ARCHITECTURES] = "vgg5"  # Architecture, as the paper has it.
    # Factor on the channels of all convolutions; 1 is the paper's network.
    width: Annotated[float, Field(gt=0, le=64, allow_inf_nan=False, description="above 0 and at most 64")] = 1.0
    # Units of the hidden dense layers of a VGG.
    hidden: Annotated[tuple[Units, ...], Field(description="at least 1 and at most 65536 units each")] = (4096, 4096)
    conv_dropout: DropoutRate = 0.2  # Dropout rate after convolutions.
    dense_dropout: DropoutRate = 0.5  # Dropout rate after hidden dense layers.
    # Standard deviation of the initial weights of dense layers; narrow ones need more than the paper's 0.01.
    dense_std: Positive = 0.01
    # Numbers that enter matrix products; sums, membranes and optimiser keep float32. bfloat16 is for GPU and TPU.
    precision: Literal["float32", "bfloat16"] = "float32"


@_group
class ANN:
    """Training of the ANN, by SGD with momentum 0.9."""

    epochs: Epochs = 300  # Epochs.
    lr: Positive = 1e-2  # Initial learning rate.
    # Learning rate: divided by 10 at 60/80/90 % of the epochs, halved every 5 epochs, or constant.
    schedule: Schedule = "tenths"
    weight_decay: NonNegative = 5e-4  # L2 term in the gradient: weights times this.


@_group
class Convert:
    """Conversion of the ANN to an SNN of T time steps."""

    balance_images: Count = 512  # Training images on which thresholds are balanced.
    balance_steps: Steps = 1000  # Time steps over which thresholds are balanced.
    # Percentile of the input current that becomes the threshold; 100 is the maximum.
    percentile: Annotated[float, Field(gt=0, le=100, description="in (0, 100]")] = 100.0
    balance: Literal["all", "stem"] = "all"  # Layers to balance: all, or a ResNet's stem only, as the paper did.
    # Factor on all thresholds at num_steps, or auto: the best of a sweep on the validation split.
    scaling_factor: PositiveOrAuto = AUTO
    num_steps: Steps = 100  # T: time steps of the SNN in training, and at which its accuracy is reported.
    # Input of the SNN: signed Poisson spikes, or the image itself at every step.
    encoding: Literal["poisson", "constant"] = "poisson"


@_group
class Finetune:
    """Fine-tuning of the SNN with a surrogate gradient."""

    # Initial weights: the converted ANN's, or random ones (the control).
    start: Literal["converted", "scratch"] = "converted"
    # Surrogate derivative of the spike: the linear one suits few time steps, STDB is the paper's.
    surrogate: Literal["stdb", "linear"] = "linear"
    alpha: Positive = 0.3  # STDB: derivative right after a spike.
    beta: NonNegative = 0.01  # STDB: decay of the derivative per time step since the last spike.
    gamma: Positive = 0.3  # Linear: derivative at the threshold.
    # Leak of the membrane per time step; 1 is IF. The converted net is always IF.
    leak: Annotated[float, Field(gt=0, le=1, description="in (0, 1]")] = 0.99
    epochs: Epochs = 20  # Epochs.
    lr: Positive = 3e-4  # Initial learning rate; STDB needs a tenth of the linear surrogate's.
    schedule: Schedule = "tenths"  # Learning rate: see ann.schedule.
    optimizer: Literal[OPTIMIZERS] = "adam"  # Optimiser.
    # L2 term in the gradient; Adam makes it shrink the weights of silent neurons at full rate.
    weight_decay: NonNegative = 0.0
    warmup: NonNegative = 0.0  # Epochs over which the learning rate rises to its schedule.
    # Largest norm of the whole gradient; None does not clip.
    clip: Annotated[Positive | None, Field(description="above 0 and finite, or None")] = None
    # Factor on the logits in the loss, or auto: the one that calibrates the converted net, whose sum over time is too
    # sure of itself. The paper has 1.
    logit_scale: PositiveOrAuto = AUTO


@_group
class Evaluate:
    """Evaluation of the SNNs on the test split."""

    eval_steps: Steps = 100  # Time steps up to which accuracy is reported.
    streams: Streams = 5  # Poisson streams over which accuracy at num_steps is averaged.


@_group
class Runtime:
    """Where and how a run computes; changes no result, and may change where a run goes on."""

    data_dir: str | None = None  # Folder of prepared TFDS data sets; None is TFDS's own default.
    data_module: str | None = None  # Python module that registers your own data sets, see jsnn.data.datasets.register.
    workers: Size = 0  # Processes that decode streamed images (ImageNet); 0 decodes in threads.
    accumulate: Count = 1  # Parts of a device's batch that a training step takes one after the other, for less memory.
    eval_batch_size: Count = 256  # Images per step in evaluation, over all devices.
    # Time steps that run at once, or auto: 8 to 12, or as few as a device's memory asks for.
    chunk: Annotated[Count | Auto, Field(description="at least 1 and below 2^31, or auto")] = AUTO
    compilation_cache: str | None = None  # Folder where compiled programs are kept for the next run; None keeps none.
    # What to do where a loss or gradient is not finite: stop the run, or skip the step and count it.
    on_nan: Literal["stop", "skip"] = "stop"
    keep_checkpoints: Count = 2  # Checkpoints kept of each stage.
    # Save also after so many optimiser steps within an epoch; None does not count steps.
    checkpoint_steps: Annotated[Count | None, Field(description="at least 1 and below 2^31, or None")] = None
    checkpoint_minutes: Positive = 10.0  # Save also after so many minutes within an epoch.
    tensorboard: bool = True  # Write TensorBoard files too, where tensorboardX is installed.


@_group
class Config:
    """A run; its defaults are the paper's recipe, but for fine-tuning, where they are what serves few time steps."""

    seed: Seed = 0  # Seed of everything random.
    data: Annotated[Data, Unprefixed] = Data()
    network: Annotated[Network, Unprefixed] = Network()
    ann: ANN = ANN()
    convert: Annotated[Convert, Unprefixed] = Convert()
    finetune: Finetune = Finetune()
    evaluate: Annotated[Evaluate, Unprefixed] = Evaluate()
    run: Annotated[Runtime, Unprefixed] = Runtime()


GROUPS = tuple(field.name for field in dataclasses.fields(Config))
PREFIXED = ("ann", "finetune")
PATHS = ("data_dir", "compilation_cache")


def check(config: Config) -> None:
    """Refuse a config with a value out of its range, or fields that do not go together, by name, value and range."""
    _validated(dataclasses.asdict(config))
    about, num_steps, balance = info(config.data.dataset), config.convert.num_steps, config.convert.balance
    if config.evaluate.eval_steps < num_steps:
        raise ValueError(f"eval_steps must be at least num_steps, {num_steps}, got {config.evaluate.eval_steps}.")
    if balance == "stem" and not config.network.architecture.startswith("resnet"):
        raise ValueError(f"balance stem is for ResNets, {config.network.architecture} has no stem: use balance all.")
    if about.streamed and (config.data.crop_padding or config.data.flip):
        raise ValueError(f"{config.data.dataset} has crops and flips of its own: leave crop_padding 0 and flip off.")


def from_json(fields: dict[str, Any]) -> Config:
    """The Config of its JSON form; ValueError where a field is missing, unknown or out of its range.

    Those in `run` may be missing, for they change no result: an older version may have had fewer.
    """
    config = _validated(fields)
    for group, values in dataclasses.asdict(config).items():
        missing = {*values} - {*fields.get(group, ())} if isinstance(values, dict) else {group} - {*fields}
        if missing and group != "run":
            raise ValueError(f"the field {_name(group, min(missing))} is missing.")
    as_they_are = {name: fields["run"][name] for name in PATHS if name in fields.get("run", ())}
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **as_they_are))


def difference(one: Config, other: Config, last: str = "evaluate") -> str | None:
    """The first field in which two configs differ, with both values, or None; of the groups up to the last named.

    That is "evaluate" for all that matter to results, and "run" for all.
    """
    there, here = dataclasses.asdict(one), dataclasses.asdict(other)
    for group in GROUPS[: GROUPS.index(last) + 1]:
        if not isinstance(there[group], dict):
            there[group], here[group] = {group: there[group]}, {group: here[group]}
        for name, value in there[group].items():
            if value != here[group][name]:
                return f"{_name(group, name)} is {value} there and {here[group][name]} here"
    return None


def _validated(fields: Any) -> Config:
    # As JSON, where a strict check takes lists for tuples and whole numbers for floats, but no text for numbers. A path
    # may hold bytes that are no UTF-8, which Python writes as surrogates and JSON's readers refuse.
    text = json.dumps(fields, default=str, ensure_ascii=False).encode(errors="replace")
    try:
        return _adapter().validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(_sentence(error, fields)) from error


@cache
def _adapter() -> TypeAdapter:
    return TypeAdapter(Config)


def _sentence(error: ValidationError, fields: Any) -> str:
    """What is wrong with the first field that is, and what it must be."""
    first = error.errors()[0]
    if len(first["loc"]) == 0 or first["type"] == "dataclass_type":
        return f"the fields of a config are groups of names and values, got {first['input']!r}."
    group, name = (*map(str, first["loc"]), None)[:2]
    if first["type"] == "unexpected_keyword_argument":
        return f"there is no field {_name(group, name)}."
    value = fields[group] if name is None else fields[group][name]
    what = _range(group, name) or first["msg"].removeprefix("Input should be ")
    return f"{_name(group, name)} must be {what}, got {value!r}."


def _range(group: str, name: str | None) -> str | None:
    """The range of a field as its annotation says it."""
    owner, name = (getattr(Config(), group), name) if name else (Config, group)
    kind = next(field.type for field in dataclasses.fields(owner) if field.name == name)
    return next((limits.description for limits in getattr(kind, "__metadata__", ())), None)


def _name(group: str, name: str | None) -> str:
    """A field's name on the command line, with underscores."""
    return f"{group}.{name}" if group in PREFIXED else name or group
