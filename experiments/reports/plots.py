"""The plots of a run, and of several runs side by side."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: runs have no screen

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from experiments.config import from_json
from experiments.fields import Config
from experiments.reports.table import title
from experiments.runs.workdir import Results

ANN, CONVERTED, UNSCALED, HYBRID = "0.35", "tab:blue", "tab:cyan", "tab:red"
BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "ncols": 2, "frameon": False}  # where it hides nothing


@contextmanager
def sheet(path: Path, **layout: Any) -> Iterator[Any]:
    """The axes of a picture, which is saved at the end."""
    figure, axes = plt.subplots(**{"figsize": (7.2, 4.4), **layout})
    yield axes
    for each in figure.axes:
        each.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def finish_time_axis(axes: Axes, limits: tuple[float, float | None], **legend: object) -> None:
    """Label a plot of accuracy [%] against time steps, from one limit to the other or as far as it goes."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="time steps", ylabel="test accuracy [%]", ylim=limits)
    axes.legend(**{"loc": "lower right", **legend})


def draw_run(directory: Path, results: Results) -> None:
    """Draw accuracy_by_step.png, training.png and spikes.png of a finished run into its folder."""
    config = from_json(results["config"])
    with sheet(directory / "accuracy_by_step.png") as axes:
        _accuracy_by_step(axes, config, results)
    with sheet(directory / "training.png", ncols=2) as (left, right):
        _training(left, "ANN", results["ann"]["history"])
        _training(right, f"SNN, T = {config.convert.num_steps}", results["hybrid"]["history"])
        left.set_ylabel("accuracy [%]")
    with sheet(directory / "spikes.png") as axes:
        for offset, network, color in ((-0.2, "converted", CONVERTED), (0.2, "hybrid", HYBRID)):
            counts = results["spikes_per_neuron"][network]
            positions = [i + offset for i in range(len(counts))]
            axes.bar(positions, [*counts.values()], 0.4, color=color, label=network)
        axes.set_xticks(range(len(counts)), [*counts], rotation=45, ha="right")
        axes.set_ylabel("spikes per neuron and image")
        axes.set_title(f"{title(config)}: mean spikes per neuron in {config.convert.num_steps} time steps")
        axes.legend()


def draw_comparison(runs: Sequence[Results], path: Path) -> None:
    """Draw accuracy against time steps of several finished runs into one plot."""
    with sheet(path) as axes:
        for i, results in enumerate(runs):
            config, color, hybrid = from_json(results["config"]), f"C{i}", results["hybrid"]
            num_steps = config.convert.num_steps
            axes.axhline(results["ann"]["accuracy"] * 100, color=color, linestyle=":", linewidth=1)
            _curve(axes, results["converted"]["accuracy_by_step"], color=color, linestyle="--")
            _curve(axes, hybrid["accuracy_by_step"], color=color, label=f"{title(config)}, T = {num_steps}")
            axes.plot(num_steps, hybrid["accuracy"] * 100, "o", color=color)
        axes.set_title("hybrid (line, ● at the trained T), converted (dashed), ANN (dotted)", fontsize=10)
        finish_time_axis(axes, _range_of_lines(axes), **BELOW)


def _accuracy_by_step(axes: Axes, config: Config, results: Results) -> None:
    converted, hybrid, num_steps = results["converted"], results["hybrid"], config.convert.num_steps
    accuracy = results["ann"]["accuracy"] * 100
    axes.axhline(accuracy, color=ANN, linestyle=":", label=f"ANN, {accuracy:.1f} %")
    if converted["scaling_factor"] != 1:
        _curve(axes, converted["accuracy_by_step_at_factor_1"], color=UNSCALED, label="converted, thresholds x 1")
    factor = f"converted, thresholds x {converted['scaling_factor']:g}"
    _curve(axes, converted["accuracy_by_step"], color=CONVERTED, label=factor)
    if config.finetune.trained:
        _curve(axes, hybrid["accuracy_by_step"], color=HYBRID, label=f"hybrid, trained at T = {num_steps}")
    axes.plot(num_steps, hybrid["accuracy"] * 100, "o", color=HYBRID)
    axes.set_title(f"{title(config)}: test accuracy against time steps")
    finish_time_axis(axes, _range_of_lines(axes), **BELOW)


def _range_of_lines(axes: Axes) -> tuple[float, float]:
    """Limits [%] that leave a margin around what is drawn and no half of the axis empty, within 0 and 102."""
    drawn = [float(value) for line in axes.lines for value in line.get_ydata()]
    margin = max(0.06 * (max(drawn) - min(drawn)), 1.0)
    return max(0.0, min(drawn) - margin), min(102.0, max(drawn) + margin)


def _curve(axes: Axes, accuracy_by_step: Sequence[float], **style: object) -> None:
    axes.plot(range(1, len(accuracy_by_step) + 1), [value * 100 for value in accuracy_by_step], **style)


def _training(axes: Axes, name: str, records: Sequence[Results]) -> None:
    epochs = [record["step"] for record in records]
    for split, color in (("train", CONVERTED), ("validation", HYBRID)):
        accuracy = [record[f"{split}_accuracy"] * 100 for record in records]
        axes.plot(epochs, accuracy, color=color, marker="." if len(epochs) < 30 else None, label=split)
    axes.set(title=name, xlabel="epoch", xlim=(min(epochs, default=1) - 0.5, max(epochs, default=1) + 0.5))
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.legend()
