"""The tables of question f: accuracy at few time steps, what it costs, and which part does the work."""

from collections.abc import Callable, Iterator

from pandas import DataFrame, Series

from experiments.fields import TRAINED, Finetune
from experiments.recipes import RECIPES
from experiments.reports.table import aligned
from experiments.study import results
from experiments.study.few_steps import BY_CHANNEL, NETS, PARTS, STEPS, activation_of, qcfs_diet
from experiments.study.image_costs import ImageCost, ann_operations, image_cost
from experiments.study.tables import spread, thousands

# The longer names first, for some begin as others do.
NETS_BY_NAME, RECIPES_BY_NAME = ("|".join(sorted(names, key=len, reverse=True)) for names in (NETS, RECIPES))
TRIAL = rf"(?P<net>{NETS_BY_NAME})-(?P<recipe>{RECIPES_BY_NAME})-t\d+"
RESIDUAL_ROWS = {
    "the fine-tuned net, validation [%]": "hybrid/validation_accuracy",
    "the net that is kept, test [%]": "hybrid/accuracy",
}


def of_recipes(runs: DataFrame) -> DataFrame:
    """The runs of question f with their net and recipe as columns, in the order of both and of T."""
    names = runs.trial.str.extract(f"^{TRIAL}$")
    named = runs.join(names)[names.net.notna()]
    order = {name: place for place, name in enumerate((*NETS, *RECIPES))}
    return named.sort_values(["net", "recipe", "T", "seed"], key=lambda column: column.map(lambda x: order.get(x, x)))


def ann_accuracies(runs: DataFrame, net: str, activation: str) -> Series:
    """Seed -> test accuracy of a net's ANN."""
    return runs[runs.trial == f"{net}-{activation}"].set_index("seed")["ann/accuracy"]


def accuracy_table(runs: DataFrame) -> str:
    """Test accuracy in % by net and recipe, and by seed how far the best recipe is from the ANN and from conversion."""
    rows, blanks = [["net", "", "ANN", *(f"T = {t}" for t in STEPS)]], [""] * len(STEPS)
    for net, of_net in of_recipes(runs).groupby("net", sort=False):
        relu, qcfs = (ann_accuracies(runs, net, activation) for activation in ("relu", "qcfs"))
        rows += [[net, name, percent(ann), *blanks] for name, ann in (("ReLU", relu), ("QCFS", qcfs))]
        for recipe, of_recipe in of_net.groupby("recipe", sort=False):
            if activation_of(recipe) == "relu":
                rows.append([net, f"{recipe}, converted", "", *_by_steps(of_recipe, "converted/accuracy", percent)])
            rows.append([net, recipe, "", *_by_steps(of_recipe, "hybrid/accuracy", percent)])
        best = of_net[of_net.recipe == "qcfs-diet"]
        if best.empty:
            continue
        others = {"the ReLU ANN": best.seed.map(relu), "qcfs": best["converted/accuracy"]}
        for name, accuracies in others.items():
            gains = best.assign(gain=best["hybrid/accuracy"] - accuracies)
            rows.append([net, f"qcfs-diet above {name}", "", *_by_steps(gains, "gain", signed)])
    return aligned(rows)


def _by_steps(runs: DataFrame, column: str, text: Callable[[Series], str]) -> Iterator[str]:
    """A text of what the seeds have at each T."""
    for num_steps in STEPS:
        values = runs[column][runs["T"] == num_steps].dropna()
        yield text(values) if len(values) else ""


def percent(accuracies: Series) -> str:
    """The spread of accuracies in %."""
    return spread(100 * accuracies)


def signed(gains: Series) -> str:
    """The spread of differences in points, of the seeds that both have, with a sign before what is above 0."""
    return ("+" if gains.mean() > 0 else "") + spread(100 * gains.dropna())


def exit_table(runs: DataFrame) -> str:
    """Early exit: accuracy against the mean number of steps, the confidence chosen on validation."""
    rows = [["net", "recipe", "T", "accuracy at T [%]", "with early exit [%]", "steps on average"]]
    for (net, recipe, t), one in of_recipes(runs).groupby(["net", "recipe", "T"], sort=False):
        if t > 1:
            accuracies = (percent(one[f"{name}/accuracy"]) for name in ("hybrid", "early_exit"))
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
        rows.append([net, recipe, f"{t}", *cells, f"{total / 1e12:.1f}", percent(one["hybrid/accuracy"])])
    return aligned(rows)


def energy_table(runs: DataFrame, net: str) -> str:
    """Spikes, operations by layer and energy of an image against the ANN's, with and without memory traffic."""
    chosen = of_recipes(runs)
    chosen = chosen[chosen.net == net]
    ann = ann_operations(chosen.config.iloc[0])
    rows = [["operations for an image [10^3]", *ann.index, "all", "spikes", "energy", "with memory traffic"]]
    rows.append(["ANN, MAC", *thousands(ann), "", "1", "1"])
    for (recipe, t), one in chosen.groupby(["recipe", "T"], sort=False):
        rows.append([f"{recipe}, T = {t}", *_cells(image_cost(one))])
    return aligned(rows)


def rates_table(runs: DataFrame, num_steps: int) -> str:
    """A penalty on rates at one T: accuracy, and operations, spikes and energy of an image."""
    chosen = of_penalties(runs, num_steps)
    layers = ann_operations(chosen.config.iloc[0]).index
    rows = [["penalty", "accuracy [%]", *layers, "all", "spikes", "energy", "with memory traffic"]]
    for penalty, one in chosen.groupby("penalty"):
        rows.append([f"{penalty:g}", percent(one["hybrid/accuracy"]), *_cells(image_cost(one))])
    return aligned(rows)


def _cells(cost: ImageCost) -> Iterator[str]:
    """Operations by layer and of all and spikes, in thousands, and energies."""
    yield from thousands(cost.operations)
    yield f"{cost.spikes / 1e3:.1f}"
    yield from (f"{share:.2f}" for share in (cost.energy, cost.with_memory))


def of_penalties(runs: DataFrame, num_steps: int) -> DataFrame:
    """The runs at one T with a penalty on rates, and without, as a column."""
    chosen = runs[
        (runs.trial.str.startswith("rate-") & (runs["T"] == num_steps)) | (runs.trial == qcfs_diet(num_steps))
    ]
    return chosen.assign(penalty=chosen.config.map(lambda config: config.finetune.rate_penalty))


def parts_table(runs: DataFrame, num_steps: int) -> str:
    """What each part of `qcfs-diet` adds at one T, by seed above conversion and above the weights by labels alone.

    Of the seeds that have the weights alone.
    """
    rows = [["trained", "loss", "accuracy [%]", "above conversion", "above the weights alone"]]
    weights = _by_seed(runs, "part-weights")["hybrid/accuracy"]
    runs = runs[runs.seed.isin(weights.index)]
    for trial in (*(f"part-{name}" for name in PARTS), qcfs_diet(num_steps), f"part-{BY_CHANNEL}"):
        one = _by_seed(runs, trial)
        accuracy = one["hybrid/accuracy"]
        gains = accuracy - one["converted/accuracy"], accuracy - weights
        rows.append([*_recipe_of(one.config.iloc[0].finetune), percent(accuracy), *map(signed, gains)])
    return aligned(rows)


def _recipe_of(finetune: Finetune) -> tuple[str, str]:
    """What is trained, and by which loss."""
    trained = "all" if finetune.trained == TRAINED else ", ".join(finetune.trained)
    return trained + ", by channel" * finetune.by_channel, "labels" + ", logits" * bool(finetune.distillation)


def residuals_table(runs: DataFrame, num_steps: int) -> str:
    """`qcfs-diet` at one T with exact residuals and with a byte of each, and by seed their difference."""
    both = [_by_seed(runs, name) for name in (qcfs_diet(num_steps), f"byte-t{num_steps}")]
    rows = [["residuals", "exact", "byte", "byte above exact"]]
    for name, column in RESIDUAL_ROWS.items():
        exact, byte = (of_seeds[column] for of_seeds in both)
        rows.append([name, percent(exact), percent(byte), signed(byte - exact)])
    return aligned(rows)


def _by_seed(runs: DataFrame, trial: str) -> DataFrame:
    """The runs of a trial by their seeds."""
    return runs[runs.trial == trial].set_index("seed")
