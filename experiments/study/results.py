"""What is kept of the study's runs, PRESET/TRIAL/seedN/results.json, and all of it as one table."""

import json
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.config import AUTO, Config, Finetune, from_json
from experiments.runs.environment import environment
from experiments.runs.workdir import Results
from jsnn.training.files import replace_text

RESULTS = Path(__file__).parent.parent / "results"
DIGITS = 6  # of a number that is kept
RUN = ("preset", "trial", "seed", "config", "T", "surrogate", "finetune")  # finetune: by which recipe
# A step is one of time, an epoch or a stream, from 1.
MEASUREMENT = ("net", "gradient", "layer", "percentile", "step", "quantity", "value")
COLUMNS = {  # by part of a results.json: what the names of a value are, outermost first, if not of its quantity
    **{net: {0: "net"} for net in ("ann", "converted", "hybrid")},
    "streams": {1: "net"},
    "spikes_per_neuron": {1: "net", 2: "layer"},
    "silence": {1: "net", 3: "layer"},
    "agreement": {1: "net", 3: "layer"},
    "descent": {1: "gradient", 3: "layer"},
    "percentiles": {1: "percentile", 3: "step"},
}
FINETUNE = {  # fields that are named where they are not as in the paper
    "convert.percentile": "percentile",
    "finetune.logit_scale": "logit scale",
    "finetune.alpha": "alpha",
    "finetune.beta": "beta",
    "finetune.leak": "leak",
    "finetune.weight_decay": "weight decay",
    "finetune.warmup": "warm-up",
    "finetune.clip": "clip",
}
PAPER = Config(finetune=Finetune(logit_scale=1.0))


def results_path(root: Path, preset: str, trial: str, seed: int) -> Path:
    """Where a trial's results are kept."""
    return root / preset / trial / f"seed{seed}" / "results.json"


def write_results(path: Path, results: Results) -> None:
    """Keep what a run found, a line for each network or stage, with the environment but no path of the machine."""
    config = results["config"] | {"run": results["config"]["run"] | {"data_dir": None}}
    kept = {name: value for name, value in results.items() if name != "compile_seconds"}
    kept |= {"config": config, "environment": environment()}
    kept = json.loads(json.dumps(kept), parse_float=lambda number: float(f"{float(number):.{DIGITS}g}"))
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in kept.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def measurements(root: Path = RESULTS) -> pd.DataFrame:
    """All that is kept, a row for each measurement, its columns as in RUN and MEASUREMENT."""
    rows = []
    for path in sorted(root.glob("*/*/seed*/results.json")):
        preset, trial, seed = path.parts[-4:-1]
        results = json.loads(path.read_text())
        config = from_json(results.pop("config"))
        own = preset, trial, int(seed.removeprefix("seed")), config, config.convert.num_steps, config.finetune.surrogate
        run = dict(zip(RUN, (*own, _finetune(config)), strict=True))
        rows += [run | _measurement(names, value) for names, value in _leaves(results)]
    data = pd.DataFrame(rows, columns=[*RUN, *MEASUREMENT])
    return data.assign(step=pd.to_numeric(data.step, "coerce"))


def _measurement(names: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """The columns of a value, by its names."""
    special = COLUMNS.get(names[0], {})
    columns = [special.get(i, "step" if isinstance(name, int) else "quantity") for i, name in enumerate(names)]
    quantity = " ".join(name for name, column in zip(names, columns, strict=True) if column == "quantity")
    return dict(zip(columns, names, strict=True)) | {"quantity": quantity, "value": value}


def _leaves(value: Any, names: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """All that is no group, each with its names, or numbers from 1 in a list, outermost first."""
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value, 1):
            yield from _leaves(part, (*names, name))
    else:
        yield names, value


def _finetune(config: Config) -> str:
    """The surrogate and its learning rate, and what else is not as in the paper."""
    values = {name: (attrgetter(field)(config), attrgetter(field)(PAPER)) for field, name in FINETUNE.items()}
    others = [f"{name} {'calibrated' if own == AUTO else own}" for name, (own, usual) in values.items() if own != usual]
    return ", ".join([f"{config.finetune.surrogate}, lr {config.finetune.lr:g}", *others])
