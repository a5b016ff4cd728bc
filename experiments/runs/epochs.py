"""The epochs of a training stage: steps, checkpoints, validation, metrics, and going on from where it was left."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import optax
from tqdm import tqdm

from experiments.config import Config
from experiments.runs.health import means, with_step
from experiments.runs.journal import Journal, keep, resume
from experiments.runs.networks import num_batches, open_source, random_key, steps_per_epoch
from experiments.runs.progress import bar, say, watcher
from experiments.runs.stopping import Stopped, is_asked, stop_if_asked
from experiments.runs.workdir import Run
from jsnn.datasets import TRAIN, VALIDATION
from jsnn.training.evaluation import Evaluation
from jsnn.training.hosts import on_first_process
from experiments.runs.metrics import log
from jsnn.training.parallel import (
    evaluate_split,
    global_max,
    parallel_evaluation,
    parallel_train_step,
    replicate,
    split_over_devices,
)
from jsnn.simulation import Variables
from jsnn.training.step import Forward, Metrics, TrainState

Step = Callable[..., tuple[TrainState, Metrics]]
Pending = deque[tuple[Metrics, Any]]  # what each step reports, and what the processes want after it
AHEAD = 2  # steps that the host may be ahead of the devices
NOTHING, SAVE, STOP = range(3)  # what a process wants after a step; the highest of all is done by all


def train(
    run: Run,
    network: str,
    state: TrainState,
    forward: Forward,
    optimizer: optax.GradientTransformation,
    epochs: int,
    validate: Callable[[Variables], float],
    heed: Callable[[Journal], None] = lambda journal: None,
) -> tuple[TrainState, Journal]:
    """Train to the last epoch, from the latest checkpoint on where there is one.

    Args:
        run: where to log and save.
        network: "ann" or "hybrid"; the name in the metrics and of the checkpoints' folder.
        state: the state to start from.
        forward: of the network.
        optimizer: the optax transformation.
        epochs: number of epochs.
        validate: variables -> accuracy on the validation split.
        heed: is shown the Journal after each epoch.

    Returns:
        (the last TrainState, the Journal).

    Raises:
        FloatingPointError: where a loss or gradient is not finite and steps are not to be skipped; the last checkpoint
            stays.
        Stopped: where the run was asked to stop; a checkpoint is saved.
    """
    step = _reporting_start(network, parallel_train_step(open_source(run.config, TRAIN), forward, optimizer))
    state, journal = resume(run, network, state)
    steps = steps_per_epoch(run.config)
    state = replicate(state)
    with bar(network, epochs * steps, (journal.epoch - 1) * steps + journal.steps) as progress:
        while journal.epoch <= epochs:
            state, journal = _run_epoch(run, network, step, state, journal, progress)
            try:
                journal = _close_epoch(run, network, state, journal, validate)
            except Stopped:
                keep(run, network, state, journal)  # its steps are done, the epoch is still open
                raise
            keep(run, network, state, journal)
            say(_line(network, epochs, journal))
            heed(journal)
            stop_if_asked()
    return state, journal


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
    watch = watcher("validation", num_batches(run.config, source))

    def validate(variables: Variables) -> float:
        return float(evaluate_split(compiled, variables, source, run.config.run.eval_batch_size, key, watch).accuracy[-1])

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
    run: Run, network: str, step: Step, state: TrainState, journal: Journal, progress: tqdm
) -> tuple[TrainState, Journal]:
    """The steps of an epoch that are not done yet."""
    config, source = run.config, open_source(run.config, TRAIN)
    key = random_key(config, network)
    pending: Pending = deque()
    begin = time.perf_counter() - journal.seconds
    saved_at, saved_steps = time.monotonic(), journal.steps
    for item in source.shuffled(config.data.batch_size, config.seed, journal.epoch, journal.steps):
        state, metrics = step(state, source.resident, split_over_devices(item), key)
        taken = journal.steps + len(pending) + 1 - saved_steps
        pending.append((metrics, global_max(_wish(config, taken, time.monotonic() - saved_at))))
        progress.update()
        journal, wish = _settle(config, network, journal, pending, AHEAD)
        if wish:
            journal, later = _settle(config, network, journal, pending, 0)
            keep(run, network, state, journal._replace(seconds=time.perf_counter() - begin))
            saved_at, saved_steps = time.monotonic(), journal.steps
            if STOP in (wish, later):
                raise Stopped(f"stopped on request in epoch {journal.epoch} of {network}; the same command goes on.")
    journal, _ = _settle(config, network, journal, pending, 0)
    return state, journal._replace(seconds=time.perf_counter() - begin)


def _wish(config: Config, steps: int, seconds: float) -> int:
    """What this process wants after a step, so many steps and seconds after the last save."""
    if is_asked():
        return STOP
    enough_steps = config.run.checkpoint_steps is not None and steps >= config.run.checkpoint_steps
    return SAVE if enough_steps or seconds >= 60 * config.run.checkpoint_minutes else NOTHING


def _settle(config: Config, network: str, journal: Journal, pending: Pending, ahead: int) -> tuple[Journal, int]:
    """Enter all but the last `ahead` pending steps into the journal; what any process wished after them."""
    wish = NOTHING
    while len(pending) > ahead:
        metrics, wished = pending.popleft()
        journal = with_step(config, network, journal, jax.device_get(metrics))
        wish = max(wish, int(wished))
    return journal, wish


def _close_epoch(
    run: Run, network: str, state: TrainState, journal: Journal, validate: Callable[[Variables], float]
) -> Journal:
    """Validate and log an epoch whose steps are done; the journal with its record."""
    loss, train_accuracy = means(run.config, network, journal)
    begin = time.perf_counter()
    values = {
        "loss": loss,
        "train_accuracy": train_accuracy,
        "validation_accuracy": validate({"params": state.params, "neuron": state.neuron}),
        "skipped_steps": journal.skipped,
        "seconds": journal.seconds + time.perf_counter() - begin,
        "images_per_second": journal.steps * run.config.data.batch_size / journal.seconds,
    }
    record = on_first_process(lambda: log(run.metrics, network, journal.epoch, values))
    return Journal(history=(*journal.history, record))


def _line(network: str, epochs: int, journal: Journal) -> str:
    epoch, values = len(journal.history), journal.history[-1]
    return (
        f"{network:>9} epoch {epoch}/{epochs}  loss {values['loss']:.4f}  train {values['train_accuracy']:.2%}  "
        f"validation {values['validation_accuracy']:.2%}  {values['seconds']:.1f} s  "
        f"{values['images_per_second']:.0f} images/s"
    )
