"""What is kept of the study's runs: of each a line of JSON in PRESET.jsonl, and all of them as one table."""

import fcntl
import json
import os
from pathlib import Path

import pandas as pd
from pandas import DataFrame

from experiments.config import from_json
from experiments.fields import AUTO, Config, Finetune
from experiments.machine import environment
from experiments.runs.files import replace_text
from experiments.runs.workdir import Results

RESULTS = Path(__file__).parent.parent / "results" / "study"
DIGITS = 6  # of a number that is kept
RUN_COLUMNS = ["preset", "trial", "seed", "config", "T", "surrogate", "finetune"]  # finetune: by which recipe
# Fields that are named where they are not as in the paper.
NAMED = ("percentile", "logit scale", "alpha", "beta", "leak", "weight decay", "warm-up", "clip")
PAPER = Config(finetune=Finetune(logit_scale=1.0))


def kept(root: Path, preset: str) -> dict[tuple[str, int], Results]:
    """(trial, seed) -> what is kept of a run of a preset; ValueError where a line is damaged."""
    path, runs = root / f"{preset}.jsonl", {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), start=1):
        try:
            run = json.loads(line)
            runs[run["trial"], run["config"]["seed"]] = run
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"line {number} of {path} is damaged ({error!r}): mend it, or delete it.") from error
    return runs


def keep(root: Path, preset: str, trial: str, results: Results) -> None:
    """Keep what a run found, with the environment but no path of the machine, in place of what was kept of it."""
    config = {group: fields for group, fields in results["config"].items() if group != "run"}  # changes no result
    new = {"trial": trial} | results | {"config": config, "environment": environment()}
    rounded = json.loads(json.dumps(new), parse_float=lambda number: float(f"{float(number):.{DIGITS}g}"))
    root.mkdir(parents=True, exist_ok=True)
    folder = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # waits for other processes, which may run other seeds of the study
        runs = kept(root, preset) | {(trial, config["seed"]): rounded}
        replace_text(root / f"{preset}.jsonl", "".join(f"{json.dumps(runs[name])}\n" for name in sorted(runs)))
    finally:
        os.close(folder)


def read_runs(root: Path = RESULTS) -> DataFrame:
    """All that is kept, a row for each run: RUN_COLUMNS, and one for each value by its place, as "hybrid/accuracy"."""
    rows = []
    for path in sorted(root.glob("*.jsonl")):
        for (trial, seed), results in sorted(kept(root, path.stem).items()):
            config = from_json(results.pop("config"))
            own = path.stem, trial, seed, config, config.convert.num_steps, config.finetune.surrogate, _recipe(config)
            rows.append(dict(zip(RUN_COLUMNS, own, strict=True)) | results)
    return pd.json_normalize(rows, sep="/")


def _recipe(config: Config) -> str:
    """The surrogate and its learning rate, and what else is not as in the paper."""
    own, usual = (vars(one.convert) | vars(one.finetune) for one in (config, PAPER))
    texts = [f"{config.finetune.surrogate}, lr {config.finetune.lr:g}"]
    for name in NAMED:
        value = own[field := name.replace(" ", "_").replace("-", "")]
        texts += [] if value == usual[field] else [f"{name} {'calibrated' if value == AUTO else value}"]
    return ", ".join(texts)


def measurements(runs: DataFrame, places: str) -> DataFrame:
    """Run by run a row for each number where a pattern matches, with its groups and, in a list, a step from 1."""
    table = runs.melt(RUN_COLUMNS, runs.columns[runs.columns.str.fullmatch(places)], "place", ignore_index=False)
    table = table.dropna(subset="value").sort_index(kind="stable").reset_index(drop=True)
    table = table.join(table.pop("place").str.extract(places)).explode("value").astype({"value": float})
    return table.assign(step=table.groupby(level=0).cumcount() + 1)
