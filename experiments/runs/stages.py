"""Which stages of a run are done: how one becomes so, and is undone.

A stage is done when it stands in stages.json, and as long as its last checkpoint is intact.
"""

import dataclasses
import json
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experiments.runs import compilation
from experiments.runs.progress import say
from experiments.runs.records import NETWORK_OF, STAGES, TRAINING, is_alike, read_stages, write_stages
from experiments.runs.schema import Results
from experiments.runs.workdir import PARTIAL, Run, checkpoints, refuse_made_otherwise
from jsnn.training.checkpoint import latest_is_intact, latest_step
from jsnn.training.files import remove_folder
from jsnn.training.hosts import on_first_process


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


def _stages(run: Run) -> dict[str, Results]:
    """What each stage of a run has measured so far; ValueError where one was done by another config."""

    def read() -> dict[str, Results]:
        stages = read_stages(run.directory)
        for stage, done in stages.items():
            refuse_made_otherwise(run, run.directory / "stages.json", stage, done["config"])
        return stages

    return on_first_process(read)


def _write_stages(run: Run, stages: dict[str, Results]) -> None:
    on_first_process(lambda: write_stages(run.directory, stages))
