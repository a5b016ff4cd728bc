"""The folder of a run.

- config.json: the config that the folder belongs to
- stages.json: what each stage found; a stage that stands here is done
- results.json: the same by network, for readers
- metrics.jsonl: a record per epoch; tensorboard/ has the same
- ann/, converted/, hybrid/: checkpoints
- accuracy_by_step.png, training.png, spikes.png: plots
- lock: names the process that works on it

Of several processes the first reads and writes all of it, and tells the others what they need.
"""

import dataclasses
import json
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.runs import compilation
from experiments.config import Config, check, difference, from_json
from experiments.runs.lock import locked
from experiments.runs.networks import check_fits, steps_per_epoch
from jsnn.training.checkpoint import latest_is_whole, restore
from experiments.runs.files import remove_folder, replace_text
from jsnn.training.hosts import on_every_process, on_first_process, all_gather, is_first_process
from experiments.runs.metrics import MetricsLog, open_metrics

Results = dict[str, Any]
STAGES = ("train_ann", "convert", "finetune", "evaluate")
TRAINING = ("train_ann", "finetune")  # these go on from checkpoints of their own
NETWORK_OF = {"train_ann": "ann", "convert": "converted", "finetune": "hybrid"}


class Run(NamedTuple):
    """A config and the folder that belongs to it.

    Attributes:
        config: fields of the run.
        directory: its folder.
        metrics: its log of metrics.
    """

    config: Config
    directory: Path
    metrics: MetricsLog


@contextmanager
def open_run(config: Config, directory: Path) -> Iterator[Run]:
    """Open the folder of a run, or make it, and hold it for this process.

    Args:
        config: fields of the run.
        directory: its folder.

    Returns:
        A context with the Run.

    Raises:
        ValueError: where a field is out of its range, the network can't take the images, the data set is not
            prepared, or the folder belongs to another config or is in use; then nothing is written.
    """
    check(config)
    check_fits(config)
    _refuse_disagreement(config)
    on_first_process(lambda: _refuse_another(config, directory))
    on_every_process(lambda: steps_per_epoch(config))  # reads the data: what is wrong is told before anything is written
    on_first_process(lambda: directory.mkdir(parents=True, exist_ok=True))
    with ExitStack() as held:
        on_first_process(lambda: held.enter_context(locked(directory)))
        on_first_process(lambda: _claim(config, directory))
        yield Run(config, directory, open_metrics(directory, config.run.tensorboard and is_first_process()))


def _refuse_disagreement(config: Config) -> None:
    """Refuse, in all of them, processes of one run that were started with different fields."""
    mine = json.loads(json.dumps(dataclasses.asdict(config)))
    of_first = on_first_process(lambda: mine)
    others = [name for name in mine if mine[name] != of_first[name]]
    if all_gather(np.array(bool(others))).any():
        what = f"here {others[0]} is {mine[others[0]]}, in the first {of_first[others[0]]}" if others else "see theirs"
        raise ValueError(f"the processes of the run were started with different fields ({what}): start all alike.")


def _refuse_another(config: Config, directory: Path) -> None:
    """Refuse a folder that belongs to another config."""
    found = saved_config(directory)
    if found and difference(found, config):
        raise ValueError(
            f"{directory} belongs to another config: {difference(found, config)}; "
            "use another workdir, or the config that is there."
        )


def _claim(config: Config, directory: Path) -> None:
    """Write the config into a new folder; another process may have done so since it was looked at."""
    _refuse_another(config, directory)
    if not (directory / "config.json").exists():
        write_json(directory / "config.json", dataclasses.asdict(config))


def saved_config(directory: Path) -> Config | None:
    """The config that a folder belongs to, or None for a new folder.

    Raises:
        ValueError: where the folder's config can't be read.
    """
    path = directory / "config.json"
    if not path.exists():
        return None
    try:
        return from_json(json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a config of this version of jsnn ({error}): use another workdir.") from error


def read_results(directory: Path) -> Results:
    """What the stages of a run have found so far, by network, with their seconds and the run's config."""
    return on_first_process(lambda: _results(directory, read_stages(directory)))


def _results(directory: Path, stages: dict[str, Results]) -> Results:
    results: Results = {"config": _read_json(directory / "config.json")}
    for done in stages.values():
        for network, values in done["found"].items():
            results[network] = {**results.get(network, {}), **values}
    for name in ("seconds", "compile_seconds"):
        results[name] = {stage: done.get(name) for stage, done in stages.items()}
    return results


def finish(run: Run, stage: str, seconds: float, found: Results) -> None:
    """Note what a stage found; that makes the stage done. Compiling counts since the last stage of this process."""
    done = {"seconds": round(seconds, 2), "compile_seconds": round(compilation.take_seconds(), 2), "found": found}
    _write_stages(run, {**_stages(run), stage: done})


def is_done(run: Run, stage: str) -> bool:
    """Whether a stage has run to its end and its last checkpoint is whole, or is needed no more."""
    stages = _stages(run)
    return stage in stages and (STAGES[-1] in stages or _ends_whole(run, stage))


def require(run: Run, stage: str) -> None:
    """Refuse to go on where an earlier stage is not done.

    Raises:
        ValueError: naming the command to run first.
    """
    if stage not in _stages(run):
        raise _unfinished(run, stage)


def _unfinished(run: Run, stage: str) -> ValueError:
    return ValueError(f"{run.directory} has no finished {stage}: run `python -m experiments.{stage}` on it first.")


def _ends_whole(run: Run, stage: str) -> bool:
    """Whether the last checkpoint of a stage that was done is there and whole."""
    folder = checkpoints(run, NETWORK_OF[stage])
    try:
        is_whole = latest_is_whole(folder)
    except ValueError:
        is_whole = False
    if not is_whole:
        what = "damaged" if is_whole is False else "missing"
        warnings.warn(f"the last checkpoint in {folder} is {what}: {stage} is to be done again.", stacklevel=2)
    return bool(is_whole)


def reopen(run: Run, stage: str) -> None:
    """Make a stage and all that follow it undone, for it is about to run again.

    Where the stage was done, it begins anew; where it was interrupted, its checkpoints stay and it goes on from them.

    Raises:
        ValueError: where an earlier stage is not done or its last checkpoint is damaged, or no checkpoint of this one
            is whole; then nothing is changed.
    """
    begin = STAGES.index(stage)
    for earlier in STAGES[:begin]:
        require(run, earlier)
        if not _ends_whole(run, earlier):
            raise _unfinished(run, earlier)
    is_new = is_done(run, stage)
    if not is_new and stage in TRAINING:
        latest_is_whole(checkpoints(run, NETWORK_OF[stage]))
    outdated = STAGES[begin if is_new else begin + 1 :]
    _write_stages(run, {name: done for name, done in _stages(run).items() if name in STAGES[:begin]})
    for name in outdated:
        if name in NETWORK_OF:
            on_first_process(partial(remove_folder, checkpoints(run, NETWORK_OF[name])))


def checkpoints(run: Run, network: str) -> Path:
    """The folder of a network's checkpoints."""
    return run.directory / network


def restored(run: Run, network: str, expected: Any) -> Any:
    """The tree of a network's latest checkpoint.

    Args:
        run: the run.
        network: "ann", "converted" or "hybrid".
        expected: pytree of the structure, shapes and dtypes to expect.

    Raises:
        ValueError: where there is no checkpoint, or one of another network.
    """
    found = restore(checkpoints(run, network), expected)
    if found is None:
        raise ValueError(f"{checkpoints(run, network)} holds no checkpoint: run the stages again in another workdir.")
    return found.tree


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one move: a reader sees the old file or the new one, whole."""
    replace_text(path, json.dumps(value, indent=2) + "\n")


def _read_json(path: Path) -> Results:
    """The contents of a JSON file; nothing where there is none."""
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): mend it, or delete it to run the stages again.") from error


def _stages(run: Run) -> dict[str, Results]:
    return on_first_process(lambda: read_stages(run.directory))


def read_stages(directory: Path) -> dict[str, Results]:
    """What each stage of a run has found so far, with its seconds, as they stand in its folder."""
    path = directory / "stages.json"
    stages = _read_json(path)
    if not all(isinstance(done, dict) and isinstance(done.get("found"), dict) for done in stages.values()):
        raise ValueError(f"{path} is damaged: mend it, or delete it to run the stages again.")
    return stages


def _write_stages(run: Run, stages: dict[str, Results]) -> None:
    def write() -> None:  # what makes a stage done comes last
        write_json(run.directory / "results.json", _results(run.directory, stages))
        write_json(run.directory / "stages.json", stages)

    on_first_process(write)
