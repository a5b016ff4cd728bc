"""The paper's table of results, with ours beside it."""

from statistics import mean
from typing import NamedTuple

from experiments.reports.table import aligned
from experiments.runs.workdir import Results
from experiments.study.numbers import on_test, percent, spread
from experiments.study.results import read_seeds


class Row(NamedTuple):
    """A row of the paper's table 1, in %; None where it gives nothing.

    Attributes:
        preset: ours for it.
        net: the paper's name of network and data set.
        num_steps: T of the hybrid net.
        ann: accuracy of the ANN.
        converted: of the converted net at T.
        hybrid: of the hybrid net at T.
    """

    preset: str
    net: str
    num_steps: int
    ann: float | None = None
    converted: float | None = None
    hybrid: float | None = None


PAPER = (
    Row("vgg5_cifar10", "VGG5 CIFAR-10", 75, 87.88, 84.56, 86.91),
    Row("vgg9_cifar10", "VGG9 CIFAR-10", 100, 91.45, 87.31, 90.54),
    Row("vgg16_cifar10", "VGG16 CIFAR-10", 100, 92.81, 90.20, 91.13),
    Row("vgg16_cifar10_t200", "VGG16 CIFAR-10", 200, 92.81, None, 92.02),
    Row("resnet8_cifar10", "ResNet8 CIFAR-10", 200, 91.35, 89.50, 91.35),
    Row("resnet20_cifar10", "ResNet20 CIFAR-10", 250, 93.15, 91.12, 92.22),
    Row("vgg11_cifar100", "VGG11 CIFAR-100", 125, 71.21, 65.52, 67.87),
    Row("vgg16_imagenet", "VGG16 ImageNet", 250, 69.35, 62.73, 65.19),
    Row("resnet34_imagenet", "ResNet34 ImageNet", 250, 70.2, 56.87, 61.48),
)
OURS = (  # small nets that the paper does not have
    ("fashion_mnist_cpu", "linear-t8", "VGG5 x0.125 Fashion-MNIST"),
    ("cifar10_cpu", "linear-t32", "VGG5 x0.25 CIFAR-10"),
)
WHOLE = "preset"  # the trial of a paper's row
HEADER = ["net, data", "T", "ANN", "converted at T", "hybrid at T", "epochs", "command", "time", "machine", "commit"]


def paper_table() -> str:
    """The paper's numbers and ours; test accuracy in %, the threshold factor in brackets.

    Returns:
        A Markdown table.
    """
    rows = [HEADER]
    for row in PAPER:
        cells = [f"{value:.2f}" if value is not None else "" for value in (row.ann, row.converted, row.hybrid)]
        rows.append([f"{row.net}, paper", str(row.num_steps), *cells, "", "", "", "", ""])
        rows += _ours(row.preset, WHOLE, row.net)
    for preset, trial, net in OURS:
        rows += _ours(preset, trial, net)
    return aligned(rows)


def _ours(preset: str, trial: str, net: str) -> list[list[str]]:
    """The row of our runs of a preset, whose own command the trial is, if there are any."""
    runs = read_seeds(preset, trial)
    if not runs:
        return []
    minutes = mean(sum(run["seconds"].values()) for run in runs) / 60
    return [
        [
            f"{net}, jsnn",
            str(runs[0]["config"]["convert"]["num_steps"]),
            spread(percent(run["ann"]["accuracy"] for run in runs)),
            f"{on_test(runs, 'converted')} ({_factors(runs)})",
            on_test(runs, "hybrid"),
            f"{runs[0]['ann']['epochs']} + {runs[0]['hybrid']['epochs']}",
            f"`python -m experiments.hybrid {preset}`",
            f"{minutes:.0f} min",
            _machine(runs[0]),
            ", ".join(sorted({str(run["environment"]["commit"]) for run in runs})),
        ]
    ]


def _factors(runs: list[Results]) -> str:
    return ", ".join(sorted({f"{run['converted']['scaling_factor']:g}" for run in runs}))


def _machine(run: Results) -> str:
    found = run["environment"]
    if found["platform"] == "cpu":
        return f"{found['cpu_count']} CPU core{'s' if found['cpu_count'] > 1 else ''}"
    return f"{found['device_count']} {found['device']}"
