"""The folder of a run, which the first of several processes reads and writes.

It holds results.json (the config, and what each stage that is done has measured), ann.jsonl and hybrid.jsonl (a record
per epoch), checkpoints in ann/, converted/ and hybrid/, plots, and lock, which names the process that works on it.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from experiments.config import check, difference, from_json
from experiments.fields import Config
from experiments.runs.data import check_fits, evaluated_images, import_data_module, steps_per_epoch
from experiments.runs.files import locked, replace_text
from jsnn.training.hosts import all_gather, on_first_process

STAGES = ("train_ann", "convert", "finetune", "evaluate")
CONVERTED, FINETUNED = "converted", "fine-tuned"  # the net that a run keeps

Results = dict[str, Any]  # by network, as "ann", or by what was measured, as "environment"


class Done(BaseModel):
    """What a stage has measured."""

    model_config = ConfigDict(strict=True, extra="forbid")
    seconds: float
    results: dict[str, Results]


class Record(BaseModel):
    """What results.json holds."""

    model_config = ConfigDict(strict=True, extra="forbid")
    config: Config
    stages: dict[Literal[STAGES], Done] = {}


class Run(NamedTuple):
    """A config, and the folder that belongs to it."""

    config: Config
    directory: Path


@contextmanager
def open_run(config: Config, directory: Path) -> Iterator[Run]:
    """Hold the folder of a run; ValueError, and nothing is written, where config or data are bad or it is another's."""
    import_data_module(config)
    check(config)
    check_fits(config)
    first = from_json(on_first_process(lambda: json.loads(json.dumps(asdict(config)))))
    what = difference(first, config, "run")
    if all_gather(np.array(what is not None)).any():
        raise ValueError(f"the processes were started with different fields ({what or 'see theirs'}): start all alike.")
    on_first_process(lambda: _refuse_other_config(config, directory))
    steps_per_epoch(config)  # reads the training images, and refuses bad ones
    evaluated_images(config)  # and those of the other splits
    with ExitStack() as held:

        def hold() -> None:
            directory.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(directory))
            _refuse_other_config(config, directory)  # again, for another process may have come first
            if read_record(directory) is None:
                write_record(directory, Record(config=config))

        on_first_process(hold)
        yield Run(config, directory)


def _refuse_other_config(config: Config, directory: Path) -> None:
    record = read_record(directory)
    if record and (what := difference(record.config, config)):
        problem = f"{directory} belongs to another config: {what}"
        raise ValueError(f"{problem}; use another workdir, or the config that is there.")


def read_record(directory: Path) -> Record | None:
    """What results.json of a folder holds, None where there is none; ValueError where it is damaged."""
    path = directory / "results.json"
    if not path.exists():
        return None
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise ValueError(f"{path} is damaged or of another version of jsnn ({what}): use another workdir.") from error


def write_record(directory: Path, record: Record) -> None:
    """Write results.json."""
    replace_text(directory / "results.json", json.dumps(record.model_dump(mode="json"), indent=2) + "\n")


def write_metrics(directory: Path, network: str, history: Sequence[Results]) -> None:
    """Write the records of a network's epochs, one a line."""
    replace_text(directory / f"{network}.jsonl", "".join(f"{json.dumps(record)}\n" for record in history))


def read_results(directory: Path) -> Results:
    """What the stages of a run have measured, by network, with their seconds and the config."""
    record = on_first_process(lambda: read_record(directory).model_dump(mode="json"))
    results: Results = {"config": record["config"]}
    for done in record["stages"].values():
        for network, values in done["results"].items():
            results[network] = {**results.get(network, {}), **values}
    return results | {"seconds": {stage: done["seconds"] for stage, done in record["stages"].items()}}
