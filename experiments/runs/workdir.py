"""The folder of a run.

- config.json: the config that the folder belongs to
- stages.json: what each stage has measured, and by which config
- results.json: the same by network, for readers
- metrics.jsonl: a record per epoch; tensorboard/ has the same
- ann/, converted/, hybrid/: checkpoints, each with the config that made it
- partial/: passes over data that are under way, but for those of training
- accuracy_by_step.png, training.png, spikes.png: plots
- lock: names the process that works on it

Of several processes the first reads and writes all of it, and broadcasts what the others need.
"""

import dataclasses
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.config import check, difference, from_json
from experiments.fields import Config
from experiments.runs import compilation
from experiments.runs.fitting import check_fits
from experiments.runs.progress import say
from experiments.runs.records import (
    GROUP_OF,
    NETWORK_OF,
    STAGES,
    TRAINING,
    config_of,
    is_alike,
    read_stages,
    saved_config,
    write_json,
    write_stages,
)
from experiments.runs.schema import Results
from experiments.runs.splits import check_data, import_data_module
from jsnn.training.checkpoint import Checkpoint, latest_is_intact, latest_step, restore
from jsnn.training.files import locked, remove_folder
from jsnn.training.hosts import all_gather, is_first_process, on_every_process, on_first_process
from jsnn.training.metrics import MetricsLog, open_metrics

PARTIAL = "partial"  # name of the folder of passes that are under way


class Run(NamedTuple):
    """A config, the folder that belongs to it, and its log of metrics."""

    config: Config
    directory: Path
    metrics: MetricsLog


@contextmanager
def open_run(config: Config, directory: Path) -> Iterator[Run]:
    """Open the folder of a run, or make it, and hold it for this process.

    Nothing is written, but a ValueError raised, where a field is out of its range, the network can't take the images,
    the data set is not prepared, or the folder belongs to another config or is in use.
    """
    import_data_module(config)
    check(config)
    check_fits(config)
    _refuse_disagreement(config)
    on_first_process(lambda: _refuse_other_config(config, directory))
    on_every_process(lambda: check_data(config))
    on_first_process(lambda: directory.mkdir(parents=True, exist_ok=True))
    with ExitStack() as held:
        on_first_process(lambda: held.enter_context(locked(directory)))
        on_first_process(lambda: _claim(config, directory))
        yield Run(config, directory, open_metrics(directory, config.run.tensorboard and is_first_process()))


def _refuse_disagreement(config: Config) -> None:
    """Refuse, in all of them, processes of one run that were started with different fields."""
    first = from_json(on_first_process(lambda: json.loads(json.dumps(dataclasses.asdict(config)))))
    what = difference(first, config, "run")
    if all_gather(np.array(what is not None)).any():
        raise ValueError(
            f"the processes of the run were started with different fields ({what or 'see theirs'}): start all alike."
        )


def _refuse_other_config(config: Config, directory: Path) -> None:
    """Refuse a folder that belongs to another config."""
    saved = saved_config(directory)
    if saved and difference(saved, config):
        raise ValueError(
            f"{directory} belongs to another config: {difference(saved, config)}; "
            "use another workdir, or the config that is there."
        )


def _claim(config: Config, directory: Path) -> None:
    """Write the config into a new folder; another process may have done so in the meantime."""
    _refuse_other_config(config, directory)
    if not (directory / "config.json").exists():
        write_json(directory / "config.json", dataclasses.asdict(config))


def finish(run: Run, stage: str, seconds: float, results: Results) -> None:
    """Write what a stage has measured, which makes it done; compiling counts since the last stage of this process.

    Where a stage whose checkpoint was lost came out otherwise than before, as on another machine, those behind it were
    made of what is no more: they are undone.
    """
    before = measured(run, stage)
    if before is not None and not on_first_process(lambda: is_alike(before, json.loads(json.dumps(results)))):
        say(f"{stage}: came out otherwise than before, so that all behind it is made again")
        _discard(run, STAGES[STAGES.index(stage) + 1 :])
    done = {"seconds": round(seconds, 2), "compile_seconds": round(compilation.take_seconds(), 2)}
    step = _last_step(checkpoints(run, NETWORK_OF[stage])) if stage in NETWORK_OF else None
    done |= {"config": dataclasses.asdict(run.config), "step": step, "results": results}
    _write_stages(run, {**_stages(run), stage: done})
    on_first_process(partial(remove_folder, run.directory / PARTIAL))


def measured(run: Run, stage: str) -> Results | None:
    """What a stage has measured, be its checkpoint lost; None where it was not done."""
    return _stages(run).get(stage, {}).get("results")


def note_loss(run: Run, stage: str) -> None:
    """Note that the checkpoint of a stage is lost: it is undone, and what it measured stays, to be compared."""
    stages = _stages(run)
    if stage in stages:
        _write_stages(run, {**stages, stage: {**stages[stage], "step": None}})


def is_done(run: Run, stage: str) -> bool:
    """Whether a stage has run to its end and its last checkpoint is intact, or is needed no more."""
    stages = _stages(run)
    return stage in stages and (STAGES[-1] in stages or _ends_intact(run, stage))


def require(run: Run, stage: str) -> None:
    """Refuse to go on where an earlier stage is not done, by a ValueError that names the command to run first."""
    if stage not in _stages(run):
        raise _unfinished(run, stage)


def _unfinished(run: Run, stage: str) -> ValueError:
    return ValueError(f"{run.directory} has no finished {stage}: run `python -m experiments.{stage}` on it first.")


def _ends_intact(run: Run, stage: str) -> bool:
    """Whether the last checkpoint of a stage that was done is there and intact."""
    folder, step = checkpoints(run, NETWORK_OF[stage]), _stages(run)[stage]["step"]
    if ends_at(folder, step):
        return True
    what = "damaged" if _last_step(folder) == step else "missing"
    warnings.warn(f"the last checkpoint in {folder} is {what}: {stage} is to be done again.", stacklevel=2)
    return False


def ends_at(folder: Path, step: int) -> bool:
    """Whether the last checkpoint in a folder is the one of a number, and intact."""
    try:
        return bool(latest_is_intact(folder)) and _last_step(folder) == step
    except ValueError:  # none is intact
        return False


def _last_step(folder: Path) -> int | None:
    return on_first_process(lambda: latest_step(folder))


def reopen(run: Run, stage: str) -> None:
    """Make a stage and all that follow it undone, for it is about to run again.

    Where the stage was done, it begins anew; where it was interrupted, its checkpoints stay and it goes on from them.
    ValueError where an earlier stage is not done or its last checkpoint is damaged, or no checkpoint of this one is
    intact; then nothing is changed.
    """
    begin = STAGES.index(stage)
    for earlier in STAGES[:begin]:
        require(run, earlier)
        if not _ends_intact(run, earlier):
            raise _unfinished(run, earlier)
    is_new = is_done(run, stage)
    if not is_new and stage in TRAINING:
        latest_is_intact(checkpoints(run, NETWORK_OF[stage]))
    _remove_checkpoints(run, STAGES[begin if is_new else begin + 1 :])  # first, or one would be gone on from
    _write_stages(run, {name: done for name, done in _stages(run).items() if name in STAGES[:begin]})
    if is_new:
        on_first_process(partial(remove_folder, run.directory / PARTIAL))


def _discard(run: Run, stages: Sequence[str]) -> None:
    """Make stages undone, and remove their checkpoints, interrupted ones' too."""
    _remove_checkpoints(run, stages)
    _write_stages(run, {name: done for name, done in _stages(run).items() if name not in stages})


def _remove_checkpoints(run: Run, stages: Sequence[str]) -> None:
    for network in (NETWORK_OF[stage] for stage in stages if stage in NETWORK_OF):
        on_first_process(partial(remove_folder, checkpoints(run, network)))


def checkpoints(run: Run, network: str) -> Path:
    """The folder of a network's checkpoints."""
    return run.directory / network


def restored(run: Run, network: str, expected: Any) -> Any:
    """The latest checkpoint of "ann", "converted" or "hybrid"; ValueError where there is none, or another network."""
    checkpoint = latest(run, network, expected)
    if checkpoint is None:
        raise ValueError(f"{checkpoints(run, network)} holds no checkpoint: run the stages again in another workdir.")
    return checkpoint.tree


def latest(run: Run, network: str, expected: Any) -> Checkpoint | None:
    """The latest checkpoint of "ann", "converted" or "hybrid"; ValueError where another config made it."""
    checkpoint = restore(checkpoints(run, network), expected)
    if checkpoint is not None:
        _refuse_made_otherwise(run, checkpoints(run, network), network, checkpoint.record.get("config"))
    return checkpoint


def _refuse_made_otherwise(run: Run, source: Path, made: str, config: Any) -> None:
    """Refuse what a stage of another run has made, which someone copied here; see GROUP_OF."""
    what = difference(config_of(source, config), run.config, GROUP_OF[made])
    if what:
        raise ValueError(
            f"{made} in {source} was made by another config: {what}; put back what was there, or use another workdir."
        )


def _stages(run: Run) -> dict[str, Results]:
    """What each stage of a run has measured so far; ValueError where one was done by another config."""

    def read() -> dict[str, Results]:
        stages = read_stages(run.directory)
        for stage, done in stages.items():
            _refuse_made_otherwise(run, run.directory / "stages.json", stage, done["config"])
        return stages

    return on_first_process(read)


def _write_stages(run: Run, stages: dict[str, Results]) -> None:
    on_first_process(lambda: write_stages(run.directory, stages))
