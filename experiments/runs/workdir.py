"""The folder of a run.

- config.json: the config that the folder belongs to
- stages.json: what each stage has measured; a stage that stands here is done
- results.json: the same by network, for readers
- metrics.jsonl: a record per epoch; tensorboard/ has the same
- ann/, converted/, hybrid/: checkpoints
- accuracy_by_step.png, training.png, spikes.png: plots
- lock: names the process that works on it

Of several processes the first reads and writes all of it, and broadcasts what the others need.
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

from experiments.config import Config, check, difference, from_json
from experiments.runs import compilation
from experiments.runs.networks import check_fits, import_data_module, steps_per_epoch
from jsnn.training.checkpoint import latest_is_intact, restore
from jsnn.training.files import locked, remove_folder, replace_text
from jsnn.training.hosts import all_gather, is_first_process, on_every_process, on_first_process
from jsnn.training.metrics import MetricsLog, open_metrics

Results = dict[str, Any]
STAGES = ("train_ann", "convert", "finetune", "evaluate")
TRAINING = ("train_ann", "finetune")  # these go on from checkpoints of their own
NETWORK_OF = {"train_ann": "ann", "convert": "converted", "finetune": "hybrid"}


class Run(NamedTuple):
    """A config, the folder that belongs to it, and its log of metrics."""

    config: Config
    directory: Path
    metrics: MetricsLog


@contextmanager
def open_run(config: Config, directory: Path) -> Iterator[Run]:
    """Open the folder of a run, or make it, and hold it for this process.

    Raises:
        ValueError: where a field is out of its range, the network can't take the images, the data set is not
            prepared, or the folder belongs to another config or is in use; then nothing is written.
    """
    import_data_module(config)
    check(config)
    check_fits(config)
    _refuse_disagreement(config)
    on_first_process(lambda: _refuse_another(config, directory))
    on_every_process(lambda: steps_per_epoch(config))  # reads the data, before anything is written
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


def _refuse_another(config: Config, directory: Path) -> None:
    """Refuse a folder that belongs to another config."""
    saved = saved_config(directory)
    if saved and difference(saved, config):
        raise ValueError(
            f"{directory} belongs to another config: {difference(saved, config)}; "
            "use another workdir, or the config that is there."
        )


def _claim(config: Config, directory: Path) -> None:
    """Write the config into a new folder; another process may have done so in the meantime."""
    _refuse_another(config, directory)
    if not (directory / "config.json").exists():
        write_json(directory / "config.json", dataclasses.asdict(config))


def saved_config(directory: Path) -> Config | None:
    """The config that a folder belongs to, or None for a new folder; ValueError where it can't be read."""
    path = directory / "config.json"
    if not path.exists():
        return None
    try:
        return from_json(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path} is not a config of this version of jsnn ({error}): use another workdir.") from error


def read_results(directory: Path) -> Results:
    """What the stages of a run have measured so far, by network, with their seconds and the run's config."""
    return on_first_process(lambda: _results(directory, read_stages(directory)))


def _results(directory: Path, stages: dict[str, Results]) -> Results:
    results: Results = {"config": _read_json(directory / "config.json")}
    for done in stages.values():
        for network, values in done["results"].items():
            results[network] = {**results.get(network, {}), **values}
    for name in ("seconds", "compile_seconds"):
        results[name] = {stage: done.get(name) for stage, done in stages.items()}
    return results


def finish(run: Run, stage: str, seconds: float, results: Results) -> None:
    """Write what a stage has measured, which makes it done; compiling counts since the last stage of this process."""
    done = {"seconds": round(seconds, 2), "compile_seconds": round(compilation.take_seconds(), 2), "results": results}
    _write_stages(run, {**_stages(run), stage: done})


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
    folder = checkpoints(run, NETWORK_OF[stage])
    try:
        is_intact = latest_is_intact(folder)
    except ValueError:
        is_intact = False
    if not is_intact:
        what = "damaged" if is_intact is False else "missing"
        warnings.warn(f"the last checkpoint in {folder} is {what}: {stage} is to be done again.", stacklevel=2)
    return bool(is_intact)


def reopen(run: Run, stage: str) -> None:
    """Make a stage and all that follow it undone, for it is about to run again.

    Where the stage was done, it begins anew; where it was interrupted, its checkpoints stay and it goes on from them.

    Raises:
        ValueError: where an earlier stage is not done or its last checkpoint is damaged, or no checkpoint of this one
            is intact; then nothing is changed.
    """
    begin = STAGES.index(stage)
    for earlier in STAGES[:begin]:
        require(run, earlier)
        if not _ends_intact(run, earlier):
            raise _unfinished(run, earlier)
    is_new = is_done(run, stage)
    if not is_new and stage in TRAINING:
        latest_is_intact(checkpoints(run, NETWORK_OF[stage]))
    _write_stages(run, {name: done for name, done in _stages(run).items() if name in STAGES[:begin]})
    for name in STAGES[begin if is_new else begin + 1 :]:
        if name in NETWORK_OF:
            on_first_process(partial(remove_folder, checkpoints(run, NETWORK_OF[name])))


def checkpoints(run: Run, network: str) -> Path:
    """The folder of a network's checkpoints."""
    return run.directory / network


def restored(run: Run, network: str, expected: Any) -> Any:
    """The latest checkpoint of "ann", "converted" or "hybrid"; ValueError where there is none, or another network."""
    checkpoint = restore(checkpoints(run, network), expected)
    if checkpoint is None:
        raise ValueError(f"{checkpoints(run, network)} holds no checkpoint: run the stages again in another workdir.")
    return checkpoint.tree


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one move: a reader sees the old file or the new one."""
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
    """What each stage of a run has measured so far, with its seconds."""
    path = directory / "stages.json"
    stages = _read_json(path)
    if not all(isinstance(done, dict) and isinstance(done.get("results"), dict) for done in stages.values()):
        raise ValueError(f"{path} is damaged: mend it, or delete it to run the stages again.")
    return stages


def _write_stages(run: Run, stages: dict[str, Results]) -> None:
    def write() -> None:  # what makes a stage done comes last
        write_json(run.directory / "results.json", _results(run.directory, stages))
        write_json(run.directory / "stages.json", stages)

    on_first_process(write)
