"""The tables of experiments/README.md, from what is kept."""

from collections.abc import Iterable
from functools import partial
from itertools import product
from statistics import mean, stdev

import pandas as pd
from pandas import DataFrame, Series

from experiments.fields import TRAINED
from experiments.recipes import RECIPES
from experiments.reports.table import aligned
from experiments.runs.workdir import CONVERTED
from experiments.study import work
from experiments.study.costs import SPIKES, by_operations, image_cost, macs_of, operations_of_training, sizes
from experiments.study.plan import ACTIVATIONS, HARMS, NETS, PARTS, PENALTIES, QCFS_DIET, RATES, STEPS, activation_of
from experiments.study.results import RESULTS, RUN_COLUMNS, measurements

# The paper's table 1, accuracies in %, as the rows of ours; our runs of each are those of a preset's trial.
PAPER = pd.read_csv(RESULTS.parent / "paper.csv", dtype=str, keep_default_na=False).values.tolist()
PERCENTILES = {"100": "maximum", "99.7": "99.7 percentile"}
CONVERTED_NETS = [f"converted, {name}, {kind}" for name in PERCENTILES.values() for kind in ("factor 1", "best factor")]
HYBRIDS = {"stdb": "hybrid, STDB", "linear": "hybrid, linear"}
SCRATCH = {
    "scratch-stdb": "from scratch, STDB",
    "scratch-linear": "from scratch, linear",
    "scratch-linear-long": "from scratch, linear, twice as long",
    "scratch-linear-longest": "from scratch, linear, three times as long",
}
UNITS = {"loss": 1e3, "accuracy": 100, "share": 1, "never": 100}  # of a score, in one
OF_AN_IMAGE = "operations for an image [10^3]"
MEMORY = ["all", "spikes", "energy", "with memory traffic"]


def of_trials(runs: DataFrame, trials: Iterable[str]) -> DataFrame:
    """The runs of some trials, in their order."""
    return pd.concat([runs[runs.trial == trial] for trial in trials], ignore_index=True)


def hybrid_trials(runs: DataFrame) -> DataFrame:
    """The runs of the trials SURROGATE-tT, in this order."""
    return runs[runs.trial.str.fullmatch(r"(stdb|linear)-t\d+")].sort_values(["surrogate", "T", "seed"], kind="stable")


def nets_of(runs: DataFrame, net: str) -> DataFrame:
    """The runs with the scores of one of their nets."""
    columns = {f"{net}/{name}": name for name in ("accuracy", "accuracy_std", "scaling_factor", "kept")}
    return runs.reindex(columns=[*RUN_COLUMNS, *columns]).rename(columns=columns)


def spread(values: Series, digits: int = 2) -> str:
    """Mean ± standard deviation over seeds; the mean alone where there is one, nothing where there is none."""
    values = list(values.dropna())
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}" if values else ""


def percent(accuracies: Series) -> str:
    """The spread of accuracies in %."""
    return spread(100 * accuracies)


def signed(gains: Series) -> str:
    """The spread of gains in points, with a sign before what is above 0."""
    return ("+" if gains.mean() > 0 else "") + percent(gains)


def thousands(costs: Series) -> list[str]:
    """Operations by layer and of all, in thousands."""
    return [f"{cost / 1e3:.0f}" for cost in (*costs, costs.sum())]


def on_test(nets: DataFrame) -> str:
    """Test accuracy in %, ± over seeds or, of one, over streams, the threshold factors, and if conversion was kept."""
    text, std = percent(nets.accuracy), nets.accuracy_std.iloc[0]
    text += f" ± {100 * std:.2f}" if len(nets) == 1 and (std or 0) > 0 else ""
    factors = ", ".join(f"{factor:g}" for factor in sorted(set(nets.scaling_factor.dropna())))
    text += f" ({factors})" if factors else ""
    return f"{text} (handed back)" if (nets.kept == CONVERTED).any() else text


def seeds(nets: DataFrame | Series) -> str:
    """How many seeds there are, of a row each."""
    return f"{len(nets)} seed{'s' * (len(nets) > 1)}"


def _markdown(table: DataFrame) -> str:
    """The table, the names of its rows first."""
    cells = table.fillna("").reset_index().astype(str)
    return aligned([[*map(str, cells.columns)], *cells.values.tolist()])


def _spreads(data: DataFrame, *rows: Series, columns: str | Series = "layer", digits: int = 2, **more: object) -> str:
    """Spreads over seeds of scores that were measured, rows and columns in their order, and more columns."""
    data = data.assign(value=data.value * data.score.map(UNITS))
    table = data.pivot_table("value", [*rows], columns, partial(spread, digits=digits), sort=False)
    return _markdown(table.rename_axis(columns=None).assign(**more))


def paper_table(runs: DataFrame) -> str:
    """The paper's numbers and ours; test accuracy in %, the threshold factor in brackets."""
    rows = ["net, data|T|ANN|converted at T|hybrid at T|epochs|command|time|machine|commit".split("|")]
    for preset, trial, net, *numbers, command in PAPER:
        rows += [[f"{net}, paper", *numbers, *[""] * 5]] if any(numbers) else []
        ours = runs[(runs.preset == preset) & (runs.trial == trial)]
        if ours.empty:
            continue
        first, on_cpu = ours.iloc[0], ours["environment/platform"].iloc[0] == "cpu"
        count = first["environment/cpu_count" if on_cpu else "environment/device_count"]
        device = f"CPU core{'s' if count > 1 else ''}" if on_cpu else first["environment/device"]
        accuracies = percent(ours["ann/accuracy"]), *(on_test(nets_of(ours, name)) for name in ("converted", "hybrid"))
        epochs = f"{first['ann/epochs']:g} + {first['hybrid/epochs']:g}"
        minutes = f"{mean(ours.filter(like='seconds/').sum(axis=1)) / 60:.0f} min"
        commits = ", ".join(sorted(set(ours["environment/commit"].map(str))))
        own = f"{first['T']}", *accuracies, epochs, f"`{command}`", minutes, f"{count:g} {device}", commits
        rows.append([f"{net}, jsnn", *own])
    return aligned(rows)


def against_steps(runs: DataFrame) -> DataFrame:
    """Question a: test accuracies by net, T and seed; a converted net is hybrid runs' own, or that of more seeds."""
    tests = measurements(runs, r"percentiles/(?P<percentile>.+)/test/(?P<steps>.+)/(?P<quantity>.+)")
    tests = tests.pivot(index=["percentile", "steps", "seed"], columns="quantity", values="value").reset_index()
    tests = tests.astype({"steps": int}).rename(columns={"steps": "T", "factor": "scaling_factor"})
    hybrids = hybrid_trials(runs)
    linear = hybrids[hybrids.surrogate == "linear"]
    own = nets_of(linear, "converted").rename(columns={"accuracy": "chosen"})
    own["percentile"] = own.config.map(lambda config: f"{config.convert.percentile:g}")
    own["factor_1"] = [run["converted/accuracy_by_step_at_factor_1"][run["T"] - 1] for _, run in linear.iterrows()]
    nets = pd.concat([own, tests], ignore_index=True)
    is_own = nets.trial.notna()
    nets["preference"] = nets.groupby(["percentile", "T", is_own]).seed.transform("count") + is_own / 2
    nets = nets[nets.preference == nets.groupby(["percentile", "T"]).preference.transform("max")]
    names = "converted, " + nets.percentile.map(PERCENTILES)
    best = nets.assign(net=names + ", best factor", accuracy=nets.chosen)
    at_1 = nets.assign(net=names + ", factor 1", accuracy=nets.factor_1, accuracy_std=None, scaling_factor=None)
    fine_tuned = nets_of(hybrids, "hybrid").assign(net=hybrids.surrogate.map(HYBRIDS))
    return pd.concat([best, at_1, fine_tuned]).astype({"T": int})


def conversion_table(runs: DataFrame) -> str:
    """Question a: test accuracy of all nets by time steps, the best factor in brackets; and what these are means of."""
    nets, anns = against_steps(runs), runs[runs.trial == "conversion"]
    groups = nets.groupby(["net", "T"])
    table = groups[["accuracy", "accuracy_std", "scaling_factor", "kept"]].apply(on_test)
    means, rows = groups.accuracy.agg(mean), {name: table[name] for name in CONVERTED_NETS}
    best = means["converted, maximum, best factor"]
    for name in (name for name in HYBRIDS.values() if name in table):
        steps = means[name].map(lambda accuracy: best.index[best >= accuracy].min())
        reached = steps.map("{:g}".format).where(steps.notna(), f"over {best.index.max()}")
        rows |= {name: table[name], f"converted, maximum, best factor, reaches {name} by T =": reached}
    table = DataFrame(rows).T.sort_index(axis=1).rename_axis("test accuracy [%] at T =")
    hybrids = nets[nets.net.isin(HYBRIDS.values())].groupby(["surrogate", "T"])
    shared = nets[nets.net.str.endswith("best factor")].trial.notna().any()
    factors = ", ".join(f"{factor:g}" for factor in work.FACTORS_FOR_LONG)
    trained = ", ".join(f"{name} at T = {t} ({seeds(net)})" for (name, t), net in hybrids)
    return (
        f"ANN: {percent(anns['ann/accuracy'])} %. {trained}: five Poisson streams each; with one seed, ± is over the "
        f"streams. {'The converted nets that they start from likewise. All other' if shared else 'All'} converted "
        f"nets: {seeds(anns)}, one stream each, their factors chosen on {work.IMAGES_FOR_SHORT} validation images; "
        f"from T = {min(work.LONG)} on among {factors} on {work.IMAGES_FOR_LONG}, and tested on the first "
        f"{anns.images_for_long.iloc[0]:g} images, of which the ANN has "
        f"{percent(anns['ann/accuracy_for_long'])} % right.\n\n{_markdown(table)}"
    )


def evaluation_table(runs: DataFrame) -> str:
    """Question e: test accuracy of nets trained at one T and evaluated at others."""
    data = measurements(hybrid_trials(runs), "hybrid/(?P<score>.+)_by_step").query("step in [2, 4, 8, 16, 32, 64]")
    trained = "T = " + data["T"].map(str) + ", " + data.surrogate
    return _spreads(data, trained.rename("trained at"), columns="evaluated at T = " + data.step.map(str))


def scratch_trials(runs: DataFrame, num_steps: int) -> dict[str, DataFrame]:
    """Question b: names of hybrid trials at T and of those from scratch -> their runs."""
    trials = {f"{surrogate}-t{num_steps}": name for surrogate, name in HYBRIDS.items()} | SCRATCH
    return {name: runs[runs.trial == trial] for trial, name in trials.items() if (runs.trial == trial).any()}


def scratch_table(runs: DataFrame, num_steps: int) -> str:
    """Compute and accuracy of hybrid runs and from scratch; the time is the fastest seed's, as machines may differ."""
    rows = [["run", "ANN epochs", "SNN epochs", "operations [10^12 MAC]", "training [min]", "test accuracy [%]"]]
    for name, of_name in scratch_trials(runs, num_steps).items():
        first, is_hybrid = of_name.iloc[0], name in HYBRIDS.values()
        stages = ["train_ann", "convert", "finetune"] if is_hybrid else ["finetune"]
        minutes = of_name[[f"seconds/{stage}" for stage in stages]].sum(axis=1).min() / 60
        epochs = [f"{first['ann/epochs']:g}" if is_hybrid else "0", f"{first['hybrid/epochs']:g}"]
        cost, accuracy = by_operations(first).index[-1], on_test(nets_of(of_name, "hybrid"))
        rows.append([f"{name} ({seeds(of_name)})", *epochs, f"{cost:.1f}", f"{minutes:.0f}", accuracy])
    return aligned(rows)


def _on_validation(runs: DataFrame, trials: Iterable[str]) -> DataFrame:
    """Validation accuracies before and after the fine-tune: of each seed the mean over streams, or all streams."""
    streams = measurements(of_trials(runs, trials), "streams/(?P<net>.+)")
    only = streams.groupby("trial").seed.transform("nunique") == 1
    samples = streams.assign(step=streams.step.where(only, 0))
    return samples.pivot_table("value", ["trial", "finetune", "seed", "step"], "net", mean, sort=False)


def surrogates_table(runs: DataFrame) -> str:
    """Question c: validation accuracy after one epoch of fine-tuning, beside the converted net's."""
    accuracies = _on_validation(runs, RATES).reset_index("seed")
    trials = accuracies.assign(gain=accuracies.hybrid - accuracies.converted).groupby(["trial", "finetune"], sort=False)
    table = trials.agg({"seed": "nunique", "converted": percent, "hybrid": percent, "gain": signed})
    table.columns = ["seeds", "converted [%]", "fine-tuned [%]", "gain"]
    return _markdown(table.droplevel("trial").rename_axis("fine-tuned with"))


def descent_table(runs: DataFrame) -> str:
    """Question c: what a small step along each surrogate's gradient does to loss and accuracy, by layer."""
    data = measurements(runs, "descent/(?P<gradient>.+)/(?P<score>.+)/(?P<layer>.+)")
    changes = data.score.map({"loss": "loss [10^-3 nats]", "accuracy": "accuracy [%]"})
    return _spreads(data, data.gradient.rename("a step downhill by"), changes.rename("changes"))


def agreement_table(runs: DataFrame) -> str:
    """Question c: how far batches agree on their gradients, and what a step along the mean of these does, by layer."""
    data = measurements(of_trials(runs, HARMS), "agreement/(?P<net>.+)/(?P<score>.+)/(?P<layer>.+)")
    data = data[(data.net == "after") | ~data.trial.str.endswith("-fast")]
    names = data.finetune.where(data.net == "after", data.surrogate) + ", " + data.net
    measured = data.score.map({"share": "batches agree", "loss": "a step changes the loss [10^-3 nats]"})
    return _spreads(data, names.rename("gradient of"), measured.rename("measured"))


def silent_neurons_table(runs: DataFrame) -> str:
    """Question c: share of neurons that never fire, before and after fine-tunes that help and that harm."""
    data = measurements(of_trials(runs, HARMS), "silence/(?P<net>.+)/(?P<score>never)/(?P<layer>.+)")
    data = data[(data.net == "after") | (data.trial == "harm-stdb")]
    names = data.finetune.where(data.net == "after", "before").rename("never fire in a presentation [%]")
    validation = _on_validation(runs, HARMS).groupby("trial", sort=False).agg(percent)
    accuracies = {"validation accuracy [%]": [validation.converted.iloc[0], *validation.hybrid]}
    return _spreads(data, names, digits=1, **accuracies)


def activity_table(runs: DataFrame, trials: Iterable[str]) -> str:
    """Question d: spikes per neuron by layer, converted against hybrid at the same T and factor."""
    data, config = measurements(of_trials(runs, trials), SPIKES), runs.config.iloc[0]
    names = "T = " + data["T"].map(str) + ", " + data.surrogate
    spikes = data.assign(name=names).set_index(["name", "seed", "net", "layer"]).value.unstack(sort=False)
    count = sizes(config.data, config.network).neurons
    spikes["all neurons"] = (spikes * count).sum(axis=1) / count.sum()
    converted, hybrid = (spikes.xs(net, level="net") for net in ("converted", "hybrid"))
    kinds = {"converted": (converted, 3), "hybrid": (hybrid, 3), "converted / hybrid": (converted / hybrid, 2)}
    rows = [["spikes per neuron and image", *spikes.columns]]
    for name, (kind, (of_net, digits)) in product(names.unique(), kinds.items()):
        rows.append([f"{name}: {kind}", *of_net.loc[name].agg(spread, digits=digits)])
    return aligned(rows)


def operations_table(runs: DataFrame, trials: Iterable[str]) -> str:
    """Question d: accumulates of the SNN beside the ANN's multiply-accumulates, and where their energies are even."""
    macs, compared = macs_of(runs), ["of the ANN's", "energy of the ANN's", "energy even at T ="]
    rows = [[OF_AN_IMAGE, *macs.index, "all", *compared], ["ANN, MAC", *thousands(macs), "1", "1", ""]]
    for trial, net in product(trials, ("converted", "hybrid")):
        one = runs[runs.trial == trial]
        (accumulates, _, energy, _), t = image_cost(one, net), one["T"].iloc[0]
        shares = f"{accumulates.sum() / macs.sum():.2f}", f"{energy:.2f}", f"{t / energy:.0f}"
        rows.append([f"{net}, T = {t}, AC", *thousands(accumulates), *shares])
    return aligned(rows)


def of_recipes(runs: DataFrame) -> DataFrame:
    """The runs of question f with their net and recipe as columns, in the order of both and of T."""
    names = {f"{net}-{recipe}-t{t}": (net, recipe) for net, recipe, t in product(NETS, RECIPES, STEPS)}
    chosen = of_trials(runs, names)
    return chosen.join(DataFrame(chosen.trial.map(names).tolist(), columns=["net", "recipe"]))


def of_penalties(runs: DataFrame, num_steps: int) -> DataFrame:
    """The runs at one T without a penalty on rates, and with it, as a column."""
    chosen = of_trials(runs, [f"{QCFS_DIET}{num_steps}", *PENALTIES])
    return chosen.assign(penalty=chosen.config.map(lambda config: config.finetune.rate_penalty))


def accuracy_table(runs: DataFrame) -> str:
    """Test accuracy in % by net and recipe, and by seed how far the best recipe is from the ANN and from conversion."""
    rows = [["net", "", "ANN", *(f"T = {t}" for t in STEPS)]]
    for net, of_net in of_recipes(runs).groupby("net", sort=False):
        relu, qcfs = (_by_seed(runs, f"{net}-{activation}")["ann/accuracy"] for activation in ACTIVATIONS)
        rows += [[net, name, percent(ann), *[""] * len(STEPS)] for name, ann in (("ReLU", relu), ("QCFS", qcfs))]
        for recipe, one in of_net.groupby("recipe", sort=False):
            converted, hybrid = one["converted/accuracy"], one["hybrid/accuracy"]
            lines = {f"{recipe}, converted": converted} if activation_of(recipe) == "relu" else {}
            lines[recipe] = hybrid
            if recipe == "qcfs-diet":
                lines["qcfs-diet above the ReLU ANN"] = hybrid - one.seed.map(relu)
                lines["qcfs-diet above qcfs"] = hybrid - converted
            for name, values in lines.items():
                text = signed if "above" in name else percent
                rows.append([net, name, "", *(text(values[one["T"] == t]) for t in STEPS)])
    return aligned(rows)


def exit_table(runs: DataFrame) -> str:
    """Early exit: accuracy against the mean number of steps, the confidence chosen on validation."""
    groups = of_recipes(runs[runs["T"] > 1]).groupby(["net", "recipe", "T"], sort=False)
    table = groups.agg({"hybrid/accuracy": percent, "early_exit/accuracy": percent, "early_exit/steps": spread})
    return _markdown(table.set_axis(["accuracy at T [%]", "with early exit [%]", "steps on average"], axis=1))


def cost_table(runs: DataFrame) -> str:
    """Operations of training beside accuracy, those of the ANN in them."""
    rows = [["net", "recipe", "T", "ANN epochs", "SNN epochs", "operations [10^12 MAC]", "test accuracy [%]"]]
    for (*names, t), one in of_recipes(runs).groupby(["net", "recipe", "T"], sort=False):
        costs, (ann, snn) = operations_of_training(one.config.iloc[0]), one.iloc[0][["ann/epochs", "hybrid/epochs"]]
        total = (ann * costs["ann epoch"] + costs["conversion"] + snn * costs["snn epoch"]) / 1e12
        rows.append([*names, f"{t}", f"{ann:g}", f"{snn:g}", f"{total:.1f}", percent(one["hybrid/accuracy"])])
    return aligned(rows)


def energy_table(runs: DataFrame, net: str) -> str:
    """Spikes, operations by layer and energy of an image against the ANN's, with and without memory traffic."""
    chosen = of_recipes(runs).query("net == @net")
    macs, groups = macs_of(chosen), chosen.groupby(["recipe", "T"], sort=False)
    rows = [[OF_AN_IMAGE, *macs.index, *MEMORY], ["ANN, MAC", *thousands(macs), "", "1", "1"]]
    return aligned(rows + [[f"{recipe}, T = {t}", *_cells(one)] for (recipe, t), one in groups])


def rates_table(runs: DataFrame, num_steps: int) -> str:
    """A penalty on rates at one T: accuracy, and operations, spikes and energy of an image."""
    chosen = of_penalties(runs, num_steps)
    names = ["penalty", "accuracy [%]", *macs_of(chosen).index, *MEMORY]
    groups = chosen.groupby("penalty")
    return aligned([names] + [[f"{nats:g}", percent(one["hybrid/accuracy"]), *_cells(one)] for nats, one in groups])


def _cells(runs: DataFrame) -> list[str]:
    """Operations by layer and of all and spikes, in thousands, and energies."""
    operations, spikes, energy, with_memory = image_cost(runs)
    return [*thousands(operations), f"{spikes / 1e3:.1f}", f"{energy:.2f}", f"{with_memory:.2f}"]


def parts_table(runs: DataFrame, num_steps: int) -> str:
    """What each part of `qcfs-diet` adds at one T, by the seeds that have the weights by labels alone, above these."""
    rows = [["trained", "loss", "accuracy [%]", "above conversion", "above the weights alone"]]
    weights, (*by_labels, by_channel) = _by_seed(runs, "part-weights")["hybrid/accuracy"], PARTS
    for trial in (*by_labels, f"{QCFS_DIET}{num_steps}", by_channel):
        one = _by_seed(runs[runs.seed.isin(weights.index)], trial)
        accuracy, finetune = one["hybrid/accuracy"], one.config.iloc[0].finetune
        trained = "all" if finetune.trained == TRAINED else ", ".join(finetune.trained)
        what = trained + ", by channel" * finetune.by_channel, "labels" + ", logits" * bool(finetune.distillation)
        gains = accuracy - one["converted/accuracy"], accuracy - weights
        rows.append([*what, percent(accuracy), *map(signed, gains)])
    return aligned(rows)


def residuals_table(runs: DataFrame, num_steps: int) -> str:
    """`qcfs-diet` at one T with exact residuals and with a byte of each, and by seed their difference."""
    names = {"the fine-tuned net, validation [%]": "validation_accuracy", "the net that is kept, test [%]": "accuracy"}
    trials = f"{QCFS_DIET}{num_steps}", f"byte-t{num_steps}"
    rows = [["residuals", "exact", "byte", "byte above exact"]]
    for name, column in names.items():
        exact, byte = (_by_seed(runs, trial)[f"hybrid/{column}"] for trial in trials)
        rows.append([name, percent(exact), percent(byte), signed(byte - exact)])
    return aligned(rows)


def _by_seed(runs: DataFrame, trial: str) -> DataFrame:
    return runs[runs.trial == trial].set_index("seed")
