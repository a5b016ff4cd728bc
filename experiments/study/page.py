"""experiments/README.md: its tables and plots, made from the results that are kept."""

from pathlib import Path

from pandas import DataFrame

from experiments.reports.plots import sheet
from experiments.reports.table import with_tables
from experiments.runs.files import replace_text
from experiments.study import few_tables, figures, tables
from experiments.study.plan import CIFAR, CIFAR_FEW, FASHION, FASHION_FEW
from experiments.study.results import read_runs

PAGE = Path(__file__).parent.parent / "README.md"
PLOTS = {
    "conversion-fashion": (figures.draw_conversion, FASHION),
    "conversion-cifar": (figures.draw_conversion, CIFAR),
    "scratch-fashion": (figures.draw_scratch, FASHION, 4),
    "scratch-cifar": (figures.draw_scratch, CIFAR, 8),
    "harms": (figures.draw_harms, FASHION),
    "evaluation": (figures.draw_evaluation, FASHION),
    "few-cifar": (figures.draw_few_steps, CIFAR_FEW),
    "few-fashion": (figures.draw_few_steps, FASHION_FEW),
    "penalties-fashion": (figures.draw_penalties, FASHION_FEW, 4),
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
    "few-cifar": (few_tables.accuracy_table, CIFAR_FEW),
    "few-fashion": (few_tables.accuracy_table, FASHION_FEW),
    "parts-fashion": (few_tables.parts_table, FASHION_FEW, 2),
    "parts-cifar": (few_tables.parts_table, CIFAR_FEW, 2),
    "rates-fashion": (few_tables.rates_table, FASHION_FEW, 4),
    "residuals-fashion": (few_tables.residuals_table, FASHION_FEW, 8),
    "exit-cifar": (few_tables.exit_table, CIFAR_FEW),
    "cost-cifar": (few_tables.cost_table, CIFAR_FEW),
    "energy-cifar": (few_tables.energy_table, CIFAR_FEW, "vgg5"),
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
