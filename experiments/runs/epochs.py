"""The epochs of a training stage: steps, checkpoints, validation, metrics, and going on from where it was left."""

import time
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import jax
import optax
from tqdm import tqdm

from experiments.fields import Config
from experiments.runs.health import mean_metrics, warn_of_indifference, with_step
from experiments.runs.journal import Journal, resume, save_journal
from experiments.runs.networks import random_key
from experiments.runs.progress import REPORT_EVERY, bar, duration, say
from experiments.runs.splits import open_source, steps_per_epoch
from experiments.runs.stopping import GO_ON, SAVE, STOP, Stopped, is_asked, stop_if_asked
from experiments.runs.workdir import Run
from jsnn.data.datasets import TRAIN
from jsnn.network.transformation import Variables
from jsnn.training.forward import Forward
from jsnn.training.hosts import global_max, on_first_process
from jsnn.training.loss import Loss, cross_entropy
from jsnn.training.metrics import log
from jsnn.training.parallel import parallel_train_step, replicate, split_over_devices
from jsnn.training.step import Metrics, Step, TrainState

Pending = deque[tuple[Metrics, Any]]  # of each step its metrics, and what the processes ask for after it
AHEAD = 2  # steps that the host may be ahead of the devices


class Training(NamedTuple):
    """What a stage trains."""

    network: str  # "ann" or "hybrid"; the name in the metrics and of the checkpoints' folder
    forward: Forward
    optimizer: optax.GradientTransformation
    epochs: int
    validate: Callable[[Variables], float]  # variables -> accuracy on the validation split
    loss: Loss = cross_entropy
    after_epoch: Callable[[Journal], None] = lambda journal: None  # is handed the Journal after each epoch


def train(run: Run, training: Training, state: TrainState) -> Journal:
    """Train to the last epoch, from the latest checkpoint on where there is one.

    Stopped where the run is asked to stop, when a checkpoint is saved; FloatingPointError where a number is not finite
    and steps are not to be skipped: the last checkpoint stays.
    """
    network = training.network
    source, parts = open_source(run.config, TRAIN), run.config.run.accumulate
    step = parallel_train_step(source, training.forward, training.optimizer, training.loss, parts)
    step = _reporting_first_call(network, step)
    state, journal = resume(run, network, state)
    steps = steps_per_epoch(run.config)
    state = replicate(state)
    with bar(network, training.epochs * steps, (journal.epoch - 1) * steps + journal.steps) as progress:
        while journal.epoch <= training.epochs:
            state, journal = _run_epoch(run, network, step, state, journal, progress)
            try:
                journal = _close_epoch(run, training, state, journal)
            except Stopped:
                save_journal(run, network, state, journal)  # its steps are done, the epoch is still open
                raise
            save_journal(run, network, state, journal)
            say(_line(network, training.epochs, journal))
            warn_of_indifference(run.config, network, journal.history)
            training.after_epoch(journal)
            stop_if_asked()
    return journal


def _reporting_first_call(network: str, step: Step) -> Step:
    """The step, which says once how long its first call took, most of it compiling."""
    waiting = [network]

    def reporting(*arguments: Any) -> tuple[TrainState, Metrics]:
        begin = time.perf_counter()
        result = step(*arguments)
        if waiting:
            jax.block_until_ready(result)
            say(f"{waiting.pop():>9} first step after {time.perf_counter() - begin:.1f} s")
        return result

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
        pending.append((metrics, global_max(_request(config, taken, time.monotonic() - saved_at))))
        progress.update()
        journal, request = _settle(config, network, journal, pending, AHEAD)
        if request:
            journal, later = _settle(config, network, journal, pending, 0)
            save_journal(run, network, state, journal._replace(seconds=time.perf_counter() - begin))
            if time.monotonic() - saved_at > REPORT_EVERY:
                left = (steps_per_epoch(config) / journal.steps - 1) * (time.perf_counter() - begin)
                say(f"{network:>9} step {journal.steps} of epoch {journal.epoch}, {duration(left)} left in it")
            saved_at, saved_steps = time.monotonic(), journal.steps
            if STOP in (request, later):
                raise Stopped(f"stopped on request in epoch {journal.epoch} of {network}; the same command goes on.")
    journal, _ = _settle(config, network, journal, pending, 0)
    return state, journal._replace(seconds=time.perf_counter() - begin)


def _request(config: Config, steps: int, seconds: float) -> int:
    """What this process asks for after a step, so many steps and seconds after the last save."""
    if is_asked():
        return STOP
    return SAVE if should_save(config, steps, seconds) else GO_ON


def should_save(config: Config, steps: int, seconds: float) -> bool:
    """Whether to save within an epoch, so many steps and seconds after the last save."""
    every = config.run.checkpoint_steps
    return (every is not None and steps >= every) or seconds >= 60 * config.run.checkpoint_minutes


def _settle(config: Config, network: str, journal: Journal, pending: Pending, ahead: int) -> tuple[Journal, int]:
    """Enter all but the last `ahead` pending steps into the journal; what any process asked for after them."""
    request = GO_ON
    while len(pending) > ahead:
        metrics, of_step = pending.popleft()
        journal = with_step(config, network, journal, jax.device_get(metrics))
        request = max(request, int(of_step))
    return journal, request


def _close_epoch(run: Run, training: Training, state: TrainState, journal: Journal) -> Journal:
    """Validate and log an epoch whose steps are done; the journal with its record."""
    loss, train_accuracy = mean_metrics(run.config, training.network, journal)
    begin = time.perf_counter()
    values = {
        "loss": loss,
        "train_accuracy": train_accuracy,
        "validation_accuracy": training.validate(state.variables()),
        "skipped_steps": journal.skipped,
        "seconds": journal.seconds + time.perf_counter() - begin,
        "images_per_second": journal.steps * run.config.data.batch_size / journal.seconds,
    }
    record = on_first_process(lambda: log(run.metrics, training.network, journal.epoch, values))
    return Journal(history=(*journal.history, record))


def _line(network: str, epochs: int, journal: Journal) -> str:
    epoch, values = len(journal.history), journal.history[-1]
    left = (epochs - epoch) * median(record["seconds"] for record in journal.history[-9:])  # the first one compiles
    return (
        f"{network:>9} epoch {epoch}/{epochs}  loss {values['loss']:.4f}  train {values['train_accuracy']:.2%}  "
        f"validation {values['validation_accuracy']:.2%}  {values['seconds']:.1f} s  "
        f"{values['images_per_second']:.0f} images/s" + (f"  {duration(left)} left" if left else "")
    )
