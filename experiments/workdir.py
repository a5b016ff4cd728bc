"""The folder of a run.

- config.json: the config that the folder belongs to
- stages.json: what each stage found; a stage that stands here is done
- results.json: the same by network, for readers
- metrics.jsonl: a record per epoch; tensorboard/ has the same
- ann/, converted/, hybrid/: checkpoints
- accuracy_by_step.png, training.png, spikes.png: plots
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from experiments import compilation
from experiments.config import Config, check, difference
from experiments.networks import check_fits, steps_per_epoch
from jsnn.checkpoint import restore
from jsnn.metrics import MetricsLog, forget, open_metrics

Results = dict[str, Any]
STAGES = ("train_ann", "convert", "finetune", "evaluate")
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


def open_run(config: Config, directory: Path) -> Run:
    """Open the folder of a run, or make it.

    Args:
        config: fields of the run.
        directory: its folder.

    Returns:
        The Run.

    Raises:
        ValueError: where a field is out of its range, the network can't take the images, the data set is not
            prepared, or the folder belongs to another config; then nothing is written.
    """
    check(config)
    check_fits(config)
    found = saved_config(directory)
    if found and difference(found, config):
        raise ValueError(
            f"{directory} belongs to another config: {difference(found, config)}; "
            "use another workdir, or the config that is there."
        )
    steps_per_epoch(config)  # reads the data: what is wrong with it is told before anything is written
    directory.mkdir(parents=True, exist_ok=True)
    if not found:
        write_json(directory / "config.json", dataclasses.asdict(config))
    return Run(config, directory, open_metrics(directory, config.tensorboard))


def saved_config(directory: Path) -> Config | None:
    """The config that a folder belongs to, or None for a new folder.

    Raises:
        ValueError: where the folder's config can't be read.
    """
    path = directory / "config.json"
    if not path.exists():
        return None
    try:
        return config_from_json(json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a config of this version of jsnn ({error}): use another workdir.") from error


def config_from_json(fields: dict[str, Any]) -> Config:
    """The Config of its JSON form."""
    return Config(**{**fields, "hidden": tuple(fields["hidden"])})


def read_results(directory: Path) -> Results:
    """What the stages of a run have found so far, by network, with their seconds and the run's config."""
    results: Results = {"config": json.loads((directory / "config.json").read_text())}
    stages = _read_stages(directory)
    for done in stages.values():
        for network, values in done["found"].items():
            results[network] = {**results.get(network, {}), **values}
    for name in ("seconds", "compile_seconds"):
        results[name] = {stage: done.get(name) for stage, done in stages.items()}
    return results


def finish(run: Run, stage: str, seconds: float, found: Results) -> None:
    """Note what a stage found; that makes the stage done. Compiling counts since the last stage of this process."""
    done = {"seconds": round(seconds, 2), "compile_seconds": round(compilation.take_seconds(), 2), "found": found}
    _write_stages(run, {**_read_stages(run.directory), stage: done})


def is_done(run: Run, stage: str) -> bool:
    """Whether a stage has run to its end."""
    return stage in _read_stages(run.directory)


def require(run: Run, stage: str) -> None:
    """Refuse to go on where an earlier stage is not done.

    Raises:
        ValueError: naming the command to run first.
    """
    if not is_done(run, stage):
        raise ValueError(f"{run.directory} has no finished {stage}: run `python -m experiments.{stage}` on it first.")


def reopen(run: Run, stage: str) -> None:
    """Make a stage and all that follow it undone, for it is about to run again.

    Where the stage was done, it begins anew; where it was interrupted, its checkpoints stay and it goes on from them.
    """
    begin = STAGES.index(stage)
    outdated = STAGES[begin if is_done(run, stage) else begin + 1 :]
    kept = {name: done for name, done in _read_stages(run.directory).items() if name in STAGES[:begin]}
    _write_stages(run, kept)
    for name in outdated:
        shutil.rmtree(checkpoints(run, NETWORK_OF.get(name, name)), ignore_errors=True)


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


def forget_epochs(run: Run, network: str, after: int) -> None:
    """Drop the metrics of epochs after one, for they are about to be run again."""
    forget(run.metrics.path, lambda record: record["stage"] == network and record["step"] > after)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one move: a reader sees the old file or the new one, whole."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(draft, path)


def _read_stages(directory: Path) -> dict[str, Results]:
    path = directory / "stages.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _write_stages(run: Run, stages: dict[str, Results]) -> None:
    write_json(run.directory / "stages.json", stages)
    write_json(run.directory / "results.json", read_results(run.directory))
