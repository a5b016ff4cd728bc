"""The JSON files of a workdir: the config that it belongs to, and what the stages of its run have measured.

A stage is done when it stands in stages.json. results.json says the same by network; it is made of stages.json, and
made anew where it is lost or damaged.
"""

import json
from pathlib import Path
from typing import Any

from experiments.config import from_json
from experiments.fields import Config
from experiments.runs.schema import Results, objection
from jsnn.training.files import replace_text
from jsnn.training.hosts import on_first_process

STAGES = ("train_ann", "convert", "finetune", "evaluate")
TRAINING = ("train_ann", "finetune")  # these go on from checkpoints of their own
TIMES = ("seconds", "images_per_second")  # of an epoch
NETWORK_OF = {"train_ann": "ann", "convert": "converted", "finetune": "hybrid"}
# The last group of the config that matters to a stage and to its network.
GROUP_OF = {"train_ann": "ann", "convert": "convert", "finetune": "finetune", "evaluate": "evaluate"}
GROUP_OF |= {network: GROUP_OF[stage] for stage, network in NETWORK_OF.items()}


def saved_config(directory: Path) -> Config | None:
    """The config that a folder belongs to, be its config.json lost; None for a new folder."""
    path = directory / "config.json"
    if path.exists():
        try:
            return from_json(_parsed(path))
        except ValueError as error:
            what = f"{path} is not a config of this version of jsnn ({error})"
            raise ValueError(f"{what}: mend it, or use another workdir.") from error
    stages = read_stages(directory)
    if stages:
        return config_of(directory / "stages.json", stages[_last_done(stages)]["config"])
    for network in NETWORK_OF.values():  # checkpoints, before any stage is done
        for record in (directory / network).glob("[0-9]*/record.json"):
            return config_of(record.parent, read_json(record).get("config"))
    return None


def config_of(source: Path, fields: Any) -> Config:
    """The config of its JSON form in a file or folder; ValueError, naming that, where it is none."""
    try:
        return from_json(fields)
    except ValueError as error:
        raise ValueError(f"{source} holds no config of this version of jsnn ({error}): use another workdir.") from error


def read_results(directory: Path) -> Results:
    """What the stages of a run have measured so far, by network, with their seconds and the last one's config."""
    return on_first_process(lambda: _results(read_stages(directory)))


def renew_results(directory: Path) -> Results:
    """`read_results`, which results.json is made to hold where it is lost or damaged."""

    def renew() -> Results:
        results, path = _results(read_stages(directory)), directory / "results.json"
        if not path.exists() or path.read_bytes() != _as_json(results).encode():
            write_json(path, results)
        return results

    return on_first_process(renew)


def _results(stages: dict[str, Results]) -> Results:
    results: Results = {"config": stages[_last_done(stages)]["config"]} if stages else {}
    for done in stages.values():
        for network, values in done["results"].items():
            results[network] = {**results.get(network, {}), **values}
    for name in ("seconds", "compile_seconds"):
        results[name] = {stage: done.get(name) for stage, done in stages.items()}
    return results


def read_stages(directory: Path) -> dict[str, Results]:
    """What each stage of a run has measured so far, with its seconds and its config; ValueError where that can't be."""
    path = directory / "stages.json"
    stages = read_json(path)
    for stage, done in stages.items():
        what = objection(stage, done)
        if what:
            raise ValueError(
                f"{path} is damaged or of an older version of jsnn: {what}; mend it, use another workdir, or delete it "
                "to run all stages again."
            )
    return stages


def is_alike(one: Any, other: Any) -> bool:
    """Whether a stage measured the same twice, but for times: two networks that differ hardly do."""
    return _without_times(one) == _without_times(other)


def _without_times(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_times(each) for each in value]
    if isinstance(value, dict):
        return {name: _without_times(each) for name, each in value.items() if name not in TIMES}
    return value


def _last_done(stages: dict[str, Results]) -> str:
    """The last of the stages that are done, of which there is one at least."""
    return max(stages, key=STAGES.index)


def write_stages(directory: Path, stages: dict[str, Results]) -> None:
    """Write stages.json, and results.json before it: what makes a stage done comes last."""
    write_json(directory / "results.json", _results(stages))
    write_json(directory / "stages.json", stages)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one move: a reader sees the old file or the new one."""
    replace_text(path, _as_json(value))


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def read_json(path: Path) -> Results:
    """The contents of a JSON file; nothing where there is none."""
    try:
        return dict(_parsed(path)) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): mend it, or delete it to run the stages again.") from error


def _parsed(path: Path) -> Any:
    return json.loads(path.read_text(), object_pairs_hook=_distinct)


def _distinct(pairs: list[tuple[str, Any]]) -> Results:
    """An object of JSON whose names differ."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)} is doubled")
    return fields
