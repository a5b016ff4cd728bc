"""What is kept of the study's runs, PRESET/TRIAL/seedN/results.json, all of it as one table, and pivots of that."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame, Series

from experiments.config import AUTO, Config, Finetune, from_json
from experiments.convert import FACTORS
from experiments.runs.environment import environment
from experiments.runs.networks import build_ann
from experiments.runs.records import Results
from jsnn.datasets import info
from jsnn.models import VGG, ResNet
from jsnn.operations import multiply_accumulates
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
# Fields that are named where they are not as in the paper.
NAMED = ("percentile", "logit scale", "alpha", "beta", "leak", "weight decay", "warm-up", "clip")
PAPER = Config(finetune=Finetune(logit_scale=1.0))
TRAINING_IMAGES, VALIDATION_IMAGES = {"fashion_mnist": 55_000, "cifar10": 45_000}, 5_000  # of the splits

PERCENTILES = {"100": "maximum", "99.7": "99.7 percentile"}
CONVERTED_NETS = [f"converted, {name}, {kind}" for name in PERCENTILES.values() for kind in ("factor 1", "best factor")]
HYBRIDS = {"stdb": "hybrid, STDB", "linear": "hybrid, linear"}
SCRATCH = {
    "scratch-stdb": "from scratch, STDB",
    "scratch-linear": "from scratch, linear",
    "scratch-linear-long": "from scratch, linear, twice as long",
    "scratch-linear-longest": "from scratch, linear, three times as long",
}


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


def measurements(root: Path = RESULTS) -> DataFrame:
    """All that is kept, a row for each measurement, its columns as in RUN and MEASUREMENT."""
    rows = []
    for path in sorted(root.glob("*/*/seed*/results.json")):
        preset, trial, seed = path.parts[-4:-1]
        results = json.loads(path.read_text())
        config = from_json(results.pop("config"))
        own = preset, trial, int(seed.removeprefix("seed")), config, config.convert.num_steps, config.finetune.surrogate
        run = dict(zip(RUN, (*own, _finetune(config)), strict=True))
        rows += _rows(results, run | {"quantity": ""})
    data = DataFrame(rows, columns=[*RUN, *MEASUREMENT])
    return data.assign(step=pd.to_numeric(data.step, "coerce"))


def _rows(value: Any, columns: dict[str, Any], *names: str | int) -> Iterator[dict[str, Any]]:
    """A row for each value that is no group, with columns by its names, numbers from 1 in a list, outermost first."""
    if not isinstance(value, dict | list):
        yield columns | {"value": value}
        return
    for name, part in value.items() if isinstance(value, dict) else enumerate(value, 1):
        special = COLUMNS.get(names[0] if names else name, {})
        column = special.get(len(names), "step" if isinstance(name, int) else "quantity")
        content = f"{columns['quantity']} {name}".strip() if column == "quantity" else name
        yield from _rows(part, columns | {column: content}, *names, name)


def _finetune(config: Config) -> str:
    """The surrogate and its learning rate, and what else is not as in the paper."""
    own, usual = (vars(one.convert) | vars(one.finetune) for one in (config, PAPER))
    fields = {name: name.replace(" ", "_").replace("-", "") for name in NAMED}
    others = {name: own[field] for name, field in fields.items() if own[field] != usual[field]}
    others = [f"{name} {'calibrated' if value == AUTO else value}" for name, value in others.items()]
    return ", ".join([f"{config.finetune.surrogate}, lr {config.finetune.lr:g}", *others])


def nets_of(data: DataFrame, net: str) -> DataFrame:
    """A row for each run's net, or "" for what is of no net, a column for each quantity, by time step that at T."""
    here = data.step.isna() | (data.step == data["T"])
    single = data[here & data[["layer", "percentile", "gradient"]].isna().all(axis=1) & (data.net.fillna("") == net)]
    table = single.pivot(index=["trial", "seed", "surrogate", "T", "config"], columns="quantity", values="value")
    columns = table.columns.union(["accuracy_std", "scaling_factor", "kept"])
    return table.reindex(columns=columns).reset_index().sort_values(["surrogate", "T", "seed"])


def hybrid_trials(data: DataFrame) -> DataFrame:
    """The measurements of the trials SURROGATE-tT, in this order."""
    return data[data.trial.str.fullmatch(r"(stdb|linear)-t\d+")].sort_values(["surrogate", "T", "seed"], kind="stable")


def against_steps(data: DataFrame) -> DataFrame:
    """Test accuracies of nets by name, T and seed, converted ones with factor 1 and with the best.

    With the best factor those that hybrid nets start from, as they were measured on several streams, unless they have
    fewer seeds. With factor 1 all were on one, so that they stand in only for a T of which there is no conversion.
    """
    hybrids, tests = hybrid_trials(data), data[data.quantity.str.startswith("percentiles test ")]
    tests = tests.assign(T=tests.step, quantity=tests.quantity.str.removeprefix("percentiles test "))
    tests = tests.pivot(index=["percentile", "T", "seed"], columns="quantity", values="value").reset_index()
    own = nets_of(hybrids[hybrids.surrogate == "linear"], "converted")
    own["percentile"] = own.config.map(lambda config: f"{config.convert.percentile:g}")
    own = own.rename(columns={"accuracy": "chosen", "accuracy_by_step_at_factor_1": "factor_1"})
    nets = pd.concat([own, tests.rename(columns={"factor": "scaling_factor"})], ignore_index=True)
    is_own, names = nets.trial.notna(), "converted, " + nets.percentile.map(PERCENTILES)
    count = nets.groupby(["percentile", "T", is_own]).seed.transform("count")
    best = nets.assign(net=names + ", best factor", accuracy=nets.chosen, preference=count + is_own / 2)
    at_1 = nets.assign(net=names + ", factor 1", accuracy=nets.factor_1, preference=1.0 - is_own)
    nets = pd.concat([best, at_1.assign(accuracy_std=None, scaling_factor=None)])
    nets = nets[nets.preference == nets.groupby(["net", "T"]).preference.transform("max")]
    fine_tuned = nets_of(hybrids, "hybrid")
    return pd.concat([nets, fine_tuned.assign(net=fine_tuned.surrogate.map(HYBRIDS))]).astype({"T": int})


def scratch_trials(data: DataFrame, num_steps: int) -> dict[str, DataFrame]:
    """Question b: names of hybrid runs at T and of those from scratch -> their measurements."""
    trials = {f"{surrogate}-t{num_steps}": name for surrogate, name in HYBRIDS.items()} | SCRATCH
    return {name: data[data.trial == trial] for trial, name in trials.items() if (data.trial == trial).any()}


def learning_curve(run: DataFrame) -> Series:
    """Epoch of the SNN -> validation accuracy after it; 0 is the converted net, where the run starts from it."""
    curve = run[(run.net == "hybrid") & (run.quantity == "history validation_accuracy")].set_index("step").value
    if run.config.iloc[0].finetune.start == "scratch":
        return curve
    return pd.concat([Series(nets_of(run, "converted").validation_accuracy[0], [0]), curve])


def by_operations(run: DataFrame) -> Series:
    """The `learning_curve` by operations of training so far [10^12 MAC], with those of the ANN and the conversion."""
    curve, costs = learning_curve(run), operations_of_training(run.config.iloc[0])
    before = nets_of(run, "ann").epochs[0] * costs["ann epoch"] + costs["conversion"] if 0 in curve else 0.0
    return curve.rename(lambda epoch: (before + epoch * costs["snn epoch"]) / 1e12)


def operations_of_training(config: Config) -> dict[str, float]:
    """Multiply-accumulates by "ann epoch", "conversion" and "snn epoch", as jsnn executes them: an SNN's at every step.

    A backward pass counts as two forward passes. The conversion balances thresholds and tries all factors.
    """
    of_image, images = sum(multiply_accumulates(*network(config)).values()), TRAINING_IMAGES[config.data.dataset]
    convert, factors = config.convert, len(FACTORS) if config.convert.scaling_factor == AUTO else 1
    presented = convert.balance_images * convert.balance_steps + factors * VALIDATION_IMAGES * convert.num_steps
    epoch = 3.0 * images * of_image
    return {"ann epoch": epoch, "conversion": presented * of_image, "snn epoch": epoch * convert.num_steps}


def network(config: Config) -> tuple[VGG | ResNet, tuple[int, ...]]:
    """The ANN of a config and the shape of its images, whose operations `jsnn.operations` counts."""
    return build_ann(config), info(config.data.dataset).image_shape
