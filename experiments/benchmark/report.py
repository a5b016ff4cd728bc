"""The measurements as tables in Markdown."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.benchmark.problem import ANN, FLOOR, OURS, ROSTER, STEP_LOOP, SURROGATES
from experiments.reports.table import aligned

SHAPE = ["net", "batch", "num_steps", "surrogate"]
KEY = ["what", *SHAPE, "contestant"]
BYTES = ["peak_bytes", "device_peak_bytes", "temporaries_bytes"]
NUMBERS = ["first", "compile", *BYTES, "operations_per_second", "neurons"]
FACTS = ["rates", "thresholds", "why_not"]
MB, GB, MISSING = 1e6, 1e9, "-"
WHERE = {"net": "net", "batch": "B", "num_steps": "T", "contestant": "contestant"}  # columns and their headings
SPEED = {"per_second": "images/s", "ratio": "step loop's time over it"}
MEMORY = {"anns": "in steps of the ANN", "share": "share of the floor", "megabytes": "peak memory, MB"}
FIRST = {"first": "first step, s", "compile": "compiling in all, s"}
TRAINING = {**WHERE, "surrogate": "surrogate", "spread": "s per step (least to most)", **SPEED, **MEMORY, **FIRST}
EVALUATION = {**WHERE, "spread": "s per batch (least to most)", **SPEED}
RATIO = {"ratio": "layer by layer's time over it", "difference": "largest difference"}
BALANCING = {**WHERE, "contestant": "way", "spread": "s (least to most)", **RATIO}
WAYS = {OURS: "jsnn, in one pass", STEP_LOOP: "PyTorch, layer by layer"}
FORMS = {"per_second": ".1f", "ratio": ".2f", "anns": ".1f", "share": ".0%", "megabytes": ".0f"}
FORMS |= {"first": ".1f", "compile": ".1f"}


def medians(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Medians over all turns of a contestant, a row for each kind of work, net and shape; a record is a measurement."""
    frame = pd.DataFrame(records, columns=[*KEY, "seconds", *NUMBERS, *FACTS]).astype(dict.fromkeys(NUMBERS, float))
    turns = frame.groupby(KEY, sort=False)
    calls = frame.explode("seconds").astype({"seconds": float}).groupby(KEY, sort=False)["seconds"]
    rows = turns[NUMBERS].median().join(turns[FACTS].first())
    rows["repeated"] = calls.count() > 0
    for name, seconds in {"seconds": calls.median(), "least": calls.min(), "most": calls.max()}.items():
        rows[name] = seconds.fillna(rows["first"])  # out of patience, there is but the first call
    rows["peak"] = rows.device_peak_bytes.where(rows.device_peak_bytes > 0, rows.peak_bytes)
    return rows.reset_index()


def spiking(rows: pd.DataFrame) -> pd.DataFrame:
    """The training steps of spiking networks."""
    return rows[(rows.what == "train") & rows.rates.notna() & (rows.contestant != ANN)]


def markdown(rows: pd.DataFrame, absent: Sequence[str]) -> str:
    """All tables and notes, given the figures and who is not installed."""
    compared = _compared(rows)
    training, balancing, evaluation = (compared[compared.what == what] for what in ("train", "balance", "evaluate"))
    parts = [*_overviews(training), f"Training\n\n{_table(training, TRAINING)}", *_notes(rows)]
    parts += [f"Not installed, so absent: {', '.join(absent)}."] if absent else []
    if len(balancing):
        named = balancing.replace({"contestant": WAYS})
        parts.append(f"Balancing of thresholds, compilation included\n\n{_table(named, BALANCING)}")
    if len(evaluation):
        parts.append(f"Evaluation\n\n{_table(evaluation, EVALUATION)}")
    return "\n\n".join(parts) + "\n"


def _overviews(rows: pd.DataFrame) -> Iterator[str]:
    """A table for each net: a row for each contestant, and what a step takes in a column for each shape."""
    shapes = [f"B={row.batch}, T={row.num_steps}, {row.surrogate}" for row in rows.itertuples()]
    names = rows.contestant.where(rows.operations_per_second.isna(), FLOOR)
    rows = rows.assign(cell=[*map(_cell, rows.itertuples())], shape=shapes, contestant=names)
    for net, of_net in rows.groupby("net", sort=False):
        anns, snns = of_net[of_net.contestant == ANN], of_net[of_net.contestant != ANN]
        batches = snns.drop_duplicates("shape").set_index("shape").batch
        table = snns.pivot(index="contestant", columns="shape", values="cell").reindex(snns.contestant.unique())
        if len(anns):
            table.loc[ANN] = batches.map(anns.set_index("batch").cell)
        cells = [(name, *row.fillna(MISSING)) for name, row in table[batches.index].iterrows()]
        yield f"{net}: seconds per training step (peak memory)\n\n{aligned([('', *batches.index), *cells])}"


def _cell(row: Any) -> str:
    """The median of the seconds and the peak, or why there is none."""
    if not pd.isna(row.why_not):
        return row.why_not
    memory = [] if pd.isna(row.peak) else [f"({row.peak / GB:.2f} GB)"]
    return " ".join([f"{row.seconds:.2f}" if row.repeated else f"once {row.first:.1f}", *memory])


def _compared(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the columns of the tables, beside the step loop and the floor; empty for who did not finish."""
    finished = rows[rows.why_not.isna()]
    loop = finished[finished.contestant == STEP_LOOP].set_index(KEY[:-1])[["seconds", "thresholds"]].add_prefix("loop_")
    floor = finished[finished.contestant == FLOOR].set_index(SHAPE).seconds.rename("floor")
    ann = finished[finished.contestant == ANN].set_index(SHAPE[:2]).seconds.rename("ann")
    rows = rows.join(loop, on=KEY[:-1]).join(floor, on=SHAPE).join(ann, on=SHAPE[:2])
    rows.loc[rows.why_not.notna(), ["seconds", "first", "compile", "peak", "thresholds"]] = math.nan
    spread = [f"{row.seconds:.3f} ({row.least:.3f} to {row.most:.3f})" for row in rows.itertuples()]
    rows["spread"] = rows.why_not.astype(object).where(rows.why_not.notna(), spread)
    rows["per_second"], rows["ratio"] = rows.batch / rows.seconds, rows.loop_seconds / rows.seconds
    training = rows.what == "train"
    rows["anns"] = (rows.seconds / rows.ann).where(training)
    rows["share"] = (rows.floor / rows.seconds).where(training)
    rows["megabytes"] = rows.peak / MB
    rate = (rows.operations_per_second / 1e9).map("floor: plain products at {:.0f} GFLOP/s".format)  # jsnn's are fewer
    rows["contestant"] = rows.contestant.where(rows.operations_per_second.isna(), rate)
    both = rows[rows.thresholds.notna() & rows.loop_thresholds.notna()]
    pairs = (map(pd.Series, pair) for pair in zip(both.thresholds, both.loop_thresholds, strict=True))
    rows["difference"] = pd.Series([f"{(one / other - 1).abs().max():.1e}" for one, other in pairs], both.index, object)
    return rows


def _table(rows: pd.DataFrame, headings: Mapping[str, str]) -> str:
    columns = [[MISSING if pd.isna(x) else format(x, FORMS.get(name, "")) for x in rows[name]] for name in headings]
    return aligned([tuple(headings.values()), *zip(*columns, strict=True)])


def _notes(rows: pd.DataFrame) -> Iterator[str]:
    """Firing rates, temporaries and the growth of memory."""
    for surrogate in SURROGATES:
        nearest = {name: entry.surrogates.get(surrogate, surrogate) for name, entry in ROSTER.items()}
        named = [f"{name} {own}" for name, own in nearest.items() if own != surrogate and name in {*rows.contestant}]
        yield f"{surrogate}: {', '.join(named)}; all others as it is." if named else f"{surrogate}: all as it is."
    for net, of_net in spiking(rows).groupby("net", sort=False):
        rates = pd.DataFrame([*of_net.rates], pd.MultiIndex.from_frame(of_net[[*SHAPE, "contestant"]]))  # by layer
        by_shape = rates.groupby(SHAPE, sort=False)
        _, first = next(iter(by_shape))
        each = ", ".join(f"{name} {mean:.3f}" for (*_, name), mean in first.mean(axis=1).items())
        worst = (by_shape.max() / by_shape.min()).fillna(math.inf).max(axis=None)
        yield f"{net}: spikes per neuron and step, mean of all layers: {each}; within a factor of {worst:.2f} in each."
        ours = of_net[of_net.contestant == OURS]
        if len(ours):
            of_shape = "{0.batch}, T={0.num_steps}, {0.surrogate}".format
            each = (f"{row.temporaries_bytes / MB:.0f} MB at B={of_shape(row)}" for row in ours.itertuples())
            yield f"{net}: temporaries of jsnn's compiled step: {', '.join(each)}."
        for (batch, surrogate), lengths in ours.groupby(["batch", "surrogate"], sort=False):
            *_, short, long = [None, *lengths.sort_values("num_steps").itertuples()]
            if short:
                grown, steps = long.temporaries_bytes - short.temporaries_bytes, long.num_steps - short.num_steps
                bits, span = 8 * grown / (long.neurons * batch * steps), f"T={short.num_steps} to {long.num_steps}"
                yield f"{net}: they grow by {bits:.2f} bits per neuron and step at B={batch} from {span}, {surrogate}."
