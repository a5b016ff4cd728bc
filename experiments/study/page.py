"""experiments/README.md: its tables and plots, made from the results that are kept."""

from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from pandas import DataFrame, Series

from experiments.reports.plots import finish_time_axis, sheet
from experiments.reports.table import with_tables
from experiments.runs.files import replace_text
from experiments.study import tables
from experiments.study.costs import by_operations, image_cost, learning_curve
from experiments.study.plan import CIFAR, CIFAR_FEW, FASHION, FASHION_FEW, HARMS, NARROW
from experiments.study.results import measurements, read_runs
from experiments.study.tables import HYBRIDS, against_steps, hybrid_trials, of_penalties, of_recipes, scratch_trials
from experiments.study.work import LONG

PAGE = Path(__file__).parent.parent / "README.md"
NETS = [*tables.CONVERTED_NETS, *HYBRIDS.values(), *tables.SCRATCH.values()]
LINES, COLORS = "- - -- -- - - -- -- : -.".split(), "cyan blue cyan blue red orange blue green olive brown".split()
STYLES = {net: (line, f"tab:{color}") for net, line, color in zip(NETS, LINES, COLORS, strict=True)}
SHOWN = 15  # points below the ANNs; nets of too few time steps would fill a plot


def draw_conversion(axes: Axes, runs: DataFrame) -> None:
    """Question a: accuracy of converted and hybrid nets against time steps."""
    anns = runs[runs.trial == "conversion"]
    accuracy, for_long = _begin(axes, runs, anns["ann/accuracy"]), 100 * mean(anns["ann/accuracy_for_long"])
    label = f"ANN on the images from T = {min(LONG)} on, {for_long:.1f} %"
    axes.plot((min(LONG), max(LONG)), (for_long, for_long), color="0.35", linestyle="-.", label=label)
    means = 100 * against_steps(runs).groupby(["net", "T"]).accuracy.agg(mean)
    for name, (style, color) in STYLES.items():
        if name in means:
            marker = "o" if name in HYBRIDS.values() else "."
            axes.plot(means[name], style, marker=marker, color=color, label=name)
    finish_time_axis(axes, (accuracy - SHOWN, None), fontsize=7, handlelength=3)


def draw_few_steps(axes: Axes, runs: DataFrame) -> None:
    """Question f: accuracy of the small VGG5 at few time steps, by recipe."""
    _begin(axes, runs, runs[runs.trial == f"{NARROW}-relu"]["ann/accuracy"])
    for recipe, of_recipe in of_recipes(runs).query("net == @NARROW").groupby("recipe", sort=False):
        axes.plot(100 * of_recipe.groupby("T")["hybrid/accuracy"].agg(mean), marker="o", label=recipe)
    finish_time_axis(axes, (None, None), fontsize=7, handlelength=3)


def draw_penalties(axes: Axes, runs: DataFrame, num_steps: int) -> None:
    """Question f: accuracy against spikes of an image, with fewer steps or a penalty on rates at one T."""
    _begin(axes, runs, runs[runs.trial == f"{NARROW}-relu"]["ann/accuracy"], "test accuracy against spikes")
    fewer_steps = of_recipes(runs).query("net == @NARROW and recipe == 'qcfs-diet' and T <= @num_steps")
    penalized = of_penalties(runs, num_steps).groupby("penalty")
    for label, groups, name, offset in (
        ("qcfs-diet", fewer_steps.groupby("T"), "T = {:g}", (-4, -12)),
        (f"qcfs-diet, T = {num_steps}, penalty on rates", penalized, "{:g}", (-4, 7)),
    ):
        points = [(image_cost(one)[1] / 1e3, 100 * one["hybrid/accuracy"].mean()) for _, one in groups]
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
        for at, point in zip(groups.groups, points, strict=True):
            axes.annotate(name.format(at), point, xytext=offset, textcoords="offset points", fontsize=7)
    axes.margins(y=0.1)
    axes.set(xlabel="spikes of an image [10^3]", ylabel="test accuracy [%]")
    axes.legend(fontsize=7)


def draw_evaluation(axes: Axes, runs: DataFrame) -> None:
    """Question e: accuracy against the steps of evaluation, for nets trained at one T each."""
    nets, colors = hybrid_trials(runs), {t: f"C{i}" for i, t in enumerate(sorted(set(hybrid_trials(runs)["T"])))}
    anns = nets.drop_duplicates(["seed", "ann/accuracy"])["ann/accuracy"]  # a seed may have two
    accuracy = _begin(axes, runs, anns, "trained at one T (dot), evaluated at others")
    by_step = measurements(nets, "(?P<net>.+)/accuracy_by_step").groupby(["net", "surrogate", "T", "step"])
    means, trained = 100 * by_step.value.agg(mean), 100 * nets.groupby(["surrogate", "T"])["hybrid/accuracy"].agg(mean)
    for (surrogate, t), accuracy_at_t in trained.items():
        style = {"stdb": "-", "linear": "--"}[surrogate]
        axes.plot(means["hybrid", surrogate, t], style, color=colors[t], label=f"{surrogate}, T = {t}")
        axes.plot(t, accuracy_at_t, "o", color=colors[t])
        if surrogate == "linear":
            label = f"converted, best factor for T = {t}"
            axes.plot(means["converted", surrogate, t], ":", color=colors[t], label=label)
    finish_time_axis(axes, (accuracy - SHOWN, None), fontsize=7, handlelength=3)


def _begin(axes: Axes, runs: DataFrame, anns: Series, what: str = "test accuracy against time steps") -> float:
    """The title and a line at the mean accuracy [%] of ANNs, which is returned."""
    axes.set_title(f"{runs.preset.iloc[0]}: {what}", fontsize=10)
    accuracy = 100 * mean(anns)
    axes.axhline(accuracy, color="0.35", linestyle=":", label=f"ANN, {accuracy:.1f} %")
    return accuracy


def draw_scratch(axes: Axes, runs: DataFrame, num_steps: int) -> None:
    """Question b: validation error against the operations of training, a line for each seed."""
    axes.set_title(f"{runs.preset.iloc[0]}: learning curves, a line for each seed")
    for name, of_name in scratch_trials(runs, num_steps).items():
        style, color = STYLES[name]
        for i, (_, run) in enumerate(of_name.iterrows()):
            errors, label = 100 * (1 - by_operations(run)), None if i else name
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
            label, (_, color), curve = None if i else run.finetune, STYLES[HYBRIDS[run.surrogate]], learning_curve(run)
            axes.plot(100 * (curve - curve[0]), style, marker="o", markersize=4, color=color, label=label)
    axes.axhline(0, color="0.35", linestyle=":", label="converted")
    axes.set_xlabel("epochs of fine-tuning at a constant rate")
    axes.set_ylabel("validation accuracy above the converted net's [points]")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8)


PLOTS = {
    "conversion-fashion": (draw_conversion, FASHION),
    "conversion-cifar": (draw_conversion, CIFAR),
    "scratch-fashion": (draw_scratch, FASHION, 4),
    "scratch-cifar": (draw_scratch, CIFAR, 8),
    "harms": (draw_harms, FASHION),
    "evaluation": (draw_evaluation, FASHION),
    "few-cifar": (draw_few_steps, CIFAR_FEW),
    "few-fashion": (draw_few_steps, FASHION_FEW),
    "penalties-fashion": (draw_penalties, FASHION_FEW, 4),
}
TABLES = {
    "conversion-fashion": (tables.conversion_table, FASHION),
    "conversion-cifar": (tables.conversion_table, CIFAR),
    "scratch-fashion": (tables.scratch_table, FASHION, 4),
    "scratch-cifar": (tables.scratch_table, CIFAR, 8),
    "surrogates": (tables.surrogates_table, FASHION),
    "descent": (tables.descent_table, FASHION),
    "agreement": (tables.agreement_table, FASHION),
    "silence": (tables.silent_neurons_table, FASHION),
    "activity": (tables.activity_table, FASHION, ("linear-t8", "linear-t4", "stdb-t4")),
    "operations": (tables.operations_table, FASHION, ("linear-t4", "linear-t8")),
    "evaluation": (tables.evaluation_table, FASHION),
    "few-cifar": (tables.accuracy_table, CIFAR_FEW),
    "few-fashion": (tables.accuracy_table, FASHION_FEW),
    "parts-fashion": (tables.parts_table, FASHION_FEW, 2),
    "parts-cifar": (tables.parts_table, CIFAR_FEW, 2),
    "rates-fashion": (tables.rates_table, FASHION_FEW, 4),
    "residuals-fashion": (tables.residuals_table, FASHION_FEW, 8),
    "exit-cifar": (tables.exit_table, CIFAR_FEW),
    "cost-cifar": (tables.cost_table, CIFAR_FEW),
    "energy-cifar": (tables.energy_table, CIFAR_FEW, NARROW),
}


def rebuild(page: Path = PAGE) -> None:
    """Make all tables of a Markdown file anew, and all plots in figures/ beside it; ValueError as `with_tables`."""
    runs = read_runs()
    replace_text(page, with_tables(page.read_text(), tables_of(runs)))
    for name, (draw, preset, *options) in PLOTS.items():
        with sheet(page.parent / "figures" / f"{name}.png") as axes:
            draw(axes, runs[runs.preset == preset], *options)


def tables_of(runs: DataFrame) -> dict[str, str]:
    """All tables of the page by name."""
    of_presets = {name: make(runs[runs.preset == preset], *more) for name, (make, preset, *more) in TABLES.items()}
    return {"paper": tables.paper_table(runs), **of_presets}
