"""Seconds and memory of a training step against the number of time steps."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: a benchmark has no screen

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from experiments.benchmark.figures import peak_of, seconds_of
from experiments.benchmark.roster import OURS, ROSTER
from experiments.benchmark.series import Record, of_kind

SIZE = (10, 4.6)  # inches
GB = 1e9


def draw(records: Sequence[Record], path: Path) -> None:
    """Draw the net and batch that were measured at the most numbers of time steps.

    Args:
        records: what was measured.
        path: the PNG file.
    """
    training = [record for record in of_kind(records, "train") if record.found]
    kinds = [(record.net, record.batch) for record in training]
    net, batch = max(dict.fromkeys(kinds), key=kinds.count)
    shown = [record for record in training if (record.net, record.batch) == (net, batch)]
    figure, (left, right) = plt.subplots(1, 2, figsize=SIZE, sharex=True)
    repeated = [record for record in shown if any(found["seconds"] for found in record.found)]
    _lines(left, repeated, lambda record: seconds_of(record).median)  # a first call alone is no fair time
    left.set_ylabel("seconds per training step")
    _lines(right, shown, lambda record: peak_of(record) / GB)
    right.set_ylabel("peak memory of a training step [GB]")
    figure.suptitle(f"{net.upper()}, batch of {batch}")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _lines(axes: Axes, records: Sequence[Record], value: Callable[[Record], float]) -> None:
    """A line for each contestant, ours the thickest."""
    for i, name in enumerate(ROSTER):
        own = sorted((record for record in records if record.contestant == name), key=lambda record: record.num_steps)
        if own:
            style = {"color": "black", "linewidth": 3, "zorder": 3} if name == OURS else {"color": f"C{i}"}
            steps = [record.num_steps for record in own]
            axes.plot(steps, [value(record) for record in own], marker="o", label=name, **style)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    ticks = sorted({record.num_steps for record in records})
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("time steps of the presentation")
    axes.grid(alpha=0.3)
