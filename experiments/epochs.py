"""The epochs of a training stage: steps, validation, metrics, checkpoint, and going on from the last one."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm

from experiments.networks import open_source, random_key, steps_per_epoch
from experiments.progress import bar, say
from experiments.workdir import Run, checkpoints, forget_epochs
from jsnn.checkpoint import restore, save
from jsnn.datasets import TRAIN, VALIDATION
from jsnn.evaluation import Evaluation
from jsnn.metrics import log
from jsnn.parallel import evaluate_split, parallel_evaluation, parallel_train_step, replicate, split_over_devices
from jsnn.simulation import Variables
from jsnn.training import Forward, Metrics, TrainState

Step = Callable[..., tuple[TrainState, Metrics]]
AHEAD = 2  # steps that the host may be ahead of the devices


def train(
    run: Run,
    network: str,
    state: TrainState,
    forward: Forward,
    optimizer: optax.GradientTransformation,
    epochs: int,
    validate: Callable[[Variables], float],
) -> tuple[TrainState, float, float]:
    """Train to the last epoch, from the latest checkpoint on where there is one.

    Args:
        run: where to log and save.
        network: "ann" or "hybrid"; the name in the metrics and of the checkpoints' folder.
        state: the state to start from.
        forward: of the network.
        optimizer: the optax transformation.
        epochs: number of epochs.
        validate: variables -> accuracy on the validation split.

    Returns:
        (the last TrainState, its validation accuracy, seconds spent in all, earlier sessions included).

    Raises:
        FloatingPointError: where the loss is not finite; the last checkpoint stays.
    """
    source = open_source(run.config, TRAIN)
    step = _reporting_start(network, parallel_train_step(source, forward, optimizer))
    key = random_key(run.config, network)
    steps = steps_per_epoch(run.config)
    state, done, accuracy, seconds = _resume(run, network, state)
    state = replicate(state)
    with bar(network, epochs * steps, done * steps) as progress:
        for epoch in range(done + 1, epochs + 1):
            begin = time.perf_counter()
            items = source.shuffled(run.config.batch_size, run.config.seed, epoch)
            state, loss, train_accuracy = _run_epoch(step, state, source.resident, items, key, progress)
            _check_finite(network, epoch, loss)
            training = time.perf_counter() - begin
            accuracy = validate({"params": state.params, "neuron": state.neuron})
            spent = time.perf_counter() - begin
            seconds += spent
            values = {
                "loss": loss,
                "train_accuracy": train_accuracy,
                "validation_accuracy": accuracy,
                "seconds": spent,
                "images_per_second": steps * run.config.batch_size / training,
            }
            log(run.metrics, network, epoch, values)
            _save(run, network, epoch, state, accuracy, seconds)
            say(_line(network, epoch, epochs, values))
    return state, accuracy, seconds


def validator(run: Run, evaluate: Callable[..., Evaluation]) -> Callable[[Variables], float]:
    """Accuracy on the validation split after the last step.

    Args:
        run: the run.
        evaluate: (variables, resident, item, key) -> Evaluation of sums, on the run's validation source.

    Returns:
        variables -> accuracy.
    """
    compiled = parallel_evaluation(evaluate)
    source, key = open_source(run.config, VALIDATION), random_key(run.config, "validation")

    def validate(variables: Variables) -> float:
        return float(evaluate_split(compiled, variables, source, run.config.eval_batch_size, key).accuracy[-1])

    return validate


def _reporting_start(network: str, step: Step) -> Step:
    """The step, which tells once how long its first call took, most of it compiling."""
    waiting = [network]

    def reporting(*arguments: Any) -> tuple[TrainState, Metrics]:
        begin = time.perf_counter()
        found = step(*arguments)
        if waiting:
            jax.block_until_ready(found)
            say(f"{waiting.pop():>9} first step after {time.perf_counter() - begin:.1f} s")
        return found

    return reporting


def _run_epoch(
    step: Step,
    state: TrainState,
    resident: Any,
    items: Iterable[Any],
    key: jax.Array,
    progress: tqdm,
) -> tuple[TrainState, float, float]:
    """All steps of an epoch: (the next state, mean loss, mean training accuracy)."""
    pending: list[Metrics] = []
    for item in items:
        state, metrics = step(state, resident, split_over_devices(item), key)
        pending.append(metrics)
        jax.block_until_ready(pending[-AHEAD:][0])
        progress.update()
    loss, accuracy = (float(np.mean(values)) for values in zip(*jax.device_get(pending), strict=True))
    return state, loss, accuracy


def _resume(run: Run, network: str, state: TrainState) -> tuple[TrainState, int, float, float]:
    """The latest state, the epochs done, its validation accuracy and the seconds spent so far."""
    found = restore(checkpoints(run, network), state)
    forget_epochs(run, network, after=found.step if found else 0)
    if found is None:
        return state, 0, math.nan, 0.0
    say(f"{network}: going on after epoch {found.step}")
    return found.tree, found.step, found.record["validation_accuracy"], found.record["seconds"]


def _save(run: Run, network: str, epoch: int, state: TrainState, accuracy: float, seconds: float) -> None:
    record = {"config": dataclasses.asdict(run.config), "validation_accuracy": accuracy, "seconds": seconds}
    save(checkpoints(run, network), epoch, state, record, run.config.keep_checkpoints)


def _check_finite(network: str, epoch: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss of {network} is {loss} in epoch {epoch}: lower the learning rate, or alpha for STDB; "
            "the last checkpoint is kept."
        )


def _line(network: str, epoch: int, epochs: int, values: dict[str, float]) -> str:
    return (
        f"{network:>9} epoch {epoch}/{epochs}  loss {values['loss']:.4f}  train {values['train_accuracy']:.2%}  "
        f"validation {values['validation_accuracy']:.2%}  {values['seconds']:.1f} s  "
        f"{values['images_per_second']:.0f} images/s"
    )
