"""Evaluate ANN, converted net and fine-tuned net on the test split, and draw the plots.

Interrupted, it goes on from the batch where it was.

python -m experiments.evaluate [PRESET] [--workdir DIR] [--field value ...]
"""

import time
from functools import partial
from statistics import mean, stdev

import jax
import numpy as np

from experiments.convert import chosen_factor, converted_snn, scaled_snn
from experiments.finetune import finetuned_snn, handed_back, logit_scale
from experiments.reports import plots, table
from experiments.runs import command_line
from experiments.runs.environment import environment
from experiments.runs.health import warn_of_silent_layers
from experiments.runs.networks import build_ann, stream_keys
from experiments.runs.partial import resumable
from experiments.runs.progress import say
from experiments.runs.records import renew_results
from experiments.runs.schema import Results
from experiments.runs.scoring import score_ann, score_exits, score_snn
from experiments.runs.stages import finish, require
from experiments.runs.workdir import Run
from experiments.train_ann import trained_ann
from jsnn.data.datasets import TEST, VALIDATION
from jsnn.folding import Fold
from jsnn.network.transformation import Variables
from jsnn.training.early_exit import CONFIDENCES, cheapest
from jsnn.training.evaluation import Evaluation
from jsnn.training.hosts import is_first_process


def evaluate(run: Run) -> None:
    """Evaluate the networks of a run on the test split: accuracies and spikes in results.json, plots, a row printed."""
    require(run, "finetune")
    fold, begin = resumable(run, "evaluate")
    ann_accuracy = score_ann(run.config, trained_ann(run), TEST, fold=fold)
    say(f"ann       test {ann_accuracy:.2%}")
    keys = stream_keys(run.config, TEST, run.config.evaluate.streams)
    unscaled = _score_streams(run, fold, "converted, factor 1", converted_snn(run), keys[:1])
    same = chosen_factor(run) == 1 and len(keys) == 1
    converted = unscaled if same else _score_streams(run, fold, "converted", scaled_snn(run), keys)
    hybrid = converted if handed_back(run) else _score_streams(run, fold, "hybrid", finetuned_snn(run), keys)
    spikes = {"converted": converted["spikes"], "hybrid": hybrid["spikes"]}
    for network, of_layers in spikes.items():
        warn_of_silent_layers(network, of_layers)
    converted, hybrid = ({name: net[name] for name in net if name != "spikes"} for net in (converted, hybrid))
    results = {
        "ann": {"accuracy": ann_accuracy},
        "converted": {**converted, "accuracy_by_step_at_factor_1": unscaled["accuracy_by_step"]},
        "hybrid": hybrid,
        "early_exit": _early_exit(run, fold),
        "spikes_per_neuron": spikes,
        "environment": environment(),
    }
    finish(run, "evaluate", time.perf_counter() - begin, results)
    show(run)


def _early_exit(run: Run, fold: Fold) -> Results:
    """Accuracy and steps of the net that the run keeps, where samples stop at the confidence that validation chooses.

    It may cost `exit_cost` of the accuracy at num_steps there.
    """
    score = partial(score_exits, run.config, finetuned_snn(run), logit_scale=logit_scale(run), fold=fold)
    chosen, exits = cheapest(score(VALIDATION), run.config.evaluate.exit_cost), score(TEST)
    confidence, accuracy, steps = CONFIDENCES[chosen], float(exits.accuracy[chosen]), float(exits.steps[chosen])
    say(f"early exit test {accuracy:.2%} after {steps:.2f} steps on average, at a confidence of {confidence:.4g}")
    curve = {"confidences": CONFIDENCES, "accuracies": exits.accuracy.tolist(), "mean_steps": exits.steps.tolist()}
    return {"confidence": confidence, "accuracy": accuracy, "steps": steps, **curve}


def show(run: Run) -> None:
    """Draw the plots of a finished run into its folder and print its row of the table."""
    results = renew_results(run.directory)
    if is_first_process():
        plots.draw_run(run.directory, results)
    say(table.markdown([results]))


def _score_streams(run: Run, fold: Fold, label: str, variables: Variables, keys: list[jax.Array]) -> Results:
    """Accuracy by step and at num_steps, its spread over streams of noise, and spikes per neuron by layer.

    The first stream runs for eval_steps steps, the others for num_steps: up to num_steps the accuracy by step is the
    mean over all streams, beyond it that of the first.
    """
    config, num_steps, eval_steps = run.config, run.config.convert.num_steps, run.config.evaluate.eval_steps

    def score(stream: int, key: jax.Array) -> Evaluation:
        steps = num_steps if stream else eval_steps
        return score_snn(config, variables, steps, TEST, key, label=f"{label}, stream {stream}", fold=fold)

    first, *others = (score(stream, key) for stream, key in enumerate(keys))
    reduced = np.stack([scores.accuracy[:num_steps] for scores in (first, *others)])
    by_step = np.concatenate([reduced.mean(0), first.accuracy[num_steps:]])
    last = [float(accuracy) for accuracy in reduced[:, -1]]
    scores = {"accuracy": mean(last), "accuracy_std": stdev(last) if len(last) > 1 else 0.0}
    spikes = {layer: float(first.spikes[layer][:num_steps].sum()) for layer in build_ann(config).spiking_layers}
    say(f"{label:<9} test {scores['accuracy']:.2%} at T={num_steps}, {by_step[-1]:.2%} at T={eval_steps}")
    return {
        **scores,
        "accuracy_by_step": [float(value) for value in by_step],
        "loss": float(first.loss[num_steps - 1]),
        "spikes": spikes,
    }


if __name__ == "__main__":
    command_line.run_stage("evaluate", __doc__, evaluate)
