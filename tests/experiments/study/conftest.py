"""A tiny config, results whose numbers are set by hand, and cells of tables."""

import copy
from dataclasses import asdict

import pytest

from experiments.config import with_fields
from experiments.runs.command_line import parse
from experiments.study import results
from tests.experiments.commands import TINY

LAYERS = ("conv0", "conv1", "conv2", "dense0")
CONFIG = with_fields(parse("test", "", TINY).config, {"run.eval_batch_size": 32, "data.batch_size": 16})
SCORES = {"accuracy": 0.8, "accuracy_std": 0.01, "accuracy_by_step": [0.8] * 6, "validation_accuracy": 0.8}
HISTORY = [{"validation_accuracy": 0.7}, {"validation_accuracy": 0.8}]
TEMPLATE = {
    "config": asdict(with_fields(CONFIG, {"data.dataset": "fashion_mnist"})),  # whose number of images is known
    "ann": {"accuracy": 0.8, "epochs": 3},
    "converted": SCORES | {"scaling_factor": 0.5, "accuracy_by_step_at_factor_1": [0.1] * 6},
    "hybrid": SCORES | {"epochs": 2, "history": HISTORY, "kept": "fine-tuned", "validation_accuracy_before": 0.6},
    "spikes_per_neuron": {net: dict.fromkeys(LAYERS, 1.0) for net in ("converted", "hybrid")},
    "early_exit": {"accuracy": 0.8, "steps": 3.0},
    "seconds": dict.fromkeys(("train_ann", "convert", "finetune", "evaluate"), 60.0),
    "input_rate": 0.5,
}
ENVIRONMENT = {"commit": "0123456", "platform": "cpu", "cpu_count": 2, "device": "cpu", "device_count": 1}


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """Keeps a trial of the preset "tiny", TEMPLATE but for changes of its parts, convert and finetune; reads all."""
    monkeypatch.setattr(results, "environment", lambda: ENVIRONMENT)

    def keep(trial, seed, **changes):
        of_run = copy.deepcopy(TEMPLATE)
        of_run["config"]["seed"] = seed
        for group in ("convert", "finetune"):
            of_run["config"][group] |= changes.pop(group, {})
        for name, value in changes.items():
            of_run[name] = {**of_run[name], **value} if name in of_run else value
        results.keep(tmp_path, "tiny", trial, of_run)
        return results.read_runs(tmp_path)

    return keep


def cells(table, row):
    """The cells of the row that begins so."""
    line = next(line for line in table.splitlines() if line.startswith(f"| {row} "))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]
