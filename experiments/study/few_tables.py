"""The tables of question f: accuracy, its costs and what it is made of, at few time steps."""

from collections.abc import Mapping
from statistics import mean

from pandas import DataFrame, Series

from experiments.recipes import RECIPES
from experiments.reports.table import aligned
from experiments.study import results
from experiments.study.few_steps import NETS, STEPS, activation_of
from experiments.study.tables import SPIKES, spread
from jsnn.network import operations

# The longer names first, for some begin as others do.
NETS_BY_NAME, RECIPES_BY_NAME = ("|".join(sorted(names, key=len, reverse=True)) for names in (NETS, RECIPES))
TRIAL = rf"(?P<net>{NETS_BY_NAME})-(?P<recipe>{RECIPES_BY_NAME})-t\d+"
PICOJOULES_SRAM = 5.0  # a 32-bit word of a small SRAM at 45 nm (Horowitz, ISSCC 2014)
WORDS_MAC, WORDS_AC, WORDS_NEURON = 2, 3, 2  # a weight and an input; a weight, and a membrane read and written


def of_recipes(runs: DataFrame) -> DataFrame:
    """The runs of question f with their net and recipe as columns."""
    names = runs.trial.str.extract(f"^{TRIAL}$")
    return runs.join(names)[names.net.notna()]


def accuracy_table(runs: DataFrame) -> str:
    """Test accuracy in % by net, recipe and T, and how far the best recipe is from the ReLU ANN and from conversion."""
    rows = [["net", "recipe", "ANN", *(f"T = {t}" for t in STEPS)]]
    for net, of_net in of_recipes(runs).groupby("net", sort=False):
        groups = dict(list(of_net.groupby(["recipe", "T"])))
        for recipe in (name for name in RECIPES if name in set(of_net.recipe)):
            ann = spread(100 * of_net[of_net.recipe == recipe].drop_duplicates("seed")["ann/accuracy"])
            cells = {kind: [_percent(groups, recipe, t, kind) for t in STEPS] for kind in ("converted", "hybrid")}
            if recipe != "qcfs":
                rows.append([net, f"{recipe}, converted", ann, *cells["converted"]])
            rows.append([net, recipe, ann, *cells["hybrid"]])
        relu = of_net[of_net.recipe.map(activation_of) == "relu"].drop_duplicates("seed").set_index("seed")
        best = {t: groups.get(("qcfs-diet", t)) for t in STEPS}
        above_ann = [_gain(one, relu["ann/accuracy"], "hybrid/accuracy") for one in best.values()]
        above_conversion = [_gain(one, None, "hybrid/accuracy") for one in best.values()]
        rows.append([net, "qcfs-diet above the ReLU ANN", "", *above_ann])
        rows.append([net, "qcfs-diet above qcfs", "", *above_conversion])
    return aligned(rows)


def _percent(groups: Mapping[tuple, DataFrame], recipe: str, num_steps: int, net: str) -> str:
    of_group = groups.get((recipe, num_steps))
    return "" if of_group is None else spread(100 * of_group[f"{net}/accuracy"])


def _gain(runs: DataFrame | None, others: Series | None, accuracy: str) -> str:
    """Points by seed above others, or above the runs' own converted nets."""
    if runs is None:
        return ""
    own = runs.set_index("seed")
    gains = 100 * (own[accuracy] - (own["converted/accuracy"] if others is None else others)).dropna()
    return f"{'+' * (gains.mean() > 0)}{spread(gains)}" if len(gains) else ""


def parts_table(runs: DataFrame, prefix: str) -> str:
    """What each part of a recipe adds: test accuracy of trials PREFIX-PART, with their gains over the converted net."""
    parts = runs.assign(part=runs.trial.str.extract(f"^{prefix}-(.+)$")[0]).dropna(subset="part")
    rows = [["trained", "T", "converted [%]", "fine-tuned [%]", "gain"]]
    for (part, t), one in parts.groupby(["part", "T"], sort=False):
        accuracies = (spread(100 * one[f"{net}/accuracy"]) for net in ("converted", "hybrid"))
        rows.append([part.replace("-", " "), f"{t}", *accuracies, _gain(one, None, "hybrid/accuracy")])
    return aligned(rows)


def exit_table(runs: DataFrame) -> str:
    """Early exit: accuracy against the mean number of steps, the confidence chosen on validation."""
    rows = [["net", "recipe", "T", "accuracy at T [%]", "with early exit [%]", "steps on average"]]
    for (net, recipe, t), one in of_recipes(runs).groupby(["net", "recipe", "T"], sort=False):
        if t > 1:
            accuracies = (spread(100 * one[f"{name}/accuracy"]) for name in ("hybrid", "early_exit"))
            rows.append([net, recipe, f"{t}", *accuracies, spread(one["early_exit/steps"])])
    return aligned(rows)


def cost_table(runs: DataFrame) -> str:
    """Operations of training beside accuracy, of the ANN alone and with the recipes."""
    rows = [["net", "recipe", "T", "ANN epochs", "SNN epochs", "operations [10^12 MAC]", "test accuracy [%]"]]
    for (net, recipe, t), one in of_recipes(runs).groupby(["net", "recipe", "T"], sort=False):
        first = one.iloc[0]
        costs, epochs = results.operations_of_training(first.config), (first["ann/epochs"], first["hybrid/epochs"])
        total = epochs[0] * costs["ann epoch"] + costs["conversion"] + epochs[1] * costs["snn epoch"]
        cells = [f"{epoch:g}" for epoch in epochs]
        rows.append([net, recipe, f"{t}", *cells, f"{total / 1e12:.1f}", spread(100 * one["hybrid/accuracy"])])
    return aligned(rows)


def energy_table(runs: DataFrame) -> str:
    """Spikes, operations by layer and energy of an image against the ANN's, with and without memory traffic."""
    chosen = of_recipes(runs)
    shapes, count = results.shapes(chosen.config.iloc[0]), Series(results.neurons(chosen.config.iloc[0]))
    ann = Series(operations.multiply_accumulates(shapes))
    rows = [["operations for an image [10^3]", *ann.index, "all", "spikes", "energy", "with memory traffic"]]
    rows.append(["ANN, MAC", *_thousands(ann), "", "1", "1"])
    energy, with_memory = _energies(Series({"mac": ann.sum()}))
    for (recipe, t), one in chosen.groupby(["recipe", "T"], sort=False):
        spikes = results.measurements(one, SPIKES.replace("(?P<net>.+)", "(?P<net>hybrid)"))
        of_layer = spikes.groupby("layer", sort=False).value.agg(mean) * count
        synapses = Series(operations.accumulates(shapes, of_layer))
        first = ann[[name for name, shape in shapes.items() if shape.feeds == (operations.INPUT,)]]
        costs = _energies(Series({"mac": first.sum(), "ac": synapses.sum(), "neuron": t * count.sum()}))
        cells = _thousands(synapses.add(first, fill_value=0)[ann.index])
        shares = (f"{costs[0] / energy:.2f}", f"{costs[1] / with_memory:.2f}")
        rows.append([f"{recipe}, T = {t}", *cells, f"{of_layer.sum() / 1e3:.1f}", *shares])
    return aligned(rows)


def _energies(counts: Series) -> tuple[float, float]:
    """Picojoules of operations alone, and with the words that they read and write."""
    mac, ac, neuron = (counts.get(name, 0.0) for name in ("mac", "ac", "neuron"))
    alone = mac * operations.PICOJOULES_MAC + ac * operations.PICOJOULES_AC
    words = mac * WORDS_MAC + ac * WORDS_AC + neuron * WORDS_NEURON
    return alone, alone + words * PICOJOULES_SRAM


def _thousands(costs: Series) -> list[str]:
    return [f"{cost / 1e3:.0f}" for cost in (*costs, costs.sum())]


def rates_table(runs: DataFrame, prefix: str) -> str:
    """Accuracy against spikes for penalties on rates, of trials PREFIX-PENALTY."""
    penalties = runs.assign(penalty=runs.trial.str.extract(f"^{prefix}-(.+)$")[0]).dropna(subset="penalty")
    count = Series(results.neurons(penalties.config.iloc[0]))
    rows = [["penalty [nats]", "spikes for an image [10^3]", "test accuracy [%]"]]
    for penalty, one in penalties.groupby("penalty", sort=False):
        spikes = one[[f"spikes_per_neuron/hybrid/{layer}" for layer in count.index]].set_axis(count.index, axis=1)
        totals = (spikes * count).sum(axis=1) / 1e3
        rows.append([penalty, spread(totals, 1), spread(100 * one["hybrid/accuracy"])])
    return aligned(rows)
