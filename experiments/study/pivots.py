"""Pivots of the study's measurements that tables and plots share."""

from collections.abc import Iterable

import pandas as pd
from pandas import DataFrame, Series

from experiments.study.operations import operations_of_training

PERCENTILES = {"100": "maximum", "99.7": "99.7 percentile"}
CONVERTED_NETS = [f"converted, {name}, {kind}" for name in PERCENTILES.values() for kind in ("factor 1", "best factor")]
HYBRIDS = {"stdb": "hybrid, STDB", "linear": "hybrid, linear"}
SCRATCH = {
    "scratch-stdb": "from scratch, STDB",
    "scratch-linear": "from scratch, linear",
    "scratch-linear-long": "from scratch, linear, twice as long",
    "scratch-linear-longest": "from scratch, linear, three times as long",
}


def nets_of(data: DataFrame, net: str) -> DataFrame:
    """A row for each run's net, or "" for what is of no net, a column for each quantity, by time step that at T."""
    here = data.step.isna() | (data.step == data["T"])
    single = data[here & data[["layer", "percentile", "gradient"]].isna().all(axis=1) & (data.net.fillna("") == net)]
    table = single.pivot(index=["trial", "seed", "surrogate", "T", "config"], columns="quantity", values="value")
    columns = table.columns.union(["accuracy_std", "scaling_factor", "kept"])
    return table.reindex(columns=columns).reset_index().sort_values(["surrogate", "T", "seed"])


def of_trials(data: DataFrame, trials: Iterable[str]) -> DataFrame:
    """The measurements of some trials, in their order."""
    return pd.concat([data[data.trial == trial] for trial in trials])


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
    """Operations of training so far [10^12 MAC] -> validation accuracy, after each epoch of the SNN.

    A hybrid run begins with the operations of the ANN and of the conversion.
    """
    config = run.config.iloc[0]
    costs = operations_of_training(config)
    curve = run[(run.net == "hybrid") & (run.quantity == "history validation_accuracy")].set_index("step").value
    before = 0.0
    if config.finetune.start == "converted":
        before = nets_of(run, "ann").epochs[0] * costs["ann epoch"] + costs["conversion"]
        curve = pd.concat([Series(nets_of(run, "converted").validation_accuracy[0], [0]), curve])
    return curve.rename(lambda epoch: (before + epoch * costs["snn epoch"]) / 1e12)


def gains(run: DataFrame) -> list[float]:
    """Validation accuracy above the converted net's, in points, before the first epoch and after each."""
    history = run[(run.net == "hybrid") & (run.quantity == "history validation_accuracy")].value
    return [0.0, *(100 * (history - nets_of(run, "converted").validation_accuracy[0]))]
