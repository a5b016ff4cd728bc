"""The measurements as a picture: seconds and memory of a training step against time steps, jsnn's in colour."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from experiments.benchmark.roster import ANN, FLOOR, OURS
from experiments.reports.plots import sheet

PANELS = {"seconds": "seconds per training step", "gigabytes": "peak memory of a training step, GB"}
OURS_COLOR, GREY, DARK_GREY = "tab:red", "0.65", "0.35"
LINE = 0.057  # of a panel's height, from one name to the next
NAMES = 1.06  # where they begin, in widths of a panel


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Draw the first net with the batch and surrogate that were measured at the most numbers of time steps."""
    rows = rows[(rows.what == "train") & ~rows.contestant.isin((FLOOR, ANN))]
    if rows.empty:
        return  # nothing but the floor or the ANN was measured
    rows = rows[rows.net == rows.net.iloc[0]]
    batch, surrogate = rows.groupby(["batch", "surrogate"]).num_steps.nunique().idxmax()
    rows = rows[(rows.batch == batch) & (rows.surrogate == surrogate)].sort_values("num_steps")
    with sheet(path, ncols=2, figsize=(8.4, 3.9)) as panels:
        for axes, (figure, title) in zip(panels, PANELS.items(), strict=True):
            _panel(axes, rows[rows[figure].notna()], figure)
            axes.set_title(title, loc="left", fontsize=11)
            axes.set_xlabel(f"time steps (batch of {batch})")


def _panel(axes: Axes, rows: pd.DataFrame, figure: str) -> None:
    """A line for each contestant, and its name behind the line's end."""
    lines = sorted((line for _, line in rows.groupby("contestant")), key=lambda line: line[figure].iloc[-1])
    for line in lines:
        ours = line.contestant.iloc[0] == OURS
        style = {"color": OURS_COLOR, "linewidth": 3, "zorder": 3} if ours else {"color": GREY, "linewidth": 1}
        axes.plot(line.num_steps, line[figure], marker="o", markersize=4, **style)
    axes.set(xlim=(0, None), ylim=(0, None), xticks=sorted(rows.num_steps.unique()))
    axes.locator_params(axis="y", nbins=5)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)

    ends, top = [line.iloc[-1] for line in lines], axes.get_ylim()[1]
    leader = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3, "relpos": (0, 0.5)}
    for end, height in zip(ends, spread([end[figure] / top for end in ends], LINE), strict=True):
        ours = {"color": OURS_COLOR, "weight": "bold", "fontsize": 11}
        style = ours if end.contestant == OURS else {"color": DARK_GREY, "fontsize": 9}
        place = {"xytext": (NAMES, height), "textcoords": "axes fraction", "va": "center", "arrowprops": leader}
        axes.annotate(end.contestant, (end.num_steps, end[figure]), **place, **style)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights, in rising order, moved apart until none is nearer to the next than the gap."""
    moved = list(heights)
    for _ in range(100 * len(moved)):
        for low in range(len(moved) - 1):
            lack = max(0.0, gap - (moved[low + 1] - moved[low]))
            moved[low], moved[low + 1] = moved[low] - lack / 2, moved[low + 1] + lack / 2
    return moved
