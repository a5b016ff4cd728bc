"""The measurements as tables in Markdown: of each figure one, a row a contestant, a column for what it was measured on.

`rebuild` makes those of docs/benchmark.md, and its picture, from experiments/results/benchmark.csv: the benchmark.csv
of the run whose numbers we publish.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.benchmark import chart
from experiments.benchmark.roster import OURS
from experiments.reports.table import aligned, with_tables
from experiments.runs.files import replace_text

ROOT = Path(__file__).parents[2]
PAGE, PICTURE = ROOT / "docs" / "benchmark.md", ROOT / "experiments" / "benchmark.png"
PUBLISHED = ROOT / "experiments" / "results" / "benchmark.csv"
SHAPE = ["net", "batch", "num_steps", "surrogate"]
KEY = ["what", *SHAPE, "contestant"]
MEASURED = "first compile peak_bytes device_peak_bytes temporaries_bytes operations_per_second neurons".split()
FACTS = ["rates", "thresholds", "why_not"]
KEPT = [*KEY, "seconds", "first", "gigabytes", "images_per_second", "why_not"]  # columns of benchmark.csv
FIGURES = {  # a column -> its heading, and the format of a number
    "seconds": ("seconds", ".2f"),
    "gigabytes": ("peak memory, GB", ".2f"),
    "images_per_second": ("images/s", ".1f"),
    "slowest": ("slowest call over the median", ".2f"),
    "first": ("seconds of the first call", ".1f"),
    "compile": ("seconds of compiling, in all", ".1f"),
    "temporaries": ("temporaries of the compiled step, GB", ".3f"),
    "bits": ("bits that a neuron keeps of a time step more", ".2f"),
    "gflops": ("GFLOP/s of plain products", ".0f"),
    "rate": ("spikes per neuron and time step, mean of all layers", ".3f"),
    "agreement": ("largest factor between a layer's firing rate and jsnn's", ".2f"),
    "difference": ("largest difference of a threshold from jsnn's", ".1e"),
}
WORK = {"train": "Training", "evaluate": "Evaluation", "balance": "Balancing of thresholds, compilation included"}


def medians(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """All figures, a row for each contestant and what it was measured on; a record is one turn's measurement.

    Figures are medians over turns, seconds over all calls but the first, and missing for who did not finish.
    """
    frame = pd.DataFrame(records, columns=[*KEY, "seconds", *MEASURED, *FACTS]).astype(dict.fromkeys(MEASURED, float))
    turns = frame.groupby(KEY, sort=False)
    calls = frame.explode("seconds").astype({"seconds": float}).groupby(KEY, sort=False)["seconds"]
    rows = turns[MEASURED].median().join(turns[FACTS].first()).assign(seconds=calls.median(), slowest=calls.max())
    rows.loc[rows.why_not.notna(), [*MEASURED, "seconds", "slowest", "rates", "thresholds"]] = math.nan
    rows = rows.reset_index()
    rows["slowest"], rows["images_per_second"] = rows.slowest / rows.seconds, rows.batch / rows.seconds
    rows["gigabytes"] = rows.device_peak_bytes.where(rows.device_peak_bytes > 0, rows.peak_bytes) / 1e9
    rows["temporaries"], rows["gflops"] = rows.temporaries_bytes / 1e9, rows.operations_per_second / 1e9
    longer = rows.sort_values("num_steps").groupby(["what", "net", "batch", "surrogate", "contestant"])
    grown = longer[["temporaries_bytes", "num_steps"]].diff()
    rows["bits"] = 8 * grown.temporaries_bytes / (rows.neurons * rows.batch * grown.num_steps)
    rows["rate"] = [pd.Series(rates, dtype=float).mean() for rates in rows.rates]
    rows["agreement"] = _beside_ours(rows, "rates", lambda ratio: max(ratio.max(), 1 / ratio.min()))
    rows["difference"] = _beside_ours(rows, "thresholds", lambda ratio: (ratio - 1).abs().max())
    return rows


def _beside_ours(rows: pd.DataFrame, fact: str, compare: Callable[[pd.Series], float]) -> list[float]:
    """What a comparison makes of jsnn's value of each layer over the row's own; nothing where either has none."""
    ours = rows[rows.contestant == OURS].set_index(KEY[:-1])[fact].rename("ours")
    pairs = zip(rows.join(ours, on=KEY[:-1]).ours, rows[fact], strict=True)
    both = ((pd.Series(mine), pd.Series(its)) if isinstance(mine, dict) and its else None for mine, its in pairs)
    return [compare(pair[0] / pair[1]) if pair else math.nan for pair in both]


def markdown(rows: pd.DataFrame, absent: Sequence[str]) -> str:
    """All tables, given the figures and who is not installed."""
    parts = [
        f"{WORK[what]}, {net}: {heading}\n\n{by_shape(part, figure)}"
        for (what, net), part in rows.groupby(["what", "net"], sort=False)
        for figure, (heading, _) in FIGURES.items()
        if part[figure].notna().any()
    ]
    parts += [f"Not installed, so absent: {', '.join(absent)}."] if absent else []
    return "\n\n".join(parts) + "\n"


def by_shape(rows: pd.DataFrame, figure: str) -> str:
    """The table of a figure of one net, a column for each batch, number of time steps and surrogate that has it."""
    rows = rows[rows.groupby(SHAPE)[figure].transform("count") > 0]
    shapes = [f"B={row.batch}, T={row.num_steps}, {row.surrogate}".rstrip(", ") for row in rows.itertuples()]
    rows = rows.assign(shape=shapes, cell=[_cell(row, figure) for row in rows.itertuples()])
    table = rows.pivot(index="contestant", columns="shape", values="cell").fillna("")
    table = table.loc[[name for name in rows.contestant.unique() if any(table.loc[name])], [*dict.fromkeys(shapes)]]
    return aligned([("", *table.columns), *((name, *cells) for name, *cells in table.itertuples())])


def _cell(row: Any, figure: str) -> str:
    """A number, or why there is none."""
    value, form = getattr(row, figure), FIGURES[figure][1]
    if pd.notna(value):
        return format(value, form)
    if figure == "seconds" and pd.notna(row.first):
        return f"once {row.first:.1f}"  # out of patience, it was not called again
    return "" if pd.isna(row.why_not) else row.why_not


def rebuild(page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Make the tables and the picture of the page anew; ValueError where it lacks the place of a table."""
    rows = pd.read_csv(PUBLISHED).fillna({"surrogate": ""})
    shown = {"seconds": "train", "gigabytes": "train", "images_per_second": "evaluate"}
    tables = {figure: by_shape(rows[rows.what == what], figure) for figure, what in shown.items()}
    replace_text(page, with_tables(page.read_text(encoding="utf-8"), tables))
    chart.draw(rows, picture)
