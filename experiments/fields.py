"""All fields of a run, in groups in the order of the stages, whose results depend on their own and those before it."""

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

# Ranges, each with its text for errors.
Count = Annotated[int, Field(ge=1, lt=2**31, description="at least 1 and below 2^31")]
CountOrNone = Annotated[Count | None, Field(description="at least 1 and below 2^31, or None")]
Size = Annotated[int, Field(ge=0, le=1024, description="at least 0 and at most 1024")]
Streams = Annotated[int, Field(ge=1, le=1000, description="at least 1 and at most 1000")]
Units = Annotated[int, Field(ge=1, le=65_536)]
Epochs = Steps = Annotated[int, Field(ge=1, le=100_000, description="at least 1 and at most 100000")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="above 0 and finite")]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, description="at least 0 and finite")]
PositiveOrAuto = Annotated[Positive | Auto, Field(description="above 0 and finite, or auto")]
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
    crop_padding: Size = 0  # Pixels of padding around training images before a random crop.
    flip: bool = False  # Mirror training images at random.
    batch_size: Count = 64  # Training images per step, over all devices.


@_group
class Network:
    """Architecture, the same for ANN and SNN."""

    architecture: Literal[ARCHITECTURES] = "vgg5"  # Architecture, as in the paper.
    # Factor on the channels of all convolutions; 1 is the paper's network.
    width: Annotated[float, Field(gt=0, le=64, allow_inf_nan=False, description="above 0 and at most 64")] = 1.0
    # Units of the hidden dense layers of a VGG.
    hidden: Annotated[tuple[Units, ...], Field(description="at least 1 and at most 65536 units each")] = (4096, 4096)
    conv_dropout: DropoutRate = 0.2  # Dropout rate after convolutions.
    dense_dropout: DropoutRate = 0.5  # Dropout rate after hidden dense layers.
    dense_std: Positive = 0.01  # Standard deviation of dense layers' initial weights; narrow ones need more than 0.01.
    norm: Literal["none", "batch"] = "none"  # Batch norm after convolutions and hidden dense layers; none in the paper.
    levels: CountOrNone = None  # Levels L of QCFS, which makes the ANN ready for about L time steps; None is ReLU.
    # Type of the inputs of matrix products; sums, membranes, optimiser stay float32. bfloat16 is for GPU, TPU, AMX.
    precision: Literal["float32", "bfloat16"] = "float32"


@_group
class ANN:
    """Training of the ANN, by SGD with momentum 0.9."""

    epochs: Epochs = 300  # Epochs.
    lr: Positive = 1e-2  # Initial learning rate.
    schedule: Schedule = "tenths"  # Learning rate: a tenth at 60/80/90 % of epochs, half every 5, a cosine, constant.
    weight_decay: NonNegative = 5e-4  # Added to the gradient: weights times this (L2).


@_group
class Convert:
    """Conversion of the ANN to an SNN of T time steps."""

    balance_images: Count = 512  # Training images on which thresholds are balanced.
    balance_steps: Steps = 1000  # Time steps over which thresholds are balanced.
    # Percentile of the input current that becomes the threshold; 100 is the maximum.
    percentile: Annotated[float, Field(gt=0, le=100, description="in (0, 100]")] = 100.0
    balance: Literal["all", "stem"] = "all"  # Layers to balance: all, or a ResNet's stem only, as the paper did.
    fold: bool = False  # Merge batch norm into weights and biases, which are then trained instead.
    # Membrane before the first time step, as a share of the threshold; 0.5 is good for few time steps.
    initial: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False, description="in [-1, 1]")] = 0.0
    # Units in which thresholds are scaled: the paper's, where the factor compounds with depth, or the ANN's (uniform).
    scaling: Literal["paper", "uniform"] = "paper"
    scaling_factor: PositiveOrAuto = AUTO  # Factor on thresholds, or auto: the best at num_steps on validation images.
    num_steps: Steps = 100  # T: time steps of the SNN in training and in the reported accuracy.
    logits: Literal["sum", "mean"] = "sum"  # Logits: results' sum over time in the paper's units, or mean in the ANN's.
    encoding: Literal["poisson", "constant"] = "poisson"  # Input: signed Poisson spikes, or the image at every step.


@_group
class Finetune:
    """Fine-tuning of the SNN with a surrogate gradient."""

    start: Literal["converted", "scratch"] = "converted"  # Initial weights: the ANN's, or random ones (the control).
    # Surrogate derivative of the spike: linear is good for few time steps, STDB is the paper's.
    surrogate: Literal["stdb", "linear"] = "linear"
    alpha: Positive = 0.3  # STDB: derivative right after a spike.
    beta: NonNegative = 0.01  # STDB: decay of the derivative per time step since the last spike.
    gamma: Positive = 0.3  # Linear: derivative at the threshold.
    # What is trained: weights and parameters of neurons. If empty, the converted network is not trained.
    trained: Annotated[tuple[Literal[TRAINED], ...], Field(description=f"some of {', '.join(TRAINED)}")] = ("weights",)
    by_channel: bool = False  # Give each channel its own neuron parameters; otherwise each layer has its own.
    neuron_lr: Positive = 3e-4  # Initial learning rate of neuron parameters; they have no weight decay.
    # Share of the membrane that stays per time step; 1 is IF. The converted network is always IF.
    leak: Annotated[float, Field(gt=0, le=1, description="in (0, 1]")] = 0.99
    epochs: Epochs = 20  # Epochs.
    lr: Positive = 3e-4  # Initial learning rate; STDB needs a tenth of the linear surrogate's.
    schedule: Schedule = "tenths"  # Learning rate: see ann.schedule.
    optimizer: Literal[OPTIMIZERS] = "adam"  # Optimiser.
    # Added to the gradient: weights times this (L2). With Adam, weights of silent neurons then shrink at full rate.
    weight_decay: NonNegative = 0.0
    warmup: NonNegative = 0.0  # Epochs over which the learning rate rises to its schedule.
    # Clip the whole gradient to this norm; None does not clip.
    clip: Annotated[Positive | None, Field(description="above 0 and finite, or None")] = None
    # Factor on the logits in the loss, or auto: the one that calibrates the converted network. The paper uses 1.
    logit_scale: PositiveOrAuto = AUTO
    distillation: Share = 0.0  # Share of the loss whose target is the ANN's logits; the rest is for the labels.
    temperature: Positive = 1.0  # Divides the logits of both networks in distillation.
    # What neurons keep for the gradient. exact: all it needs. byte: one byte per step where bits are not enough, for
    # an approximate gradient. auto: exact if all steps are in one chunk, otherwise byte.
    residuals: Literal[RESIDUALS] = "exact"
    rate_penalty: NonNegative = 0.0  # Penalty in the loss: this times the mean firing rate of all layers [nats].
    comparison_streams: Streams = 5  # Poisson streams for comparing it with the converted network.


@_group
class Evaluate:
    """Evaluation of the SNNs on the test split."""

    eval_steps: Steps = 100  # Time steps up to which accuracy is reported.
    streams: Streams = 5  # Poisson streams over which accuracy at num_steps is averaged.
    exit_cost: Share = 0.001  # Validation accuracy that early exit may cost.


@_group
class Runtime:
    """Where and how a run computes; results change only with residuals auto (the chunk) and batch norm (devices)."""

    data_dir: str | None = None  # Folder of prepared TFDS data sets; None is TFDS's own default.
    data_module: str | None = None  # Python module that registers your own data sets, see jsnn.data.datasets.register.
    workers: Size = 0  # Processes that decode streamed images (ImageNet); 0 decodes in threads.
    accumulate: Count = 1  # Split a device's batch into this many parts, computed one by one, to save memory.
    eval_batch_size: Count = 256  # Images per step in evaluation, over all devices.
    # Time steps that run at once, or auto: 8 to 12, or fewer if a device has little memory.
    chunk: Annotated[Count | Auto, Field(description="at least 1 and below 2^31, or auto")] = AUTO
    # Effort of the compiler for a CPU: less cuts compile time to two thirds; programs are up to a quarter slower.
    compile_effort: Literal["full", "less"] = "full"
    compilation_cache: str | None = None  # Folder that keeps compiled programs for the next run; None keeps none.
    on_nan: Literal["stop", "skip"] = "stop"  # If a loss or gradient is not finite: stop, or skip and count the step.
    keep_checkpoints: Count = 2  # Checkpoints kept of each stage.
    checkpoint_steps: CountOrNone = None  # Also save after this many optimiser steps within an epoch; None does not.
    checkpoint_minutes: Positive = 10.0  # Also save after this many minutes within an epoch.


@_group
class Config:
    """A run. Its defaults are the paper's, but fine-tuning and the factor on thresholds suit few time steps."""

    seed: Annotated[int, Field(ge=0, lt=2**32, description="at least 0 and below 2^32")] = 0  # Of everything random.
    data: Annotated[Data, Unprefixed] = Data()
    network: Annotated[Network, Unprefixed] = Network()
    ann: ANN = ANN()
    convert: Annotated[Convert, Unprefixed] = Convert()
    finetune: Finetune = Finetune()
    evaluate: Annotated[Evaluate, Unprefixed] = Evaluate()
    run: Annotated[Runtime, Unprefixed] = Runtime()


GROUPS = tuple(field.name for field in dataclasses.fields(Config))
PREFIXED = ("ann", "finetune")  # on the command line, as --ann.lr, because their fields share names
