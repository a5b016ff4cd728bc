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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.config import check, difference, from_json
from experiments.fields import Config
from experiments.runs.fitting import check_fits
from experiments.runs.records import GROUP_OF, config_of, saved_config, write_json
from experiments.runs.splits import check_data, import_data_module
from jsnn.training.checkpoint import Checkpoint, restore
from jsnn.training.files import locked
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
        refuse_made_otherwise(run, checkpoints(run, network), network, checkpoint.record.get("config"))
    return checkpoint


def refuse_made_otherwise(run: Run, source: Path, made: str, config: Any) -> None:
    """Refuse what a stage of another run has made, which someone copied here; see GROUP_OF."""
    what = difference(config_of(source, config), run.config, GROUP_OF[made])
    if what:
        raise ValueError(
            f"{made} in {source} was made by another config: {what}; put back what was there, or use another workdir."
        )
