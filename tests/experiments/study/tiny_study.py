"""The tiny run for tests of the study, its results with numbers set by hand, and views of tables and plots."""

import copy

import pytest

from experiments.config import with_fields
from experiments.reports.plots import sheet
from experiments.runs.records import read_results, saved_config
from experiments.runs.workdir import Run
from experiments.study.results import results_path, write_results

LAYERS = ("conv0", "conv1", "conv2", "dense0")


@pytest.fixture
def tiny_run(tiny):
    """The tiny run, with batches that its splits fill several times."""
    return Run(with_fields(saved_config(tiny), {"run.eval_batch_size": 32}), tiny, None)


@pytest.fixture
def keep(tiny, tmp_path):
    """Keeps results of a trial of the preset "tiny", those of the tiny run with some numbers changed.

    Changes are of a part of the results, of the config's convert and finetune groups by these names.
    """
    of_tiny = read_results(tiny)
    of_tiny["config"]["data"]["dataset"] = "fashion_mnist"  # whose number of images is known

    def keep(trial, seed, **changes):
        results = copy.deepcopy(of_tiny) | {"input_rate": 0.5}
        results["config"]["seed"] = seed
        for group in ("convert", "finetune"):
            results["config"][group] |= changes.pop(group, {})
        for name, value in changes.items():
            results[name] = {**results[name], **value} if name in results else value
        write_results(results_path(tmp_path, "tiny", trial, seed), results)

    return keep


def cells(table, row):
    """The cells of the row that begins so."""
    line = next(line for line in table.splitlines() if line.startswith(f"| {row} "))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def measured(factor_1, factor, chosen):
    """A conversion's measurements on the test split at one T."""
    return {"factor_1": factor_1, "factor": factor, "chosen": chosen}


def is_drawn(draw, data, path, *options):
    """Whether a plot of the data becomes a picture."""
    with sheet(path) as axes:
        draw(axes, data, *options)
    return path.read_bytes().startswith(b"\x89PNG")
