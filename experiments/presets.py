"""Presets: one per row of the paper's table, Fashion-MNIST, and small ones for a CPU.

A description gives what the paper reports (arXiv:2005.01807, table 1: ANN, converted at T = 2500, hybrid). Run a preset
with `python -m experiments.hybrid NAME`; any field of it can be set on the command line.
"""

from dataclasses import replace
from typing import NamedTuple

from experiments.config import with_fields
from experiments.fields import ANN, AUTO, Config, Convert, Data, Evaluate, Finetune, Network, Runtime
from experiments.recipes import with_recipe

NARROW = Network(conv_dropout=0.0, dense_dropout=0.2)  # such need little dropout, and bear larger learning rates


class Preset(NamedTuple):
    """A config, and its description for --help."""

    description: str
    config: Config


def _paper(architecture: str, dataset: str, num_steps: int) -> Config:
    """The paper's hyperparameters; it gives no number of epochs of ANNs for ImageNet, 90 is the field's custom."""
    if dataset == "imagenet2012":
        config = Config(data=Data(dataset), ann=ANN(epochs=90), run=Runtime(workers=8, eval_batch_size=32))
    else:
        config = Config(data=Data(dataset, crop_padding=4, flip=True), convert=Convert(balance_steps=2500))
    fields = {"network.architecture": architecture, "convert.num_steps": num_steps, "convert.scaling_factor": 0.7}
    balance = "stem" if architecture.startswith("resnet") else "all"
    return with_fields(
        with_recipe(config, "paper"), {**fields, "convert.balance": balance, "evaluate.eval_steps": 2500}
    )


DIGITS = with_recipe(
    Config(
        network=replace(NARROW, width=0.25, hidden=(64,), dense_std=0.1),
        ann=ANN(epochs=100, lr=0.03),
        convert=Convert(balance_steps=100, num_steps=2),
        finetune=Finetune(epochs=10),
        evaluate=Evaluate(eval_steps=64),
        run=Runtime(compile_effort="less"),  # most of the time is the compiler's
    ),
    "qcfs-diet",
)
FASHION_MNIST_CPU = Config(
    data=Data("fashion_mnist", flip=True),
    network=replace(NARROW, width=0.125, hidden=(64,), dense_std=0.05),
    ann=ANN(epochs=30, lr=0.03),
    convert=Convert(balance_steps=100, num_steps=8),
    finetune=Finetune(epochs=6, lr=1e-3),
    evaluate=Evaluate(eval_steps=64),
)
CIFAR10_CPU = Config(
    data=Data("cifar10", crop_padding=4, flip=True),
    network=replace(NARROW, width=0.25, hidden=(256,), dense_std=0.05),
    ann=ANN(epochs=60, lr=0.03),
    convert=Convert(balance_steps=100, percentile=99.7, num_steps=32),
    finetune=Finetune(epochs=3, lr=1e-3),
    evaluate=Evaluate(eval_steps=32),
    run=Runtime(chunk=32),  # a training step takes three quarters of the time that it does with 8
)
T4 = {"ann.schedule": "cosine", "convert.num_steps": 4, "evaluate.eval_steps": 16}
FASHION_MNIST_T4 = with_fields(with_recipe(FASHION_MNIST_CPU, "qcfs-diet"), T4)
CIFAR10_T4 = with_fields(
    with_recipe(CIFAR10_CPU, "qcfs-diet"), {**T4, "ann.epochs": 40, "finetune.epochs": 6, "run.chunk": AUTO}
)
FASHION_MNIST = Config(
    data=Data("fashion_mnist", flip=True),
    ann=ANN(epochs=60),
    convert=Convert(balance_steps=500, num_steps=16),
    finetune=Finetune(epochs=3),
    evaluate=Evaluate(eval_steps=200),
)
VGG5 = with_fields(_paper("vgg5", "cifar10", 75), {"finetune.alpha": 0.5, "finetune.beta": 0.035})

_PRESETS = {
    "digits": ("The default: scikit-learn's digits, a small VGG5, T = 2, by recipe qcfs-diet, in a minute.", DIGITS),
    "fashion_mnist_cpu": ("A VGG5 of an eighth of the width, T = 8, 18 minutes on a CPU core.", FASHION_MNIST_CPU),
    "cifar10_cpu": ("A VGG5 of a quarter of the width, T = 32, in 66 minutes on two CPU cores.", CIFAR10_CPU),
    "fashion_mnist_t4": ("A VGG5 of an eighth of the width, T = 4, by the recipe qcfs-diet.", FASHION_MNIST_T4),
    "cifar10_t4": ("A VGG5 of a quarter of the width, T = 4, by the recipe qcfs-diet.", CIFAR10_T4),
    "fashion_mnist": ("The paper's VGG5 at full width, T = 16; not in the paper.", FASHION_MNIST),
    "vgg5_cifar10": ("T = 75: ANN 87.88, converted 87.64, hybrid 86.91.", VGG5),
    "vgg9_cifar10": ("T = 100: ANN 91.45, converted 90.98, hybrid 90.54.", _paper("vgg9", "cifar10", 100)),
    "vgg16_cifar10": ("T = 100: ANN 92.81, converted 92.48, hybrid 91.13.", _paper("vgg16", "cifar10", 100)),
    "vgg16_cifar10_t200": ("T = 200: ANN 92.81, hybrid 92.02.", _paper("vgg16", "cifar10", 200)),
    "resnet8_cifar10": ("T = 200: ANN 91.35, converted 91.12, hybrid 91.35.", _paper("resnet8", "cifar10", 200)),
    "resnet20_cifar10": ("T = 250: ANN 93.15, converted 92.94, hybrid 92.22.", _paper("resnet20", "cifar10", 250)),
    "vgg11_cifar100": ("T = 125: ANN 71.21, converted 70.94, hybrid 67.87.", _paper("vgg11", "cifar100", 125)),
    "vgg16_imagenet": ("T = 250: ANN 69.35, converted 68.12, hybrid 65.19.", _paper("vgg16", "imagenet2012", 250)),
    "resnet34_imagenet": ("T = 250: ANN 70.2, converted 65.1, hybrid 61.48.", _paper("resnet34", "imagenet2012", 250)),
}
PRESETS = {name: Preset(*preset) for name, preset in _PRESETS.items()}
