"""How the study's plots look."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: runs have no screen

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

CONVERTED, HYBRID, LINEAR = "tab:blue", "tab:red", "tab:orange"
SIZE = (7.2, 4.4)  # inches


@contextmanager
def sheet(path: Path) -> Iterator[Axes]:
    """One plot; it is saved at the end.

    Args:
        path: the PNG file; its folder is made where there is none.

    Returns:
        A context with the Axes.
    """
    figure, axes = plt.subplots(figsize=SIZE)
    yield axes
    axes.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def finish_steps(axes: Axes, title: str) -> None:
    """Label a plot of accuracy against time steps."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("time steps")
    axes.set_ylabel("test accuracy [%]")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7, loc="lower right", handlelength=3)
