"""A run's pictures: nothing is hidden, no axis is half empty, epochs are whole numbers."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.fields import Config
from experiments.reports import plots
from experiments.runs.workdir import read_results


def results(highest):
    curve = np.linspace(0.01, highest, 64).tolist()
    net = {"accuracy_by_step": curve, "accuracy_by_step_at_factor_1": curve, "accuracy": highest, "scaling_factor": 0.5}
    return {"ann": {"accuracy": highest}, "converted": net, "hybrid": net}


@pytest.mark.parametrize("highest", [0.02, 0.2, 0.7, 1.0])
def test_accuracies_fill_the_axis_and_the_legend_hides_none(highest):
    figure, axes = plt.subplots()
    plots._accuracy_by_step(axes, Config(), results(highest))
    bottom, top = axes.get_ylim()
    assert bottom <= 1
    assert 100 * highest < top <= 102
    if highest > 0.02:  # there the margins are half of it
        assert 100 * highest - 1 > 0.45 * (top - bottom)
    figure.canvas.draw()
    assert not axes.get_legend().get_window_extent().overlaps(axes.get_window_extent())
    plt.close()


@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_epochs_are_whole_numbers(epochs):
    _, axes = plt.subplots()
    records = [{"step": step, "train_accuracy": 0.5, "validation_accuracy": 0.4} for step in range(1, epochs + 1)]
    plots._training(axes, "ANN", records)
    left, right = axes.get_xlim()
    plt.close()
    ticks = [tick for tick in axes.get_xticks() if left <= tick <= right]
    assert ticks
    assert all(tick == round(tick) for tick in ticks)


def test_training_is_drawn_from_the_results(tiny, tmp_path, monkeypatch):
    """So that it is there where ann.jsonl and hybrid.jsonl are lost."""
    drawn = []
    monkeypatch.setattr(plots, "_training", lambda axes, name, records: drawn.append([one["step"] for one in records]))
    plots.draw_run(tmp_path, read_results(tiny))
    assert drawn == [[1, 2, 3], [1, 2]]
