"""Evaluate ANN, converted net and fine-tuned net on the test split, and draw the plots.

python -m experiments.evaluate [PRESET] [--workdir DIR] [--field value ...]
"""

import time
from collections.abc import Sequence
from functools import partial
from statistics import mean, stdev
from typing import Any

import jax
import numpy as np

from experiments.convert import chosen_factor, converted_snn
from experiments.finetune import finetuned_snn, handed_back
from experiments.reports import plots, table
from experiments.runs import command_line
from experiments.runs.environment import environment
from experiments.runs.networks import build_ann, build_snn, num_batches, open_source, random_key, stream_keys
from experiments.runs.presentation import beginning, present
from experiments.runs.progress import say, watcher
from experiments.runs.workdir import Run, finish, read_results, require
from experiments.train_ann import trained_ann
from jsnn.conversion import scale_thresholds
from jsnn.datasets import TEST
from jsnn.simulation import Variables
from jsnn.training.evaluation import Evaluation, evaluate_ann
from jsnn.training.hosts import is_first_process
from jsnn.training.parallel import evaluate_split, parallel_evaluation


def evaluate(run: Run) -> None:
    """Evaluate the networks of a run on the test split.

    Args:
        run: the run, its net fine-tuned; gets accuracies and spikes in results.json, plots, and prints its row.
    """
    require(run, "finetune")
    begin = time.perf_counter()
    ann_accuracy = score_ann(run)
    say(f"ann       test {ann_accuracy:.2%}")
    snn = converted_snn(run)
    unscaled = _score_snn(run, "converted, factor 1", snn, streams=1)
    streams = (
        run.config.evaluate.streams if run.config.convert.encoding == "poisson" else 1
    )  # without noise all are the same
    converted = _score_snn(run, "converted", scale_thresholds(snn, chosen_factor(run)), streams)
    hybrid = converted if handed_back(run) else _score_snn(run, "hybrid", finetuned_snn(run), streams)
    found = {
        "ann": {"accuracy": ann_accuracy},
        "converted": {
            **_without_spikes(converted),
            "accuracy_by_step_at_factor_1": unscaled["accuracy_by_step"],
        },
        "hybrid": _without_spikes(hybrid),
        "spikes_per_neuron": {"converted": converted["spikes"], "hybrid": hybrid["spikes"]},
        "environment": environment(),
    }
    finish(run, "evaluate", time.perf_counter() - begin, found)
    show(run)


def show(run: Run) -> None:
    """Draw the plots of a finished run into its folder and print its row of the table."""
    results = read_results(run.directory)
    if is_first_process():
        plots.draw_run(run.directory, results)
    say(table.markdown([results]))


def score_ann(run: Run, images: int | None = None) -> float:
    """The accuracy of the run's ANN on the test split.

    Args:
        run: the run, its ANN trained.
        images: how many of the split, see `experiments.runs.presentation.present`.

    Returns:
        The share of the images that the ANN classifies correctly.
    """
    source = open_source(run.config, TEST)
    source = source if images is None else beginning(source, images)
    scored = evaluate_split(
        parallel_evaluation(partial(evaluate_ann, build_ann(run.config), source)),
        trained_ann(run),
        source,
        run.config.run.eval_batch_size,
        random_key(run.config, TEST),
        watcher("ann", num_batches(run.config, source)),
    )
    return float(scored.accuracy[-1])


def mean_and_std(accuracies: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation over streams of noise, the latter 0 where there is one.

    Args:
        accuracies: of each stream.

    Returns:
        {"accuracy": the mean, "accuracy_std": the standard deviation}.
    """
    return {"accuracy": mean(accuracies), "accuracy_std": stdev(accuracies) if len(accuracies) > 1 else 0.0}


def _score_snn(run: Run, label: str, variables: Variables, streams: int) -> dict[str, Any]:
    """Accuracy by step and at num_steps, its spread over streams of noise, and spikes per neuron by layer.

    The first stream runs for eval_steps steps, the others for num_steps: up to num_steps the accuracy by step is the
    mean over all streams, beyond it that of the first.
    """
    config = run.config

    def score(stream: int, key: jax.Array) -> Evaluation:
        num_steps = config.convert.num_steps if stream else config.evaluate.eval_steps
        return present(config, variables, num_steps, TEST, key, f"{label}, stream {stream}")

    first, *others = (score(stream, key) for stream, key in enumerate(stream_keys(config, TEST, streams)))
    reduced = np.stack([scores.accuracy[: config.convert.num_steps] for scores in (first, *others)])
    by_step = np.concatenate([reduced.mean(0), first.accuracy[config.convert.num_steps :]])
    final = reduced[:, -1]
    spikes = {
        layer: float(first.spikes[layer][: config.convert.num_steps].sum())
        for layer in build_snn(config).spiking_layers
    }
    say(
        f"{label:<9} test {final.mean():.2%} at T={config.convert.num_steps}, {by_step[-1]:.2%} at T={config.evaluate.eval_steps}"
    )
    return {
        **mean_and_std([float(accuracy) for accuracy in final]),
        "accuracy_by_step": [float(value) for value in by_step],
        "loss": float(first.loss[config.convert.num_steps - 1]),
        "spikes": spikes,
    }


def _without_spikes(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if name != "spikes"}


if __name__ == "__main__":
    command_line.run_stage("evaluate", __doc__, evaluate)
