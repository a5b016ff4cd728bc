"""The measurements as a picture: a training step's seconds and memory, at few time steps as bars, at many as lines."""

from pathlib import Path

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from experiments.benchmark.problem import LINEAR, OURS, ROSTER, STDB
from experiments.benchmark.report import GB, spiking
from experiments.reports.plots import sheet

FEW_STEPS = 8  # up to which steps are bars
COLORS = colormaps["tab20"]
DASHES = {STDB: "-", LINEAR: "--"}
LABELS = {"seconds": "seconds per training step", "gigabytes": "peak memory of a training step [GB]"}


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Draw the figures of the first net; lines are of the batch that was measured at the most numbers of steps."""
    training = spiking(rows)
    training = training[training.net == training.net.iloc[0]].assign(gigabytes=training.peak / GB)
    few, many = training[training.num_steps <= FEW_STEPS], training[training.num_steps > FEW_STEPS]
    panels = [(draw_panel, part) for draw_panel, part in ((_bars, few), (_lines, many)) if len(part)]
    with sheet(path, nrows=len(panels), ncols=2, squeeze=False, figsize=(12, 4.7 * len(panels))) as grid:
        for (left, right), (draw_panel, part) in zip(grid, panels, strict=True):
            draw_panel(left, part, "seconds")
            draw_panel(right, part, "gigabytes")
            right.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)


def _bars(axes: Axes, rows: pd.DataFrame, values: str) -> None:
    """A group of bars for each contestant, ours first, one for each shape; see `_fair` for those that lack."""
    rows = rows.assign(**{values: rows[values].where(_fair(rows, values))})
    shapes = "batch of " + rows.batch.map(str) + ", T = " + rows.num_steps.map(str) + ", " + rows.surrogate
    table = rows.assign(shape=shapes).pivot(index="contestant", columns="shape", values=values)
    table = table[[*dict.fromkeys(shapes)]].reindex([name for name in reversed(ROSTER) if name in table.index])
    table.plot.barh(ax=axes, width=0.8, legend=False, color=["0.6", "tab:orange", "tab:red"][-table.shape[1] :])
    axes.set(xlabel=LABELS[values], ylabel="", title=f"{rows.net.iloc[0].upper()}, few time steps")


def _fair(rows: pd.DataFrame, values: str) -> pd.Series:
    """Which values are shown: a first call alone is no fair time."""
    return rows.repeated | (values != "seconds")


def _lines(axes: Axes, rows: pd.DataFrame, values: str) -> None:
    """A line for each contestant and surrogate."""
    batch = rows.groupby("batch").num_steps.nunique().idxmax()
    shown = rows[(rows.batch == batch) & _fair(rows, values)]
    for i, name in enumerate(ROSTER):
        style = {"color": "black", "linewidth": 3, "zorder": 3} if name == OURS else {"color": COLORS(i)}
        label = {"label": name}  # on the first line alone
        for surrogate, line in shown[shown.contestant == name].groupby("surrogate", sort=False):
            line = line.sort_values("num_steps")
            axes.plot(line.num_steps, line[values], marker="o", linestyle=DASHES[surrogate], **style, **label)
            label = {}
    steps = sorted(shown.num_steps.unique())
    axes.loglog(base=2)
    axes.set_xticks(steps, map(str, steps))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="time steps (STDB solid, linear surrogate dashed)", ylabel=LABELS[values])
    axes.set_title(f"{rows.net.iloc[0].upper()}, batch of {batch}")
