"""The plots of experiments/README.md, from the same measurements as its tables."""

from statistics import mean

from matplotlib.axes import Axes
from pandas import DataFrame, Series

from experiments.reports.plots import finish_time_axis
from experiments.study import results
from experiments.study.conversion import LONG
from experiments.study.few_tables import of_penalties, of_recipes
from experiments.study.image_costs import image_cost
from experiments.study.plan import HARMS

STYLES = {  # net -> line, colour
    "converted, maximum, factor 1": ("-", "tab:cyan"),
    "converted, maximum, best factor": ("-", "tab:blue"),
    "converted, 99.7 percentile, factor 1": ("--", "tab:cyan"),
    "converted, 99.7 percentile, best factor": ("--", "tab:blue"),
    "hybrid, STDB": ("-", "tab:red"),
    "hybrid, linear": ("-", "tab:orange"),
    "from scratch, STDB": ("--", "tab:blue"),
    "from scratch, linear": ("--", "tab:green"),
    "from scratch, linear, twice as long": (":", "tab:olive"),
    "from scratch, linear, three times as long": ("-.", "tab:brown"),
}
SHOWN = 15  # points below the ANNs; nets of too few time steps would fill a plot


def draw_conversion(axes: Axes, runs: DataFrame) -> None:
    """Question a: accuracy of converted and hybrid nets against time steps."""
    axes.set_title(f"{runs.preset.iloc[0]}: test accuracy against time steps", fontsize=10)
    anns = runs[runs.trial == "conversion"]
    accuracy, for_long = _draw_ann(axes, anns["ann/accuracy"]), 100 * mean(anns["ann/accuracy_for_long"])
    label = f"ANN on the images from T = {min(LONG)} on, {for_long:.1f} %"
    axes.plot((min(LONG), max(LONG)), (for_long, for_long), color="0.35", linestyle="-.", label=label)
    means = 100 * results.against_steps(runs).groupby(["net", "T"]).accuracy.agg(mean)
    for name, (style, color) in STYLES.items():
        if name in means:
            marker = "o" if name in results.HYBRIDS.values() else "."
            axes.plot(means[name], style, marker=marker, color=color, label=name)
    finish_time_axis(axes, (accuracy - SHOWN, None), fontsize=7, handlelength=3)


def draw_few_steps(axes: Axes, runs: DataFrame) -> None:
    """Question f: accuracy of the small VGG5 at few time steps, by recipe."""
    axes.set_title(f"{runs.preset.iloc[0]}: test accuracy against time steps", fontsize=10)
    _draw_ann(axes, runs[runs.trial == "vgg5-relu"]["ann/accuracy"])
    nets = of_recipes(runs)
    for recipe, of_recipe in nets[nets.net == "vgg5"].groupby("recipe", sort=False):
        means = 100 * of_recipe.groupby("T")["hybrid/accuracy"].agg(mean)
        axes.plot(means, marker="o", label=recipe)
    finish_time_axis(axes, (None, None), fontsize=7, handlelength=3)


def draw_penalties(axes: Axes, runs: DataFrame, num_steps: int) -> None:
    """Question f: accuracy against spikes of an image, with fewer steps or a penalty on rates at one T."""
    axes.set_title(f"{runs.preset.iloc[0]}: test accuracy against spikes", fontsize=10)
    _draw_ann(axes, runs[runs.trial == "vgg5-relu"]["ann/accuracy"])
    nets = of_recipes(runs)
    fewer_steps = nets[(nets.net == "vgg5") & (nets.recipe == "qcfs-diet") & (nets["T"] <= num_steps)]
    penalties = of_penalties(runs, num_steps)
    for label, some, by, name, offset in (
        ("qcfs-diet", fewer_steps, "T", "T = {:g}", (-4, -12)),
        (f"qcfs-diet, T = {num_steps}, penalty on rates", penalties, "penalty", "{:g}", (-4, 7)),
    ):
        groups = [one for _, one in some.groupby(by)]
        spikes, accuracies = zip(*(_spikes_and_accuracy(one) for one in groups), strict=True)
        axes.plot(spikes, accuracies, marker="o", label=label)
        for x, y, one in zip(spikes, accuracies, groups, strict=True):
            axes.annotate(name.format(one[by].iloc[0]), (x, y), xytext=offset, textcoords="offset points", fontsize=7)
    axes.margins(y=0.1)
    axes.set(xlabel="spikes of an image [10^3]", ylabel="test accuracy [%]")
    axes.legend(fontsize=7)


def _spikes_and_accuracy(runs: DataFrame) -> tuple[float, float]:
    """Means over seeds: thousands of spikes of an image, accuracy in %."""
    return image_cost(runs).spikes / 1e3, 100 * runs["hybrid/accuracy"].mean()


def draw_evaluation(axes: Axes, runs: DataFrame) -> None:
    """Question e: accuracy against the steps of evaluation, for nets trained at one T each."""
    axes.set_title(f"{runs.preset.iloc[0]}: trained at one T (dot), evaluated at others", fontsize=10)
    runs = results.hybrid_trials(runs)
    accuracy = _draw_ann(axes, runs.drop_duplicates(["seed", "ann/accuracy"])["ann/accuracy"])  # a seed may have two
    by_step = results.measurements(runs, "(?P<net>.+)/accuracy_by_step").groupby(["net", "surrogate", "T", "step"])
    means, trained = 100 * by_step.value.agg(mean), 100 * runs.groupby(["surrogate", "T"])["hybrid/accuracy"].agg(mean)
    colors = {t: f"C{i}" for i, t in enumerate(sorted(set(runs["T"])))}
    for (surrogate, t), accuracy_at_t in trained.items():
        style = {"stdb": "-", "linear": "--"}[surrogate]
        axes.plot(means["hybrid", surrogate, t], style, color=colors[t], label=f"{surrogate}, T = {t}")
        axes.plot(t, accuracy_at_t, "o", color=colors[t])
        if surrogate == "linear":
            label = f"converted, best factor for T = {t}"
            axes.plot(means["converted", surrogate, t], ":", color=colors[t], label=label)
    finish_time_axis(axes, (accuracy - SHOWN, None), fontsize=7, handlelength=3)


def _draw_ann(axes: Axes, accuracies: Series) -> float:
    """A line at the mean accuracy [%] of ANNs, which is returned."""
    accuracy = 100 * mean(accuracies)
    axes.axhline(accuracy, color="0.35", linestyle=":", label=f"ANN, {accuracy:.1f} %")
    return accuracy


def draw_scratch(axes: Axes, runs: DataFrame, num_steps: int) -> None:
    """Question b: validation error against the operations of training, a line for each seed."""
    axes.set_title(f"{runs.preset.iloc[0]}: learning curves, a line for each seed")
    for name, of_name in results.scratch_trials(runs, num_steps).items():
        style, color = STYLES[name]
        for i, (_, run) in enumerate(of_name.iterrows()):
            errors, label = 100 * (1 - results.by_operations(run)), None if i else name
            axes.plot(errors, style, marker=".", color=color, label=label, linewidth=1)
    axes.set_xlabel("operations of training, with those of the ANN and the conversion [10^12 MAC]")
    axes.set(yscale="log", ylabel=f"validation error at T = {num_steps} [%]")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(fontsize=8)


def draw_harms(axes: Axes, runs: DataFrame) -> None:
    """Question c: what fine-tuning adds to the converted net's validation accuracy by epoch, a line for each seed."""
    axes.set_title(f"{runs.preset.iloc[0]}, T = 4: where fine-tuning harms, a line for each seed", fontsize=10)
    for name in HARMS:
        style = "--" if name.endswith("-fast") else "-"
        for i, (_, run) in enumerate(runs[runs.trial == name].iterrows()):
            label, (_, color) = None if i else run.finetune, STYLES[results.HYBRIDS[run.surrogate]]
            curve = results.learning_curve(run)
            axes.plot(100 * (curve - curve[0]), style, marker="o", markersize=4, color=color, label=label)
    axes.axhline(0, color="0.35", linestyle=":", label="converted")
    axes.set_xlabel("epochs of fine-tuning at a constant rate")
    axes.set_ylabel("validation accuracy above the converted net's [points]")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8)
