"""All fields of a run in groups, with their units, defaults and ranges.

The groups stand in the order of the stages: what a stage finds depends on its own group and those above it, and on
nothing in `run`. On the command line the stages whose fields share names are prefixes, --ann.lr; the others are not.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from pydantic import ConfigDict, Field

from jsnn.models import ARCHITECTURES
from jsnn.training.forward import RESIDUALS
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
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, description="in [0, 1]")]
DropoutRate = Annotated[float, Field(ge=0, lt=1, description="in [0, 1)")]
TRAINED = ("weights", "threshold", "leak", "initial")
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
    # Batch norm behind every convolution and hidden dense map; the paper's networks have none.
    norm: Literal["none", "batch"] = "none"
    # L of QCFS, the activation of an ANN that is to be converted for about as many time steps; None is ReLU.
    levels: Annotated[Count | None, Field(description="at least 1 and below 2^31, or None")] = None
    # Numbers that enter matrix products; sums, membranes and optimiser keep float32. bfloat16 is for GPU, TPU, AMX.
    precision: Literal["float32", "bfloat16"] = "float32"


@_group
class ANN:
    """Training of the ANN, by SGD with momentum 0.9."""

    epochs: Epochs = 300  # Epochs.
    lr: Positive = 1e-2  # Initial learning rate.
    # Learning rate: divided by 10 at 60/80/90 % of the epochs, halved every 5 epochs, a cosine, constant.
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
    # Batch norm becomes part of weights and biases, which are then trained in its place.
    fold: bool = False
    # Membrane before the first time step, as a share of the threshold; 0.5 serves few time steps.
    initial: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False, description="in [-1, 1]")] = 0.0
    # What a factor on thresholds multiplies: each in the paper's units, where it compounds with depth, or in the ANN's.
    scaling: Literal["paper", "uniform"] = "paper"
    # Factor on all thresholds at num_steps, or auto: the best of a sweep on validation images.
    scaling_factor: PositiveOrAuto = AUTO
    num_steps: Steps = 100  # T: time steps of the SNN in training, and at which its accuracy is reported.
    # Logits: the sum of the results over time in the paper's units, or their mean in the ANN's.
    logits: Literal["sum", "mean"] = "sum"
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
    # What is trained: weights and parameters of neurons. With nothing the converted net stays as it is.
    trained: Annotated[tuple[Literal[TRAINED], ...], Field(description=f"some of {', '.join(TRAINED)}")] = ("weights",)
    by_channel: bool = False  # Train one parameter of neurons by channel, not by layer.
    neuron_lr: Positive = 3e-4  # Initial learning rate of the parameters of neurons, which have no weight decay.
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
    distillation: Share = 0.0  # Share of the loss that asks for the ANN's own logits, instead of the labels.
    temperature: Positive = 1.0  # Divides both nets' logits in distillation.
    # What is kept of neurons for the gradient: all that makes it exact; a byte a step, where bits do not do; or what
    # suits, exact in one chunk and else a byte.
    residuals: Literal[RESIDUALS] = "exact"
    rate_penalty: NonNegative = 0.0  # Added to the loss for a spike of every neuron at every time step [nats].
    comparison_streams: Streams = 5  # Poisson streams over which the net is then compared with the converted one.


@_group
class Evaluate:
    """Evaluation of the SNNs on the test split."""

    eval_steps: Steps = 100  # Time steps up to which accuracy is reported.
    streams: Streams = 5  # Poisson streams over which accuracy at num_steps is averaged.
    exit_cost: Share = 0.001  # Validation accuracy that it may cost to stop a sample as soon as the net is sure of it.


@_group
class Runtime:
    """Where and how a run computes; changes no result, and may change where a run goes on.

    But for `finetune.residuals` "auto", which goes by the chunk, and batch norm in an ANN's training, whose statistics
    are those of a device's part of a batch.
    """

    data_dir: str | None = None  # Folder of prepared TFDS data sets; None is TFDS's own default.
    data_module: str | None = None  # Python module that registers your own data sets, see jsnn.data.datasets.register.
    workers: Size = 0  # Processes that decode streamed images (ImageNet); 0 decodes in threads.
    accumulate: Count = 1  # Parts of a device's batch that a training step takes one after the other, for less memory.
    eval_batch_size: Count = 256  # Images per step in evaluation, over all devices.
    # Time steps that run at once, or auto: 8 to 12, or as few as a device's memory asks for.
    chunk: Annotated[Count | Auto, Field(description="at least 1 and below 2^31, or auto")] = AUTO
    # How much the compiler does for a CPU: less takes two thirds of its time, for programs up to a quarter slower.
    compile_effort: Literal["full", "less"] = "full"
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
    """A run; its defaults are the paper's, but fine-tuning and the thresholds' factor, which serve few time steps."""

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
