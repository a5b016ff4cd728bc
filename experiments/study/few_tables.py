"""The tables of question f: accuracy at few time steps, what it costs, and which part does the work."""

from collections.abc import Iterator
from statistics import mean

from pandas import DataFrame, Series

from experiments.recipes import RECIPES
from experiments.reports.table import aligned
from experiments.study import results
from experiments.study.few_steps import NETS, STEPS, activation_of
from experiments.study.tables import SPIKES, spread, thousands
from jsnn.network import operations

# The longer names first, for some begin as others do.
NETS_BY_NAME, RECIPES_BY_NAME = ("|".join(sorted(names, key=len, reverse=True)) for names in (NETS, RECIPES))
TRIAL = rf"(?P<net>{NETS_BY_NAME})-(?P<recipe>{RECIPES_BY_NAME})-t\d+"
PICOJOULES_SRAM = 5.0  # a 32-bit word of a small SRAM at 45 nm (Horowitz, ISSCC 2014)
WORDS_MAC, WORDS_AC, WORDS_NEURON = 2, 3, 2  # a weight and an input; a weight, and a membrane read and written


def of_recipes(runs: DataFrame) -> DataFrame:
    """The runs of question f with their net and recipe as columns, in the order of both and of T."""
    names = runs.trial.str.extract(f"^{TRIAL}$")
    found = runs.join(names)[names.net.notna()]
    order = {name: place for place, name in enumerate((*NETS, *RECIPES))}
    return found.sort_values(["net", "recipe", "T", "seed"], key=lambda column: column.map(lambda x: order.get(x, x)))


def ann_accuracies(runs: DataFrame, net: str, activation: str) -> Series:
    """Seed -> test accuracy of a net's ANN."""
    return runs[runs.trial == f"{net}-{activation}"].set_index("seed")["ann/accuracy"]


def accuracy_table(runs: DataFrame) -> str:
    """Test accuracy in % by net and recipe, and by seed how far the best recipe is from the ANN and from conversion."""
    rows, nothing = [["net", "", "ANN", *(f"T = {t}" for t in STEPS)]], [""] * len(STEPS)
    for net, of_net in of_recipes(runs).groupby("net", sort=False):
        relu, qcfs = (ann_accuracies(runs, net, activation) for activation in ("relu", "qcfs"))
        rows += [[net, name, spread(100 * ann), *nothing] for name, ann in (("ReLU", relu), ("QCFS", qcfs))]
        for recipe, of_recipe in of_net.groupby("recipe", sort=False):
            if activation_of(recipe) == "relu":
                rows.append([net, f"{recipe}, converted", "", *_by_steps(of_recipe, "converted/accuracy")])
            rows.append([net, recipe, "", *_by_steps(of_recipe, "hybrid/accuracy")])
        best = of_net[of_net.recipe == "qcfs-diet"]
        others = {"the ReLU ANN": best.seed.map(relu), "qcfs": best["converted/accuracy"]}
        for name, accuracies in others.items():
            gains = best.assign(gain=best["hybrid/accuracy"] - accuracies)
            rows.append([net, f"qcfs-diet above {name}", "", *_by_steps(gains, "gain", sign="+")])
    return aligned(rows)


def _by_steps(runs: DataFrame, column: str, sign: str = "") -> Iterator[str]:
    """Spreads over seeds at each T, in %, with a sign before what is above 0."""
    for num_steps in STEPS:
        values = 100 * runs[column][runs["T"] == num_steps].dropna()
        yield (sign if values.mean() > 0 else "") + spread(values) if len(values) else ""


def exit_table(runs: DataFrame) -> str:
    """Early exit: accuracy against the mean number of steps, the confidence chosen on validation."""
    rows = [["net", "recipe", "T", "accuracy at T [%]", "with early exit [%]", "steps on average"]]
    for (net, recipe, t), one in of_recipes(runs).groupby(["net", "recipe", "T"], sort=False):
        if t > 1:
            accuracies = (spread(100 * one[f"{name}/accuracy"]) for name in ("hybrid", "early_exit"))
            rows.append([net, recipe, f"{t}", *accuracies, spread(one["early_exit/steps"])])
    return aligned(rows)


def cost_table(runs: DataFrame) -> str:
    """Operations of training beside accuracy, those of the ANN in them."""
    rows = [["net", "recipe", "T", "ANN epochs", "SNN epochs", "operations [10^12 MAC]", "test accuracy [%]"]]
    for (net, recipe, t), one in of_recipes(runs).groupby(["net", "recipe", "T"], sort=False):
        first = one.iloc[0]
        costs, epochs = results.operations_of_training(first.config), (first["ann/epochs"], first["hybrid/epochs"])
        total = epochs[0] * costs["ann epoch"] + costs["conversion"] + epochs[1] * costs["snn epoch"]
        cells = [f"{epoch:g}" for epoch in epochs]
        rows.append([net, recipe, f"{t}", *cells, f"{total / 1e12:.1f}", spread(100 * one["hybrid/accuracy"])])
    return aligned(rows)


def energy_table(runs: DataFrame, net: str) -> str:
    """Spikes, operations by layer and energy of an image against the ANN's, with and without memory traffic."""
    chosen = of_recipes(runs)
    chosen = chosen[chosen.net == net]
    shapes, count = results.shapes(chosen.config.iloc[0]), Series(results.neurons(chosen.config.iloc[0]))
    ann = Series(operations.multiply_accumulates(shapes))
    rows = [["operations for an image [10^3]", *ann.index, "all", "spikes", "energy", "with memory traffic"]]
    rows.append(["ANN, MAC", *thousands(ann), "", "1", "1"])
    energy, with_memory = _energies(mac=ann.sum())
    for (recipe, t), one in chosen.groupby(["recipe", "T"], sort=False):
        spikes = results.measurements(one, SPIKES)
        of_layer = spikes[spikes.net == "hybrid"].groupby("layer", sort=False).value.agg(mean) * count
        synapses = Series(operations.accumulates(shapes, of_layer))
        first = ann[[name for name, shape in shapes.items() if shape.feeds == (operations.INPUT,)]]
        costs = _energies(mac=first.sum(), ac=synapses.sum(), neuron=t * count.sum())
        cells = thousands(synapses.add(first, fill_value=0)[ann.index])
        shares = (f"{costs[0] / energy:.2f}", f"{costs[1] / with_memory:.2f}")
        rows.append([f"{recipe}, T = {t}", *cells, f"{of_layer.sum() / 1e3:.1f}", *shares])
    return aligned(rows)


def _energies(mac: float, ac: float = 0.0, neuron: float = 0.0) -> tuple[float, float]:
    """Picojoules of operations alone, and with the words that they read and write."""
    alone = mac * operations.PICOJOULES_MAC + ac * operations.PICOJOULES_AC
    words = mac * WORDS_MAC + ac * WORDS_AC + neuron * WORDS_NEURON
    return alone, alone + words * PICOJOULES_SRAM
