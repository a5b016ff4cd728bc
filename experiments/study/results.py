"""What is kept of the study's runs, PRESET/TRIAL/seedN/results.json, all of it as one table, and pivots of that."""

import json
from functools import cache
from pathlib import Path

import jax
import pandas as pd
from pandas import DataFrame, Series

from experiments.config import from_json
from experiments.convert import FACTORS
from experiments.fields import AUTO, Config, Finetune
from experiments.runs.environment import environment
from experiments.runs.networks import build_ann, build_snn, init_variables
from experiments.runs.schema import Results
from jsnn.data.datasets import info
from jsnn.network import operations
from jsnn.network.operations import LayerShape, layer_shapes, multiply_accumulates
from jsnn.network.transformation import Variables
from jsnn.training.files import replace_text

RESULTS = Path(__file__).parent.parent / "results"
DIGITS = 6  # of a number that is kept
RUN_COLUMNS = ["preset", "trial", "seed", "config", "T", "surrogate", "finetune"]  # finetune: by which recipe
# Fields that are named where they are not as in the paper.
NAMED = ("percentile", "logit scale", "alpha", "beta", "leak", "weight decay", "warm-up", "clip")
PAPER = Config(finetune=Finetune(logit_scale=1.0))
TRAINING_IMAGES, VALIDATION_IMAGES = {"fashion_mnist": 55_000, "cifar10": 45_000}, 5_000  # of the splits
FOR_CHOICES = VALIDATION_IMAGES // 2  # which choose a conversion's factor; in runs of older versions all did

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


def read_runs(root: Path = RESULTS) -> DataFrame:
    """All that is kept, a row for each run: columns RUN, and one for each value by its place, as "hybrid/accuracy"."""
    rows = []
    for path in sorted(root.glob("*/*/seed*/results.json")):
        preset, trial, seed = path.parts[-4:-1]
        results = json.loads(path.read_text())
        config = from_json(results.pop("config"))
        own = preset, trial, int(seed.removeprefix("seed")), config, config.convert.num_steps, config.finetune.surrogate
        rows.append(dict(zip(RUN_COLUMNS, (*own, _finetune(config)), strict=True)) | results)
    return pd.json_normalize(rows, sep="/")


def measurements(runs: DataFrame, places: str) -> DataFrame:
    """A row for each number at places that match a pattern, whose named groups are columns, run by run.

    Numbers in a list have a "step", one of time, an epoch or a stream, from 1.
    """
    table = runs.melt(RUN_COLUMNS, runs.columns[runs.columns.str.fullmatch(places)], "place", ignore_index=False)
    table = table.dropna(subset="value").sort_index(kind="stable").reset_index(drop=True)
    table = table.join(table.pop("place").str.extract(places)).explode("value").astype({"value": float})
    return table.assign(step=table.groupby(level=0).cumcount() + 1)


def _finetune(config: Config) -> str:
    """The surrogate and its learning rate, and what else is not as in the paper."""
    own, usual = (vars(one.convert) | vars(one.finetune) for one in (config, PAPER))
    fields = {name: name.replace(" ", "_").replace("-", "") for name in NAMED}
    others = {name: own[field] for name, field in fields.items() if own[field] != usual[field]}
    others = [f"{name} {'calibrated' if value == AUTO else value}" for name, value in others.items()]
    return ", ".join([f"{config.finetune.surrogate}, lr {config.finetune.lr:g}", *others])


def nets_of(runs: DataFrame, net: str) -> DataFrame:
    """The runs with the scores of one of their nets."""
    columns = {f"{net}/{name}": name for name in ("accuracy", "accuracy_std", "scaling_factor", "kept")}
    return runs.reindex(columns=[*RUN_COLUMNS, *columns]).rename(columns=columns)


def hybrid_trials(runs: DataFrame) -> DataFrame:
    """The runs of the trials SURROGATE-tT, in this order."""
    return runs[runs.trial.str.fullmatch(r"(stdb|linear)-t\d+")].sort_values(["surrogate", "T", "seed"], kind="stable")


def against_steps(runs: DataFrame) -> DataFrame:
    """Test accuracies of nets by name, T and seed, converted ones with factor 1 and with the best.

    With the best factor those that hybrid nets start from, as they were measured on several streams, unless they have
    fewer seeds. With factor 1 all were on one, so that they stand in only for a T of which there is no conversion.
    """
    hybrids = hybrid_trials(runs)
    tests = measurements(runs, r"percentiles/(?P<percentile>.+)/test/(?P<steps>.+)/(?P<quantity>.+)")
    tests = tests.pivot(index=["percentile", "steps", "seed"], columns="quantity", values="value").reset_index()
    tests = tests.astype({"steps": int}).rename(columns={"steps": "T", "factor": "scaling_factor"})
    linear = hybrids[hybrids.surrogate == "linear"]
    own = nets_of(linear, "converted").rename(columns={"accuracy": "chosen"})
    own["percentile"] = own.config.map(lambda config: f"{config.convert.percentile:g}")
    by_step = zip(linear["converted/accuracy_by_step_at_factor_1"], linear["T"], strict=True)
    own["factor_1"] = [accuracies[t - 1] for accuracies, t in by_step]
    nets = pd.concat([own, tests], ignore_index=True)
    is_own, names = nets.trial.notna(), "converted, " + nets.percentile.map(PERCENTILES)
    count = nets.groupby(["percentile", "T", is_own]).seed.transform("count")
    best = nets.assign(net=names + ", best factor", accuracy=nets.chosen, preference=count + is_own / 2)
    at_1 = nets.assign(net=names + ", factor 1", accuracy=nets.factor_1, preference=1.0 - is_own)
    nets = pd.concat([best, at_1.drop(columns=["accuracy_std", "scaling_factor"])])
    nets = nets[nets.preference == nets.groupby(["net", "T"]).preference.transform("max")]
    fine_tuned = nets_of(hybrids, "hybrid")
    return pd.concat([nets, fine_tuned.assign(net=fine_tuned.surrogate.map(HYBRIDS))]).astype({"T": int})


def scratch_trials(runs: DataFrame, num_steps: int) -> dict[str, DataFrame]:
    """Question b: names of hybrid trials at T and of those from scratch -> their runs."""
    trials = {f"{surrogate}-t{num_steps}": name for surrogate, name in HYBRIDS.items()} | SCRATCH
    return {name: runs[runs.trial == trial] for trial, name in trials.items() if (runs.trial == trial).any()}


def learning_curve(run: Series) -> Series:
    """Epoch of the SNN -> validation accuracy after it; 0 is the converted net, where the run starts from it."""
    # Runs of older versions chose the converted net's factor on all validation images, and kept no accuracy before.
    of_start = run.reindex(["hybrid/validation_accuracy_before", "converted/validation_accuracy"]).bfill().iloc[0]
    before = [] if run.config.finetune.start == "scratch" else [of_start]
    after = [epoch["validation_accuracy"] for epoch in run["hybrid/history"]]
    return Series([*before, *after], range(1 - len(before), 1 + len(after)))


def by_operations(run: Series) -> Series:
    """The `learning_curve` by operations of training so far [10^12 MAC], with those of the ANN and the conversion."""
    is_old = pd.isna(run.get("hybrid/validation_accuracy_before"))
    curve = learning_curve(run)
    costs = operations_of_training(run.config, VALIDATION_IMAGES if is_old else FOR_CHOICES)
    before = run["ann/epochs"] * costs["ann epoch"] + costs["conversion"] if 0 in curve else 0.0
    return curve.rename(lambda epoch: (before + epoch * costs["snn epoch"]) / 1e12)


def operations_of_training(config: Config, images_for_choices: int = FOR_CHOICES) -> dict[str, float]:
    """Multiply-accumulates by "ann epoch", "conversion" and "snn epoch", as jsnn executes them: an SNN's at every step.

    A backward pass counts as two forward passes, a teacher as one. The conversion balances thresholds and tries all
    factors on some validation images.
    """
    layers, images = shapes(config), TRAINING_IMAGES[config.data.dataset]
    costs = multiply_accumulates(layers)
    of_image = sum(costs.values())
    convert, factors = config.convert, len(FACTORS) if config.convert.scaling_factor == AUTO else 1
    # Of an image that is the current itself, what comes before the first neurons is computed once in a few steps.
    once = [name for name, layer in layers.items() if layer.feeds == (operations.INPUT,)]
    first = sum(costs[name] for name in once) if convert.encoding == "constant" else 0

    def presentation(num_steps: int) -> int:
        return num_steps * of_image - (num_steps - 1) * first

    tried = factors * images_for_choices * presentation(convert.num_steps)
    balanced = 0 if config.network.levels else convert.balance_images * convert.balance_steps * of_image
    ann, snn = (3.0 * images * cost for cost in (of_image, presentation(convert.num_steps)))
    taught = images * of_image if config.finetune.distillation else 0
    return {"ann epoch": ann, "conversion": tried + balanced, "snn epoch": snn + taught}


@cache
def shapes(config: Config) -> dict[str, LayerShape]:
    """The sizes of a config's layers with weights, whose operations `jsnn.network.operations` counts."""
    return layer_shapes(build_ann(config).apply, *_one_image(config))


@cache
def neurons(config: Config) -> dict[str, int]:
    """Layer -> number of its neurons."""
    return operations.neurons(build_snn(config).trace(*_one_image(config))[0].layers)


def _one_image(config: Config) -> tuple[Variables, jax.ShapeDtypeStruct]:
    """Variables and an image of a config, as shapes."""
    variables = jax.eval_shape(lambda: init_variables(config, "init"))
    return variables, jax.ShapeDtypeStruct((1, *info(config.data.dataset).image_shape), "float32")
