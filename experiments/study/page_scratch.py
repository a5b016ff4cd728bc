"""Question b: the hybrid run against training from scratch, at the same compute and beyond."""

from pathlib import Path

from experiments.config import from_json
from experiments.reports.table import aligned
from experiments.runs.workdir import Results
from experiments.study.numbers import on_test, percent, seeds
from experiments.study.operations import operations_of_training
from experiments.study.results import read_seeds
from experiments.study.sheet import CONVERTED, HYBRID, LINEAR, sheet

TERA = 1e12
STYLES = {
    "stdb-t": ("hybrid, STDB", HYBRID, "-"),
    "linear-t": ("hybrid, linear", LINEAR, "-"),
    "scratch-stdb": ("from scratch, STDB", CONVERTED, "--"),
    "scratch-linear": ("from scratch, linear", "tab:green", "--"),
    "scratch-linear-long": ("from scratch, linear, twice as long", "tab:olive", ":"),
    "scratch-linear-longest": ("from scratch, linear, three times as long", "tab:brown", "-."),
}


def scratch_table(preset: str, num_steps: int) -> str:
    """Compute and accuracy of the hybrid run and of training from scratch.

    The time is that of the fastest seed, as seeds may have run on different machines.

    Args:
        preset: whose study it is.
        num_steps: T of all of them.

    Returns:
        A Markdown table.
    """
    header = "run", "ANN epochs", "SNN epochs", "operations [10^12 MAC]", "training [min]", "test accuracy [%]"
    rows = [list(header)]
    for name, results in _runs(preset, num_steps).items():
        last = results[0]
        rows.append(
            [
                f"{STYLES[name][0]} ({seeds(results)})",
                "0" if _is_scratch(last) else str(last["ann"]["epochs"]),
                str(last["hybrid"]["epochs"]),
                f"{_path(last)[-1][0] / TERA:.1f}",
                f"{min(map(_seconds, results)) / 60:.0f}",
                on_test(results, "hybrid"),
            ]
        )
    return aligned(rows)


def draw_scratch(preset: str, num_steps: int, path: Path) -> None:
    """Draw the learning curves: validation error against the operations of training."""
    with sheet(path) as axes:
        for name, results in _runs(preset, num_steps).items():
            label, color, style = STYLES[name]
            for i, run in enumerate(results):
                operations, accuracies = zip(*_path(run), strict=True)
                tera, shown = [value / TERA for value in operations], percent(1 - value for value in accuracies)
                axes.plot(tera, shown, style, marker=".", color=color, label=label if i == 0 else None, linewidth=1)
        axes.set_xlabel("operations of training, with those of the ANN and the conversion [10^12 MAC]")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_ylabel(f"validation error at T = {num_steps} [%]")
        axes.set_title(f"{preset}: learning curves, a line for each seed")
        axes.legend(fontsize=8)


def _runs(preset: str, num_steps: int) -> dict[str, list[Results]]:
    """Name in STYLES -> results of all seeds."""
    names = {name: f"{name}{num_steps}" if name.endswith("-t") else name for name in STYLES}
    found = {name: read_seeds(preset, trial) for name, trial in names.items()}
    return {name: results for name, results in found.items() if results}


def _is_scratch(run: Results) -> bool:
    return run["config"]["finetune"]["start"] == "scratch"


def _path(run: Results) -> list[tuple[float, float]]:
    """(operations so far, validation accuracy) after each epoch of the SNN; a hybrid run begins with the ANN's cost."""
    costs = operations_of_training(from_json(run["config"]))
    done, path = 0.0, []
    if not _is_scratch(run):
        done = run["ann"]["epochs"] * costs["ann epoch"] + costs["conversion"]
        path.append((done, run["converted"]["validation_accuracy"]))
    for record in run["hybrid"]["history"]:
        done += costs["snn epoch"]
        path.append((done, record["validation_accuracy"]))
    return path


def _seconds(run: Results) -> float:
    stages = ("finetune",) if _is_scratch(run) else ("train_ann", "convert", "finetune")
    return sum(run["seconds"][stage] for stage in stages)
