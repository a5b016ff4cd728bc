"""The plots of experiments/README.md, from the same measurements as its tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("Agg")  # before pyplot: runs have no screen

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from pandas import DataFrame

from experiments.study import results
from experiments.study.conversion import LONG
from experiments.study.plan import HARMS

STYLES = {  # net -> line, colour
    "converted, maximum, factor 1": ("-", "tab:cyan"),
    "converted, maximum, best factor": ("-", "tab:blue"),
    "converted, 99.7 percentile, factor 1": ("--", "tab:cyan"),
    "converted, 99.7 percentile, best factor": ("--", "tab:blue"),
    "hybrid, STDB": ("-", "tab:red"),
    "hybrid, linear": ("-", "tab:orange"),
    "from scratch, STDB": ("--", "tab:blue"),
    "from scratch, linear": ("--", "tab:green"),
    "from scratch, linear, twice as long": (":", "tab:olive"),
    "from scratch, linear, three times as long": ("-.", "tab:brown"),
}


@contextmanager
def _sheet(path: Path, title: str, size: int | str = 10) -> Iterator[Axes]:
    """One plot, saved at the end."""
    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    axes.set_title(title, fontsize=size)
    yield axes
    axes.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


@contextmanager
def _steps_sheet(path: Path, title: str, anns: DataFrame) -> Iterator[Axes]:
    """A plot of accuracy against time steps, down to 15 points below the ANNs: nets of too few would fill it."""
    accuracy = 100 * mean(anns.accuracy)
    with _sheet(path, title) as axes:
        axes.axhline(accuracy, color="0.35", linestyle=":", label=f"ANN, {accuracy:.1f} %")
        yield axes
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_ylim(bottom=accuracy - 15)
        axes.set(xlabel="time steps", ylabel="test accuracy [%]")
        axes.legend(fontsize=7, loc="lower right", handlelength=3)


def draw_conversion(path: Path, data: DataFrame) -> None:
    """Question a: accuracy of converted and hybrid nets against time steps."""
    anns = results.nets_of(data[data.trial == "conversion"], "ann")
    means = 100 * results.against_steps(data).groupby(["net", "T"]).accuracy.agg(mean)
    with _steps_sheet(path, f"{data.preset.iloc[0]}: test accuracy against time steps", anns) as axes:
        for_long = 100 * mean(anns.accuracy_for_long)
        label = f"ANN on the images from T = {min(LONG)} on, {for_long:.1f} %"
        axes.plot((min(LONG), max(LONG)), (for_long, for_long), color="0.35", linestyle="-.", label=label)
        for name, (style, color) in STYLES.items():
            if name in means:
                marker = "o" if name in results.HYBRIDS.values() else "."
                axes.plot(means[name], style, marker=marker, color=color, label=name)


def draw_evaluation(path: Path, data: DataFrame) -> None:
    """Question e: accuracy against the steps of evaluation, for nets trained at one T each."""
    data = results.hybrid_trials(data)
    anns = results.nets_of(data, "ann").drop_duplicates(["seed", "accuracy"])  # a seed may stand for two
    means = 100 * data[data.quantity == "accuracy_by_step"].groupby(["net", "surrogate", "T", "step"]).value.agg(mean)
    trained = 100 * results.nets_of(data, "hybrid").groupby(["surrogate", "T"]).accuracy.agg(mean)
    colors = {t: f"C{i}" for i, t in enumerate(sorted(set(data["T"])))}
    with _steps_sheet(path, f"{data.preset.iloc[0]}: trained at one T (dot), evaluated at others", anns) as axes:
        for (surrogate, t), accuracy_at_t in trained.items():
            style = {"stdb": "-", "linear": "--"}[surrogate]
            axes.plot(means["hybrid", surrogate, t], style, color=colors[t], label=f"{surrogate}, T = {t}")
            axes.plot(t, accuracy_at_t, "o", color=colors[t])
            if surrogate == "linear":
                label = f"converted, best factor for T = {t}"
                axes.plot(means["converted", surrogate, t], ":", color=colors[t], label=label)


def draw_scratch(path: Path, data: DataFrame, num_steps: int) -> None:
    """Question b: validation error against the operations of training, a line for each seed."""
    with _sheet(path, f"{data.preset.iloc[0]}: learning curves, a line for each seed", "large") as axes:
        for name, runs in results.scratch_trials(data, num_steps).items():
            style, color = STYLES[name]
            for i, (_, run) in enumerate(runs.groupby("seed")):
                errors, label = 100 * (1 - results.by_operations(run)), None if i else name
                axes.plot(errors, style, marker=".", color=color, label=label, linewidth=1)
        axes.set_xlabel("operations of training, with those of the ANN and the conversion [10^12 MAC]")
        axes.set(yscale="log", ylabel=f"validation error at T = {num_steps} [%]")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.legend(fontsize=8)


def draw_harms(path: Path, data: DataFrame) -> None:
    """Question c: what fine-tuning adds to the converted net's validation accuracy by epoch, a line for each seed."""
    with _sheet(path, f"{data.preset.iloc[0]}, T = 4: where fine-tuning harms, a line for each seed") as axes:
        for name in HARMS:
            style = "--" if name.endswith("-fast") else "-"
            for i, (_, run) in enumerate(data[data.trial == name].groupby("seed")):
                label, (_, color) = None if i else run.finetune.iloc[0], STYLES[results.HYBRIDS[run.surrogate.iloc[0]]]
                curve = results.learning_curve(run)
                axes.plot(100 * (curve - curve[0]), style, marker="o", markersize=4, color=color, label=label)
        axes.axhline(0, color="0.35", linestyle=":", label="converted")
        axes.set_xlabel("epochs of fine-tuning at a constant rate")
        axes.set_ylabel("validation accuracy above the converted net's [points]")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8)
