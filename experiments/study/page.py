"""experiments/README.md: its tables and plots, made from the results that are kept."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments.study.page_activity import activity_table, operations_table
from experiments.study.page_conversion import conversion_table, draw_conversion, draw_evaluation, evaluation_table
from experiments.study.page_paper import paper_table
from experiments.study.page_scratch import draw_scratch, scratch_table
from experiments.study.page_surrogates import (
    agreement_table,
    descent_table,
    draw_harms,
    silence_table,
    surrogates_table,
)
from jsnn.training.files import replace_text

PAGE = Path(__file__).parent.parent / "README.md"
FIGURES = "figures"
BLOCK = re.compile(r"(<!-- (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
FASHION = "fashion_mnist_cpu"
CIFAR = "cifar10_cpu"

TABLES: dict[str, Callable[[], str]] = {
    "paper": paper_table,
    "conversion-fashion": partial(conversion_table, FASHION),
    "conversion-cifar": partial(conversion_table, CIFAR),
    "scratch-fashion": partial(scratch_table, FASHION, 4),
    "scratch-cifar": partial(scratch_table, CIFAR, 8),
    "surrogates": partial(surrogates_table, FASHION),
    "descent": partial(descent_table, FASHION),
    "agreement": partial(agreement_table, FASHION),
    "silence": partial(silence_table, FASHION),
    "activity": partial(activity_table, FASHION, ("linear-t8", "linear-t4", "stdb-t4")),
    "operations": partial(operations_table, FASHION, ("linear-t4", "linear-t8")),
    "evaluation": partial(evaluation_table, FASHION),
}
PLOTS: dict[str, Callable[[Path], None]] = {
    "conversion-fashion": partial(draw_conversion, FASHION),
    "conversion-cifar": partial(draw_conversion, CIFAR),
    "scratch-fashion": partial(draw_scratch, FASHION, 4),
    "scratch-cifar": partial(draw_scratch, CIFAR, 8),
    "harms": partial(draw_harms, FASHION),
    "evaluation": partial(draw_evaluation, FASHION),
}


def rebuild(page: Path = PAGE) -> None:
    """Make all tables and plots of the page anew.

    Args:
        page: the Markdown file; its tables are replaced, beside it the plots go to figures/.

    Raises:
        ValueError: where a block's name is unknown or a table has no block.
    """
    replace_text(page, with_tables(page.read_text()))
    for name, draw in PLOTS.items():
        draw(page.parent / FIGURES / f"{name}.png")


def with_tables(text: str) -> str:
    """The page's text with its tables made anew.

    Args:
        text: Markdown; between `<!-- NAME -->` and `<!-- end -->` stands the table of that name.

    Raises:
        ValueError: where a block's name is unknown or a table has no block.
    """
    names = {name for _, name, _ in BLOCK.findall(text)}
    if names != set(TABLES):
        raise ValueError(f"the page must have one block for each of {', '.join(TABLES)}, it has {', '.join(names)}.")
    return BLOCK.sub(lambda found: found[1] + TABLES[found[2]]() + "\n" + found[3], text)
