"""What a training stage knows of its own past, beside the TrainState; saved with it, so that a run can go on from any
step as if it had never stopped.
"""

import dataclasses
from typing import Any, NamedTuple

from experiments.runs.progress import say
from experiments.runs.workdir import Run, checkpoints, latest
from jsnn.training.checkpoint import save
from jsnn.training.hosts import on_first_process
from jsnn.training.metrics import Record, rewrite
from jsnn.training.step import TrainState


class Journal(NamedTuple):
    """The past of a training stage."""

    history: tuple[Record, ...] = ()  # the records of the epochs that are done, as in metrics.jsonl
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
        """The sum of a value over all epochs that are done."""
        return sum(record[name] for record in self.history)

    def summary(self) -> dict[str, Any]:
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


def save_journal(run: Run, network: str, state: TrainState, journal: Journal) -> None:
    """Save a checkpoint of "ann" or "hybrid", under the number of steps that it has taken, with its journal."""
    record = {"config": dataclasses.asdict(run.config), "journal": journal._asdict()}
    save(checkpoints(run, network), int(state.step), state, record, run.config.run.keep_checkpoints)


def resume(run: Run, network: str, state: TrainState) -> tuple[TrainState, Journal]:
    """The last state of "ann" or "hybrid", or the given first one, and its journal, which metrics.jsonl is made to say.

    ValueError where there are checkpoints and none is intact, or another config made the last one.
    """
    checkpoint = latest(run, network, state)
    journal = Journal() if checkpoint is None else _journal(checkpoint.record)
    on_first_process(lambda: rewrite(run.metrics.path, network, journal.history))
    if checkpoint is None:
        return state, journal
    say(f"{network}: going on in epoch {journal.epoch} after step {checkpoint.step}")
    return checkpoint.tree, journal


def _journal(record: dict[str, Any]) -> Journal:
    """The Journal of a checkpoint's record."""
    try:
        fields = record["journal"]
        return Journal(**{**fields, "history": tuple(fields["history"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"the checkpoint is of another version of jsnn ({error}): use another workdir.") from error
