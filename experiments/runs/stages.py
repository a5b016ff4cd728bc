"""Which stages of a run are done: how one becomes so, is undone, or is taken over from another run."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.config import difference
from experiments.fields import Config
from experiments.runs.progress import duration, say
from experiments.runs.workdir import STAGES, Done, Results, Run, read_record, write_metrics, write_record
from jsnn.training.checkpoint import restore, save
from jsnn.training.hosts import on_first_process

NETWORK_OF = {"train_ann": "ann", "convert": "converted", "finetune": "hybrid"}
OFFERED = {"train_ann": "ann", "convert": "convert"}  # to other runs, and the config's last group that matters to it


def finish(run: Run, stage: str, seconds: float, results: Results, summary: str) -> None:
    """Write what a stage has measured, which makes it done, and say so."""

    def write() -> None:
        record = read_record(run.directory)
        record.stages[stage] = Done(seconds=round(seconds, 2), results=json.loads(json.dumps(results)))
        write_record(run.directory, record)

    on_first_process(write)
    say(f"{stage}: {summary}, {duration(seconds)}")


def is_done(run: Run, stage: str) -> bool:
    """Whether a stage has run to its end, and its checkpoint is there if a later stage needs it."""
    stages = on_first_process(lambda: list(read_record(run.directory).stages))
    is_there = STAGES[-1] in stages or on_first_process((run.directory / NETWORK_OF.get(stage, "")).is_dir)
    return stage in stages and is_there


def require(run: Run, stage: str) -> None:
    """Refuse to go on where an earlier stage is not done, by a ValueError that names the command to run first."""
    if not is_done(run, stage):
        raise ValueError(f"{run.directory} has no finished {stage}: run `python -m experiments.{stage}` on it first.")


def reopen(run: Run, stage: str) -> None:
    """Make a stage and all that follow it undone; where it was interrupted it goes on from its checkpoints."""
    begin = STAGES.index(stage)
    for earlier in STAGES[:begin]:
        require(run, earlier)
    to_go = STAGES[begin if is_done(run, stage) else begin + 1 :]

    def discard() -> None:
        for name in to_go:  # first, or a stage that is undone would go on from them
            if name in NETWORK_OF:
                shutil.rmtree(run.directory / NETWORK_OF[name], ignore_errors=True)
        record = read_record(run.directory)
        kept = {name: done for name, done in record.stages.items() if name in STAGES[:begin]}
        write_record(run.directory, record.model_copy(update={"stages": kept}))

    on_first_process(discard)


def save_network(run: Run, network: str, step: int, tree: Any, record: Results) -> None:
    """Save a checkpoint of a network."""
    save(run.directory / network, step, tree, record, run.config.run.keep_checkpoints)


def restored(run: Run, network: str, expected: Any) -> Any:
    """The latest checkpoint of "ann", "converted" or "hybrid"; ValueError where there is none, or another network."""
    checkpoint = restore(run.directory / network, expected)
    if checkpoint is None:
        raise ValueError(f"{run.directory / network} holds no checkpoint: run the stages again in another workdir.")
    return checkpoint.tree


def adopt(run: Run, donor: Path, stages: Sequence[str] = tuple(OFFERED)) -> None:
    """Take over another run's ANN, and its conversion where that would come out the same; a stage done before stays."""
    if not stages:
        raise ValueError("there is nothing to take over for train_ann, which trains the ANN: leave from_run out.")
    on_first_process(lambda: _adopt(run, donor, stages))


def has_done(directory: Path, config: Config, stage: str) -> bool:
    """Whether a folder holds a run that has done a stage as a run of the config would."""
    record = read_record(directory)
    return record is not None and stage in record.stages and not difference(record.config, config, OFFERED[stage])


def _adopt(run: Run, donor: Path, stages: Sequence[str]) -> None:
    theirs, own = read_record(donor), read_record(run.directory)
    if theirs is None or "train_ann" not in theirs.stages:
        raise ValueError(f"{donor} holds no trained ANN to take over: name the workdir of a run that does.")
    if what := difference(theirs.config, run.config, OFFERED["train_ann"]):
        raise ValueError(f"the ANN of {donor} is not the one that is asked for: {what}.")
    for stage in (stage for stage in stages if has_done(donor, run.config, stage)):
        done = theirs.stages[stage]
        if stage not in own.stages:
            arriving, arrived = run.directory / "arriving", run.directory / NETWORK_OF[stage]
            for folder in (arriving, arrived):
                shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(donor / NETWORK_OF[stage], arriving)
            arriving.rename(arrived)  # it gets its name when it is complete
            if stage == "train_ann":
                write_metrics(run.directory, "ann", done.results["ann"]["history"])
            own.stages[stage] = done
            write_record(run.directory, own)
            say(f"{stage}: taken over from {donor}")
        elif own.stages[stage] != done:
            say(f"{stage}: {donor} has done it otherwise, so that nothing made of it is taken over")
            return
