"""Evaluate ANN, converted net and fine-tuned net on the test split, and draw the plots.

python -m experiments.evaluate [PRESET] [--workdir DIR] [--field value ...]
"""

import time
from functools import partial
from statistics import mean, stdev

import jax
import numpy as np

from experiments.convert import converted_snn, scaled_snn
from experiments.finetune import finetuned_snn, logit_scale
from experiments.machine import environment
from experiments.networks import build_ann, stream_keys
from experiments.reports import plots, table
from experiments.runs import command_line
from experiments.runs.progress import say
from experiments.runs.stages import finish, require
from experiments.runs.workdir import CONVERTED, Results, Run, read_results
from experiments.scoring import score_ann, score_exits, score_snn, warn_of_silent_layers
from experiments.train_ann import trained_ann
from jsnn.data.datasets import TEST, VALIDATION
from jsnn.network.transformation import Variables
from jsnn.training.early_exit import CONFIDENCES, cheapest
from jsnn.training.hosts import is_first_process


def evaluate(run: Run) -> None:
    """Evaluate the networks of a run on the test split: accuracies and spikes in results.json, plots, a row printed."""
    require(run, "finetune")
    config, found, begin = run.config, read_results(run.directory), time.perf_counter()
    keys = stream_keys(config, TEST, config.evaluate.streams)
    unscaled = _score_streams(run, converted_snn(run), keys[:1])
    is_unscaled = found["converted"]["scaling_factor"] == 1 and len(keys) == 1
    converted = unscaled if is_unscaled else _score_streams(run, scaled_snn(run), keys)
    is_kept = found["hybrid"]["kept"] == CONVERTED
    hybrid = converted if is_kept else _score_streams(run, finetuned_snn(run), keys)
    nets = {"converted": converted, "hybrid": hybrid}
    results = {"ann": {"accuracy": score_ann(config, trained_ann(run), TEST)}}
    for name, net in nets.items():
        results[name] = {what: value for what, value in net.items() if what != "spikes"}
        warn_of_silent_layers(name, net["spikes"])
    results["converted"]["accuracy_by_step_at_factor_1"] = unscaled["accuracy_by_step"]
    spikes = {name: net["spikes"] for name, net in nets.items()}
    results |= {"early_exit": _early_exit(run), "spikes_per_neuron": spikes, "environment": environment()}
    summary = f"test {results['hybrid']['accuracy']:.2%} at T = {config.convert.num_steps}"
    finish(run, "evaluate", time.perf_counter() - begin, results, summary)
    show(run)


def show(run: Run) -> None:
    """Draw the plots of a finished run into its folder and print its row of the table."""
    results = read_results(run.directory)
    if is_first_process():
        plots.draw_run(run.directory, results)
    say(table.markdown([results]))


def _early_exit(run: Run) -> Results:
    """Accuracy and steps of the net that is kept, where samples stop at the confidence that validation chooses."""
    score = partial(score_exits, run.config, finetuned_snn(run), logit_scale=logit_scale(run))
    chosen, exits = cheapest(score(VALIDATION), run.config.evaluate.exit_cost), score(TEST)
    return {
        "confidence": CONFIDENCES[chosen],
        "accuracy": float(exits.accuracy[chosen]),
        "steps": float(exits.steps[chosen]),
        "confidences": CONFIDENCES,
        "accuracies": exits.accuracy.tolist(),
        "mean_steps": exits.steps.tolist(),
    }


def _score_streams(run: Run, variables: Variables, keys: list[jax.Array]) -> Results:
    """Accuracy by step, the mean over streams of noise, beyond num_steps the first's alone; its spread, and spikes."""
    config, num_steps = run.config, run.config.convert.num_steps
    first = score_snn(config, variables, config.evaluate.eval_steps, TEST, keys[0])
    others = [score_snn(config, variables, num_steps, TEST, key) for key in keys[1:]]
    reduced = np.stack([scores.accuracy[:num_steps] for scores in (first, *others)])
    by_step = np.concatenate([reduced.mean(0), first.accuracy[num_steps:]])
    last = [float(accuracy) for accuracy in reduced[:, -1]]
    return {
        "accuracy": mean(last),
        "accuracy_std": stdev(last) if len(last) > 1 else 0.0,
        "accuracy_by_step": [float(value) for value in by_step],
        "loss": float(first.loss[num_steps - 1]),
        "spikes": {layer: float(first.spikes[layer][:num_steps].sum()) for layer in build_ann(config).spiking_layers},
    }


if __name__ == "__main__":
    command_line.run_stage("evaluate", __doc__, evaluate)
