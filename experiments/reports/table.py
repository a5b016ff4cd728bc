"""Results as a Markdown table like the paper's, and tables in the text of a page."""

import re
from collections.abc import Mapping, Sequence

from experiments.config import from_json
from experiments.fields import Config
from experiments.runs.workdir import CONVERTED, Results

BLOCK = re.compile(r"(<!-- (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADER = ("net, data", "ANN", "converted, factor 1, {eval}", "converted at T (factor)", "hybrid at T", "T", "epochs")


def markdown(runs: Sequence[Results]) -> str:
    """One row per finished run: accuracies on the test split in %, with their spread over Poisson streams."""
    lengths = {results["config"]["evaluate"]["eval_steps"] for results in runs}
    eval_steps = f"T={lengths.pop()}" if len(lengths) == 1 else "long T"
    return aligned([[name.format(eval=eval_steps) for name in HEADER], *map(_row, runs)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the header first, as a Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    first, *others = (f"| {line} |" for line in lines)
    return "\n".join([first, rule, *others])


def with_tables(text: str, by_name: Mapping[str, str]) -> str:
    """The page's text with each table from `<!-- NAME -->` to `<!-- end -->`; ValueError where either is alone."""
    names = {name for _, name, _ in BLOCK.findall(text)}
    if names != set(by_name):
        raise ValueError(f"the page must have one block for each of {', '.join(by_name)}, it has {', '.join(names)}.")
    return BLOCK.sub(lambda match: match[1] + by_name[match[2]] + "\n" + match[3], text)


def title(config: Config) -> str:
    """A short name of a run's network and data set, with what differs from the paper's way."""
    name = config.network.architecture.upper().replace("RESNET", "ResNet")
    width = "" if config.network.width == 1 else f" x{config.network.width:g}"
    control = " from scratch" if config.finetune.start == "scratch" else ""
    own = [] if config.network.levels is None else ["QCFS"]
    if set(config.finetune.trained) - {"weights"}:
        own.append("neurons trained")
    elif config.finetune.trained and config.finetune.surrogate != "stdb":
        own.append(config.finetune.surrogate)
    rules = f" ({', '.join(own)})" if own else ""
    return f"{name}{width}, {config.data.dataset}{control}{rules}"


def _row(results: Results) -> tuple[str, ...]:
    config = from_json(results["config"])
    ann, converted, hybrid = results["ann"], results["converted"], results["hybrid"]
    return (
        title(config),
        f"{ann['accuracy']:.2%}",
        f"{converted['accuracy_by_step_at_factor_1'][-1]:.2%}",
        f"{_spread(converted)} ({converted['scaling_factor']:g})",
        _spread(hybrid) + (" (converted net kept)" if hybrid["kept"] == CONVERTED else ""),
        str(config.convert.num_steps),
        str(hybrid["epochs"]),
    )


def _spread(scores: Results) -> str:
    return f"{scores['accuracy']:.2%}" + (f" ± {100 * std:.2f}" if (std := scores["accuracy_std"]) else "")
