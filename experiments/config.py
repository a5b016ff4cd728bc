"""All fields of a run, with their units and defaults, and the checks that refuse a bad one at the door."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jsnn.datasets import DATASETS, info
from jsnn.models import ARCHITECTURES
from jsnn.training.optimizers import OPTIMIZERS, SCHEDULES

AUTO = "auto"
MOST_STEPS = 100_000  # time steps; the most that anybody reports is 2,500
WIDEST = 64  # times the paper's channels
NO_MATTER = (  # where a run goes on: these may change
    "data_dir",
    "workers",
    "eval_batch_size",
    "chunk",
    "on_nan",
    "keep_checkpoints",
    "checkpoint_steps",
    "checkpoint_minutes",
    "tensorboard",
    "compilation_cache",
)
TRAIN_ANN_FIELDS = (  # all that matter to the trained ANN
    "dataset",
    "crop_padding",
    "flip",
    "architecture",
    "width",
    "hidden",
    "conv_dropout",
    "dense_dropout",
    "dense_std",
    "ann_epochs",
    "ann_lr",
    "ann_schedule",
    "ann_weight_decay",
    "batch_size",
    "precision",
    "seed",
)
CONVERT_FIELDS = (  # ... and to the converted net
    *TRAIN_ANN_FIELDS,
    "balance_images",
    "balance_steps",
    "percentile",
    "balance",
    "scaling_factor",
    "num_steps",
    "encoding",
)


@dataclass(frozen=True)
class Config:
    """A run from nothing to the report.

    The defaults are the paper's recipe (arXiv:2005.01807) where it has one, but for fine-tuning: there they are what
    serves few time steps. Gains that are quoted are over the converted net at its best factor, in points of validation
    accuracy over five Poisson streams: Fashion-MNIST x0.125, T = 4, seed 0, one epoch at 1e-3 (experiments/README.md,
    c). Differences below 0.4 are within the spread.
    """

    dataset: Literal[tuple(DATASETS)] = "digits"
    """Data set; all but digits are read from data_dir."""
    data_dir: str | None = None
    """Folder of prepared TFDS data sets; None is TFDS's own default."""
    crop_padding: int = 0
    """Random crops of training images reach this many pixels beyond their border."""
    flip: bool = False
    """Mirror training images at random."""
    workers: int = 0
    """Processes that decode streamed images (ImageNet); 0 decodes in threads."""

    architecture: Literal[ARCHITECTURES] = "vgg5"
    """Network."""
    width: float = 1.0
    """Factor on the channels of all convolutions; 1 is the paper's network."""
    hidden: tuple[int, ...] = (4096, 4096)
    """Units of the hidden dense layers of a VGG."""
    conv_dropout: float = 0.2
    """Dropout rate after convolutions."""
    dense_dropout: float = 0.5
    """Dropout rate after hidden dense layers."""

    dense_std: float = 0.01
    """Standard deviation of the initial weights of dense layers; narrow ones need more than the paper's 0.01."""

    ann_epochs: int = 300
    """Epochs of ANN training."""
    ann_lr: float = 1e-2
    """Initial learning rate of the ANN's SGD with momentum 0.9."""
    ann_schedule: Literal[SCHEDULES] = "tenths"
    """Learning rate of the ANN: divided by 10 at 60/80/90 % of the epochs, halved every 5 epochs, or constant."""
    ann_weight_decay: float = 5e-4
    """L2 term in the ANN's gradient: weights times this."""

    balance_images: int = 512
    """Training images on which thresholds are balanced."""
    balance_steps: int = 1000
    """Time steps over which thresholds are balanced."""
    percentile: float = 100.0
    """Percentile of the input current that becomes the threshold; 100 is the maximum. 99.7 converts 0.7 points
    better on Fashion-MNIST at T = 4, and 1.4 worse on CIFAR-10 at T = 32."""
    balance: Literal["all", "stem"] = "all"
    """Layers to balance: all, or a ResNet's stem only, as the paper did."""
    scaling_factor: float | Literal["auto"] = AUTO
    """Factor on all thresholds at num_steps, or auto: the best of a sweep on the validation split."""

    num_steps: int = 100
    """Time steps of the SNN in training, and at which its accuracy is reported."""
    encoding: Literal["poisson", "constant"] = "poisson"
    """Input of the SNN: signed Poisson spikes, or the image itself at every step."""
    start: Literal["converted", "scratch"] = "converted"
    """Weights that fine-tuning starts from: the converted ANN's, or random ones (the control)."""
    surrogate: Literal["stdb", "linear"] = "linear"
    """Surrogate derivative of the spike. The linear one gains 2.5, STDB 1.5 at its best rate."""
    alpha: float = 0.3
    """STDB: derivative right after a spike."""
    beta: float = 0.01
    """STDB: decay of the derivative per time step since the last spike."""
    gamma: float = 0.3
    """Linear: derivative at the threshold."""
    leak: float = 0.99
    """Leak of the membrane per time step in fine-tuning; 1 is IF. The converted net is always IF. 0.99 gains 2.5, 0.95
    and 1 gain 2.4."""
    hybrid_epochs: int = 20
    """Epochs of fine-tuning."""
    hybrid_lr: float = 3e-4
    """Initial learning rate of fine-tuning: 3e-4 gains 2.3, 1e-3 2.5; but on CIFAR-10 at T = 32, from thresholds by the
    maximum, two epochs at 3e-4 gain 1.2 and at 1e-3 lose 0.1. For STDB take 3e-5."""
    hybrid_schedule: Literal[SCHEDULES] = "tenths"
    """Learning rate of fine-tuning: see ann_schedule."""
    hybrid_optimizer: Literal[OPTIMIZERS] = "adam"
    """Optimiser of fine-tuning."""
    hybrid_weight_decay: float = 0.0
    """L2 term in the gradient of fine-tuning; Adam makes it shrink the weights of silent neurons at full rate."""

    hybrid_warmup: float = 0.0
    """Epochs over which the learning rate of fine-tuning rises to its schedule. 0 and 0.25 gain 2.5."""
    hybrid_clip: float | None = None
    """Largest norm of the whole gradient in fine-tuning; None does not clip. None gains 2.5, 1 gains 2.6."""
    hybrid_logit_scale: float | Literal["auto"] = AUTO
    """Factor on the logits in the loss of fine-tuning, or auto: the one that calibrates the converted net, whose sum
    over time is too sure of itself. Auto gains 2.5, 1 gains 2.2. The paper has 1."""

    batch_size: int = 64
    """Training images per step, over all devices."""
    eval_batch_size: int = 256
    """Images per step in evaluation, over all devices; does not change results."""
    eval_steps: int = 100
    """Time steps up to which the accuracy of the SNNs is reported."""
    streams: int = 5
    """Poisson streams over which accuracy at num_steps is averaged."""
    chunk: int | Literal["auto"] = AUTO
    """Time steps that run at once, or auto: 8, or up to 12 where 8 would idle. Does not change results."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Numbers that enter matrix products; sums, membranes and optimiser keep float32. For GPU and TPU."""
    compilation_cache: str | None = None
    """Folder where compiled programs are kept for the next run; None keeps none."""
    seed: int = 0
    """Seed of everything random."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What to do where a loss or gradient is not finite: stop the run, or skip the step and count it."""
    keep_checkpoints: int = 2
    """Checkpoints kept of each stage."""
    checkpoint_steps: int | None = None
    """Save also after so many optimiser steps within an epoch; None does not count steps."""
    checkpoint_minutes: float = 10.0
    """Save also after so many minutes within an epoch."""
    tensorboard: bool = True
    """Write TensorBoard files too, where tensorboardX is installed."""


def check(config: Config) -> None:
    """Refuse a config with a number out of its range.

    Raises:
        ValueError: naming the first field that is wrong, its value and the range.
    """
    at_least_one = (
        "ann_epochs balance_images balance_steps num_steps hybrid_epochs batch_size eval_batch_size eval_steps "
        "streams keep_checkpoints"
    )
    for name in at_least_one.split():
        _require(getattr(config, name) >= 1, config, name, "at least 1")
    for name in ("crop_padding", "workers", "seed"):
        _require(getattr(config, name) >= 0, config, name, "at least 0")
    for name in ("ann_weight_decay", "hybrid_weight_decay", "hybrid_warmup", "beta"):
        _require(0 <= getattr(config, name) < math.inf, config, name, "at least 0 and finite")
    for name in ("width", "dense_std", "ann_lr", "hybrid_lr", "alpha", "gamma", "checkpoint_minutes"):
        _require(0 < getattr(config, name) < math.inf, config, name, "above 0 and finite")
    for name in ("conv_dropout", "dense_dropout"):
        _require(0 <= getattr(config, name) < 1, config, name, "in [0, 1)")
    for name in ("num_steps", "eval_steps", "balance_steps"):
        _require(getattr(config, name) <= MOST_STEPS, config, name, f"at most {MOST_STEPS}")
    _require(config.width <= WIDEST, config, "width", f"at most {WIDEST}")
    _require(config.seed < 2**32, config, "seed", "below 2^32")
    _require(0 < config.leak <= 1, config, "leak", "in (0, 1]")
    _require(0 < config.percentile <= 100, config, "percentile", "in (0, 100]")
    _require(
        config.checkpoint_steps is None or config.checkpoint_steps >= 1,
        config,
        "checkpoint_steps",
        "at least 1, or None",
    )
    scale = config.hybrid_logit_scale
    _require(scale == AUTO or 0 < scale < math.inf, config, "hybrid_logit_scale", "above 0 and finite, or auto")
    clip = config.hybrid_clip
    _require(clip is None or 0 < clip < math.inf, config, "hybrid_clip", "above 0 and finite, or None")
    _require(config.chunk == AUTO or config.chunk >= 1, config, "chunk", "at least 1, or auto")
    factor = config.scaling_factor
    _require(factor == AUTO or 0 < factor < math.inf, config, "scaling_factor", "above 0 and finite, or auto")
    _require(config.eval_steps >= config.num_steps, config, "eval_steps", f"at least num_steps, {config.num_steps}")
    _require(min(config.hidden, default=1) >= 1, config, "hidden", "at least 1 unit each")
    if config.balance == "stem" and not config.architecture.startswith("resnet"):
        raise ValueError(f"balance stem is for ResNets, {config.architecture} has no stem: use balance all.")
    if info(config.dataset).streamed and (config.crop_padding or config.flip):
        raise ValueError(f"{config.dataset} has crops and flips of its own: leave crop_padding 0 and flip off.")


def difference(one: Config, other: Config, fields: Sequence[str] | None = None) -> str | None:
    """The first field in which two configs differ, with both values, or None.

    Args:
        one: the config there.
        other: the config here.
        fields: which to compare; None is all that matter to results.
    """
    matter = [field.name for field in dataclasses.fields(Config) if field.name not in NO_MATTER]
    for name in matter if fields is None else fields:
        a, b = getattr(one, name), getattr(other, name)
        if a != b:
            return f"{name} is {a} there and {b} here"
    return None


def _require(holds: bool, config: Config, name: str, what: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {what}, got {getattr(config, name)}.")
