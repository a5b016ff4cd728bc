"""The tables of question f: accuracy at few time steps, what it costs, and which part does the work."""

from itertools import product

from pandas import DataFrame

from experiments.fields import TRAINED
from experiments.recipes import RECIPES
from experiments.reports.table import aligned
from experiments.study.costs import image_cost, macs_of, operations_of_training
from experiments.study.plan import ACTIVATIONS, NETS, PARTS, PENALTIES, STEPS, activation_of, qcfs_diet
from experiments.study.tables import of_trials, percent, signed, spread, thousands

NAMES = {f"{net}-{recipe}-t{t}": (net, recipe) for net, recipe, t in product(NETS, RECIPES, STEPS)}
MEMORY = ["all", "spikes", "energy", "with memory traffic"]


def of_recipes(runs: DataFrame) -> DataFrame:
    """The runs of question f with their net and recipe as columns, in the order of both and of T."""
    chosen = of_trials(runs, NAMES)
    return chosen.join(DataFrame(chosen.trial.map(NAMES).tolist(), columns=["net", "recipe"]))


def of_penalties(runs: DataFrame, num_steps: int) -> DataFrame:
    """The runs at one T without a penalty on rates, and with it, as a column."""
    chosen = of_trials(runs, [qcfs_diet(num_steps), *PENALTIES])
    return chosen.assign(penalty=chosen.config.map(lambda config: config.finetune.rate_penalty))


def accuracy_table(runs: DataFrame) -> str:
    """Test accuracy in % by net and recipe, and by seed how far the best recipe is from the ANN and from conversion."""
    rows = [["net", "", "ANN", *(f"T = {t}" for t in STEPS)]]
    for net, of_net in of_recipes(runs).groupby("net", sort=False):
        relu, qcfs = (_by_seed(runs, f"{net}-{activation}")["ann/accuracy"] for activation in ACTIVATIONS)
        rows += [[net, name, percent(ann), *[""] * len(STEPS)] for name, ann in (("ReLU", relu), ("QCFS", qcfs))]
        for recipe, one in of_net.groupby("recipe", sort=False):
            converted, hybrid, lines = one["converted/accuracy"], one["hybrid/accuracy"], []
            if activation_of(recipe) == "relu":
                lines.append((f"{recipe}, converted", percent, converted))
            lines.append((recipe, percent, hybrid))
            if recipe == "qcfs-diet":
                lines.append(("qcfs-diet above the ReLU ANN", signed, hybrid - one.seed.map(relu)))
                lines.append(("qcfs-diet above qcfs", signed, hybrid - converted))
            for name, text, values in lines:
                rows.append([net, name, "", *(text(values[one["T"] == t]) for t in STEPS)])
    return aligned(rows)


def exit_table(runs: DataFrame) -> str:
    """Early exit: accuracy against the mean number of steps, the confidence chosen on validation."""
    rows = [["net", "recipe", "T", "accuracy at T [%]", "with early exit [%]", "steps on average"]]
    for (*names, t), one in of_recipes(runs[runs["T"] > 1]).groupby(["net", "recipe", "T"], sort=False):
        accuracies = percent(one["hybrid/accuracy"]), percent(one["early_exit/accuracy"])
        rows.append([*names, f"{t}", *accuracies, spread(one["early_exit/steps"])])
    return aligned(rows)


def cost_table(runs: DataFrame) -> str:
    """Operations of training beside accuracy, those of the ANN in them."""
    rows = [["net", "recipe", "T", "ANN epochs", "SNN epochs", "operations [10^12 MAC]", "test accuracy [%]"]]
    for (*names, t), one in of_recipes(runs).groupby(["net", "recipe", "T"], sort=False):
        costs = operations_of_training(one.config.iloc[0])
        ann, snn = (one[f"{name}/epochs"].iloc[0] for name in ("ann", "hybrid"))
        total = (ann * costs["ann epoch"] + costs["conversion"] + snn * costs["snn epoch"]) / 1e12
        rows.append([*names, f"{t}", f"{ann:g}", f"{snn:g}", f"{total:.1f}", percent(one["hybrid/accuracy"])])
    return aligned(rows)


def energy_table(runs: DataFrame, net: str) -> str:
    """Spikes, operations by layer and energy of an image against the ANN's, with and without memory traffic."""
    chosen = of_recipes(runs).query("net == @net")
    macs = macs_of(chosen)
    rows = [["operations for an image [10^3]", *macs.index, *MEMORY], ["ANN, MAC", *thousands(macs), "", "1", "1"]]
    for (recipe, t), one in chosen.groupby(["recipe", "T"], sort=False):
        rows.append([f"{recipe}, T = {t}", *_cells(one)])
    return aligned(rows)


def rates_table(runs: DataFrame, num_steps: int) -> str:
    """A penalty on rates at one T: accuracy, and operations, spikes and energy of an image."""
    chosen = of_penalties(runs, num_steps)
    rows = [["penalty", "accuracy [%]", *macs_of(chosen).index, *MEMORY]]
    for penalty, one in chosen.groupby("penalty"):
        rows.append([f"{penalty:g}", percent(one["hybrid/accuracy"]), *_cells(one)])
    return aligned(rows)


def _cells(runs: DataFrame) -> list[str]:
    """Operations by layer and of all and spikes, in thousands, and energies."""
    operations, spikes, energy, with_memory = image_cost(runs)
    return [*thousands(operations), f"{spikes / 1e3:.1f}", f"{energy:.2f}", f"{with_memory:.2f}"]


def parts_table(runs: DataFrame, num_steps: int) -> str:
    """What each part of `qcfs-diet` adds at one T, by seed above conversion and above the weights by labels alone.

    Of the seeds that have the weights alone.
    """
    rows = [["trained", "loss", "accuracy [%]", "above conversion", "above the weights alone"]]
    weights, (*by_labels, by_channel) = _by_seed(runs, "part-weights")["hybrid/accuracy"], PARTS
    for trial in (*by_labels, qcfs_diet(num_steps), by_channel):
        one = _by_seed(runs[runs.seed.isin(weights.index)], trial)
        accuracy, finetune = one["hybrid/accuracy"], one.config.iloc[0].finetune
        trained = "all" if finetune.trained == TRAINED else ", ".join(finetune.trained)
        what = trained + ", by channel" * finetune.by_channel, "labels" + ", logits" * bool(finetune.distillation)
        gains = accuracy - one["converted/accuracy"], accuracy - weights
        rows.append([*what, percent(accuracy), *map(signed, gains)])
    return aligned(rows)


def residuals_table(runs: DataFrame, num_steps: int) -> str:
    """`qcfs-diet` at one T with exact residuals and with a byte of each, and by seed their difference."""
    rows = [["residuals", "exact", "byte", "byte above exact"]]
    for name, column in (
        ("the fine-tuned net, validation [%]", "hybrid/validation_accuracy"),
        ("the net that is kept, test [%]", "hybrid/accuracy"),
    ):
        exact, byte = (_by_seed(runs, trial)[column] for trial in (qcfs_diet(num_steps), f"byte-t{num_steps}"))
        rows.append([name, percent(exact), percent(byte), signed(byte - exact)])
    return aligned(rows)


def _by_seed(runs: DataFrame, trial: str) -> DataFrame:
    return runs[runs.trial == trial].set_index("seed")
