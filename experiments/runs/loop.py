"""The epochs of a training stage: steps, checkpoints, validation, metrics, numbers that go wrong, and going on."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from experiments.fields import Config
from experiments.networks import build_ann, random_key
from experiments.runs.data import open_source, steps_per_epoch
from experiments.runs.progress import Show, moving_line, say
from experiments.runs.stages import save_network
from experiments.runs.stopping import GO_ON, SAVE, STOP, Stopped, is_asked, stop_if_asked
from experiments.runs.workdir import Results, Run, write_metrics
from jsnn.data.datasets import TRAIN
from jsnn.network.transformation import Variables
from jsnn.training.checkpoint import restore
from jsnn.training.hosts import global_max, on_first_process
from jsnn.training.parallel import replicate, split_over_devices
from jsnn.training.step import Metrics, Step, TrainState

Pending = deque[tuple[Metrics, Any]]  # of each step its metrics, and what the processes ask for after it
AHEAD = 2  # steps that the host may be ahead of the devices


class Journal(NamedTuple):
    """The past of a training stage, which is saved with its state, so that it goes on as if it had never stopped."""

    history: tuple[Results, ...] = ()  # the records of the epochs that are done, as in ann.jsonl or hybrid.jsonl
    steps: int = 0  # steps taken in the epoch under way; its next batch is that of this number
    loss: float = 0.0  # sum of the losses of these steps
    accuracy: float = 0.0  # sum of their training accuracies
    skipped: int = 0  # how many of them were skipped, and are not in the sums
    seconds: float = 0.0  # spent on them

    @property
    def epoch(self) -> int:
        """The epoch under way, counted from 1."""
        return len(self.history) + 1

    def total(self, name: str) -> float:
        return sum(record[name] for record in self.history)

    def summary(self) -> Results:
        """What results.json says of the training: its last epoch, its best (the first of equal ones), all."""
        accuracies = [record["validation_accuracy"] for record in self.history]
        return {
            "epochs": len(accuracies),
            "validation_accuracy": accuracies[-1],
            "best_validation_accuracy": max(accuracies),
            "best_epoch": accuracies.index(max(accuracies)) + 1,
            "skipped_steps": self.total("skipped_steps"),
            "history": list(self.history),
        }


class Training(NamedTuple):
    """What a stage trains."""

    network: str  # "ann" or "hybrid"; the name in the metrics and of the checkpoints' folder
    step: Step  # compiled, see `jsnn.parallel_train_step`
    epochs: int
    validate: Callable[[Variables], float]  # variables -> accuracy on the validation split


def train(run: Run, training: Training, state: TrainState) -> Journal:
    """Train to the last epoch, from the latest checkpoint on where there is one; Stopped where that is asked for."""
    network, steps = training.network, steps_per_epoch(run.config)
    checkpoint, journal = restore(run.directory / network, state), Journal()
    if checkpoint is not None:
        state, fields = checkpoint.tree, checkpoint.record["journal"]
        journal = Journal(**{**fields, "history": tuple(fields["history"])})
        say(f"{network}: going on in epoch {journal.epoch} after step {checkpoint.step}")
    on_first_process(lambda: write_metrics(run.directory, network, journal.history))
    state = replicate(state)
    with moving_line(network, training.epochs * steps, (journal.epoch - 1) * steps + journal.steps) as show:
        while journal.epoch <= training.epochs:
            state, journal = _run_epoch(run, training, state, journal, show)
            try:
                journal = _close_epoch(run, training, state, journal)
            except Stopped:
                _save(run, network, state, journal)  # its steps are done, the epoch is still open
                raise
            _save(run, network, state, journal)
            show((journal.epoch - 1) * steps, _text(training, journal))
            stop_if_asked()
    return journal


def _save(run: Run, network: str, state: TrainState, journal: Journal) -> None:
    save_network(run, network, int(state.step), state, {"journal": journal._asdict()})


def _run_epoch(
    run: Run, training: Training, state: TrainState, journal: Journal, show: Show
) -> tuple[TrainState, Journal]:
    """The steps of an epoch that are not done yet."""
    config, network, source = run.config, training.network, open_source(run.config, TRAIN)
    key, done = random_key(config, network), (journal.epoch - 1) * steps_per_epoch(config)
    pending: Pending = deque()
    begin = time.perf_counter() - journal.seconds
    saved_at, saved_steps = time.monotonic(), journal.steps
    for item in source.shuffled(config.data.batch_size, config.seed, journal.epoch, journal.steps):
        state, metrics = training.step(state, source.resident, split_over_devices(item), key)
        taken = journal.steps + len(pending) + 1 - saved_steps
        pending.append((metrics, global_max(_request(config, taken, time.monotonic() - saved_at))))
        journal, request = _settle(config, network, journal, pending, AHEAD)
        show(done + journal.steps, _text(training, journal))
        if request:
            journal, later = _settle(config, network, journal, pending, 0)
            _save(run, network, state, journal._replace(seconds=time.perf_counter() - begin))
            saved_at, saved_steps = time.monotonic(), journal.steps
            if STOP in (request, later):
                raise Stopped(f"stopped on request in epoch {journal.epoch} of {network}; the same command goes on.")
    journal, _ = _settle(config, network, journal, pending, 0)
    return state, journal._replace(seconds=time.perf_counter() - begin)


def _request(config: Config, steps: int, seconds: float) -> int:
    """What this process asks for after a step, so many steps and seconds after the last save."""
    every = config.run.checkpoint_steps
    should_save = (every is not None and steps >= every) or seconds >= 60 * config.run.checkpoint_minutes
    return STOP if is_asked() else SAVE if should_save else GO_ON


def _settle(config: Config, network: str, journal: Journal, pending: Pending, ahead: int) -> tuple[Journal, int]:
    """Enter all but the last `ahead` pending steps into the journal; what any process asked for after them."""
    request = GO_ON
    while len(pending) > ahead:
        metrics, of_step = pending.popleft()
        metrics, journal = jax.device_get(metrics), journal._replace(steps=journal.steps + 1)
        if _is_finite(config, network, f"step {journal.steps} of epoch {journal.epoch} of {network}", metrics):
            loss, accuracy = journal.loss + float(metrics.loss), journal.accuracy + float(metrics.scores["accuracy"])
            journal = journal._replace(loss=loss, accuracy=accuracy)
        else:
            journal = journal._replace(skipped=journal.skipped + 1)
        request = max(request, int(of_step))
    return journal, request


def _is_finite(config: Config, network: str, where: str, metrics: Metrics) -> bool:
    """Whether all numbers of a step are finite; else a warning, or FloatingPointError where `on_nan` is "stop"."""
    bad = {layer for layer, is_finite in metrics.finite.items() if not is_finite}
    if math.isfinite(metrics.loss) and not bad:
        return True
    # Gradients flow backward, so the problem began in the last of the layers that have it.
    backward = ["readout", *reversed(build_ann(config).spiking_layers)]
    layer = next((layer for layer in backward if layer in bad), min(bad, default=None))
    if math.isfinite(metrics.loss):
        problem = f"in {where} the gradient or the next value of {layer} is not finite"
    else:
        problem = f"in {where} the loss is {float(metrics.loss)}" + (f", the gradient of {layer} too" if bad else "")
    if config.run.on_nan == "stop":
        cure = f"{advice(config, network)}, or skip such steps by --on-nan=skip"
        raise FloatingPointError(f"{problem}: {cure}; what was saved is kept.")
    say(f"warning: {problem}: skipped")
    return False


def advice(config: Config, network: str) -> str:
    """What to change where the training of "ann" or "hybrid" goes wrong."""
    if network == "ann":
        return f"lower ann.lr ({config.ann.lr:g})"
    lower = f"lower finetune.lr ({config.finetune.lr:g})"
    if config.finetune.surrogate == "stdb":
        return f"{lower}, or take the linear surrogate, which few time steps suit better"
    return f"{lower} or finetune.epochs ({config.finetune.epochs}), or raise num_steps ({config.convert.num_steps})"


def _means(journal: Journal) -> tuple[float, float]:
    """Mean loss and training accuracy of the epoch's steps so far that were not skipped; NaN where all were."""
    counted = journal.steps - journal.skipped
    return (journal.loss / counted, journal.accuracy / counted) if counted else (math.nan, math.nan)


def _close_epoch(run: Run, training: Training, state: TrainState, journal: Journal) -> Journal:
    """Validate an epoch whose steps are done, and write its record; the journal with that."""
    network, begin = training.network, time.perf_counter()
    loss, accuracy = _means(journal)
    if math.isnan(loss):
        problem = f"all {journal.steps} steps of epoch {journal.epoch} of {network} were skipped"
        raise FloatingPointError(f"{problem}: {advice(run.config, network)}; what was saved is kept.")
    record = {
        "stage": network,
        "step": journal.epoch,
        "loss": loss,
        "train_accuracy": accuracy,
        "validation_accuracy": training.validate(state.variables()),
        "skipped_steps": journal.skipped,
        "seconds": journal.seconds + time.perf_counter() - begin,
        "images_per_second": journal.steps * run.config.data.batch_size / journal.seconds,
    }
    record = on_first_process(lambda: record)  # of several processes, the times of the first
    history = (*journal.history, record)
    on_first_process(lambda: write_metrics(run.directory, network, history))
    return Journal(history)


def _text(training: Training, journal: Journal) -> str:
    epoch, (loss, accuracy), validated = journal.epoch, _means(journal), ""
    if journal.history:
        last = journal.history[-1]
        validated = f"  validation {last['validation_accuracy']:.2%}"
        if not journal.steps:
            epoch, loss, accuracy = last["step"], last["loss"], last["train_accuracy"]
    return f"epoch {epoch}/{training.epochs}  loss {loss:.4f}  accuracy {accuracy:.2%}{validated}"
