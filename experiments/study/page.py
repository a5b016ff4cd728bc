"""experiments/README.md: its tables and plots, made from the results that are kept."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pandas import DataFrame

from experiments.runs.files import replace_text
from experiments.study import figures, tables
from experiments.study.results import measurements

PAGE = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"(<!-- (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
FASHION, CIFAR = "fashion_mnist_cpu", "cifar10_cpu"

TABLES: dict[str, tuple[str | None, Callable[[DataFrame], str]]] = {  # preset, None for all of them, and table
    "paper": (None, tables.paper_table),
    "conversion-fashion": (FASHION, tables.conversion_table),
    "conversion-cifar": (CIFAR, tables.conversion_table),
    "scratch-fashion": (FASHION, partial(tables.scratch_table, num_steps=4)),
    "scratch-cifar": (CIFAR, partial(tables.scratch_table, num_steps=8)),
    "surrogates": (FASHION, tables.surrogates_table),
    "descent": (FASHION, tables.descent_table),
    "agreement": (FASHION, tables.agreement_table),
    "silence": (FASHION, tables.silence_table),
    "activity": (FASHION, partial(tables.activity_table, trials=("linear-t8", "linear-t4", "stdb-t4"))),
    "operations": (FASHION, partial(tables.operations_table, trials=("linear-t4", "linear-t8"))),
    "evaluation": (FASHION, tables.evaluation_table),
}
PLOTS: dict[str, tuple[str, Callable[..., None]]] = {
    "conversion-fashion": (FASHION, figures.draw_conversion),
    "conversion-cifar": (CIFAR, figures.draw_conversion),
    "scratch-fashion": (FASHION, partial(figures.draw_scratch, num_steps=4)),
    "scratch-cifar": (CIFAR, partial(figures.draw_scratch, num_steps=8)),
    "harms": (FASHION, figures.draw_harms),
    "evaluation": (FASHION, figures.draw_evaluation),
}


def rebuild(page: Path = PAGE) -> None:
    """Make all tables of a Markdown file anew, and all plots in figures/ beside it, from the kept results.

    Raises:
        ValueError: where a block's name is unknown or a table has no block.
    """
    data = measurements()
    replace_text(page, with_tables(page.read_text(), data))
    for name, (preset, draw) in PLOTS.items():
        draw(data[data.preset == preset], preset, path=page.parent / "figures" / f"{name}.png")


def with_tables(text: str, data: DataFrame) -> str:
    """The page's text with its tables made anew from measurements.

    Raises:
        ValueError: where a block's name is unknown or a table has no block; one stands between `<!-- NAME -->` and
            `<!-- end -->`.
    """
    names = {name for _, name, _ in BLOCK.findall(text)}
    if names != set(TABLES):
        raise ValueError(f"the page must have one block for each of {', '.join(TABLES)}, it has {', '.join(names)}.")

    def block(match: re.Match) -> str:
        preset, table = TABLES[match[2]]
        return match[1] + table(data if preset is None else data[data.preset == preset]) + "\n" + match[3]

    return BLOCK.sub(block, text)
