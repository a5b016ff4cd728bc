"""The measurements as tables in Markdown and as a plot."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.benchmark.problem import FLOOR, OURS, ROSTER, STEP_LOOP
from experiments.reports.plots import sheet
from experiments.reports.table import aligned

SHAPE = ["net", "batch", "num_steps"]
KEY = ["what", *SHAPE, "contestant"]
BYTES = ["peak_bytes", "device_peak_bytes", "temporaries_bytes"]
NUMBERS = ["first", "compile", *BYTES, "operations_per_second", "neurons"]
FACTS = ["rates", "thresholds", "why_not"]
MB, GB, MISSING = 1e6, 1e9, "-"
WHERE = {"net": "net", "batch": "B", "num_steps": "T", "contestant": "contestant"}  # columns and their headings
SPEED = {"per_second": "images/s", "ratio": "step loop's time over it"}
MEMORY = {"share": "share of the floor", "megabytes": "peak memory, MB"}
FIRST = {"first": "first step, s", "compile": "compiling in all, s"}
TRAINING = {**WHERE, "spread": "s per step (least to most)", **SPEED, **MEMORY, **FIRST}
EVALUATION = {**WHERE, "spread": "s per batch (least to most)", **SPEED}
RATIO = {"ratio": "layer by layer's time over it", "difference": "largest difference"}
BALANCING = {**WHERE, "contestant": "way", "spread": "s (least to most)", **RATIO}
WAYS = {OURS: "jsnn, in one pass", STEP_LOOP: "PyTorch, layer by layer"}
FORMS = {"per_second": ".1f", "ratio": ".2f", "share": ".0%", "megabytes": ".0f", "first": ".1f", "compile": ".1f"}


def figures(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
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


def markdown(rows: pd.DataFrame, absent: Sequence[str]) -> str:
    """All tables and notes, given the figures and who is not installed."""
    compared = _compared(rows)
    training, balancing, evaluation = (compared[compared.what == what] for what in ("train", "balance", "evaluate"))
    parts = [f"Training\n\n{_table(training, TRAINING)}", *_notes(rows)]
    parts += [f"Not installed, so absent: {', '.join(absent)}."] if absent else []
    if len(balancing):
        named = balancing.replace({"contestant": WAYS})
        parts.append(f"Balancing of thresholds, compilation included\n\n{_table(named, BALANCING)}")
    if len(evaluation):
        parts.append(f"Evaluation\n\n{_table(evaluation, EVALUATION)}")
    return "\n\n".join(parts) + "\n"


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Seconds and memory of a training step, of the net and batch that were measured at the most numbers of steps."""
    training = rows[(rows.what == "train") & rows.rates.notna()].set_index(["net", "batch"])
    net, batch = training.groupby(level=[0, 1], sort=False).size().idxmax()
    shown = training.loc[[(net, batch)]].assign(gigabytes=lambda rows: rows.peak / GB)
    repeated = shown[shown.repeated]  # a first call alone is no fair time
    with sheet(path, ncols=2, sharex=True, figsize=(12, 4.4)) as (left, right):
        for axes, points, values in ((left, repeated, "seconds"), (right, shown, "gigabytes")):
            lines = points.pivot(index="num_steps", columns="contestant", values=values)
            for i, name in enumerate(ROSTER):
                if name in lines:
                    style = {"color": "black", "linewidth": 3, "zorder": 3} if name == OURS else {"color": f"C{i}"}
                    axes.plot(lines[name].dropna(), marker="o", label=name, **style)
            axes.loglog(base=2)
            axes.set_xticks(lines.index, map(str, lines.index))
            axes.minorticks_off()
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set(xlabel="time steps of the presentation", title=f"{net.upper()}, batch of {batch}")
        left.set_ylabel("seconds per training step")
        right.set_ylabel("peak memory of a training step [GB]")
        right.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)


def _compared(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the columns of the tables, beside the step loop and the floor; empty for who did not finish."""
    finished = rows[rows.why_not.isna()]
    loop = finished[finished.contestant == STEP_LOOP].set_index(KEY[:-1])[["seconds", "thresholds"]].add_prefix("loop_")
    floor = finished[finished.contestant == FLOOR].set_index(SHAPE).seconds.rename("floor")
    rows = rows.join(loop, on=KEY[:-1]).join(floor, on=SHAPE)
    rows.loc[rows.why_not.notna(), ["seconds", "first", "compile", "peak", "thresholds"]] = math.nan
    spread = [f"{row.seconds:.3f} ({row.least:.3f} to {row.most:.3f})" for row in rows.itertuples()]
    rows["spread"] = rows.why_not.astype(object).where(rows.why_not.notna(), spread)
    rows["per_second"], rows["ratio"] = rows.batch / rows.seconds, rows.loop_seconds / rows.seconds
    rows["share"], rows["megabytes"] = (rows.floor / rows.seconds).where(rows.what == "train"), rows.peak / MB
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
    for net, of_net in rows[(rows.what == "train") & rows.rates.notna()].groupby("net", sort=False):
        rates = pd.DataFrame([*of_net.rates], pd.MultiIndex.from_frame(of_net[[*SHAPE, "contestant"]]))  # by layer
        by_shape = rates.groupby(SHAPE, sort=False)
        _, first = next(iter(by_shape))
        each = ", ".join(f"{name} {mean:.3f}" for (*_, name), mean in first.mean(axis=1).items())
        worst = (by_shape.max() / by_shape.min()).fillna(math.inf).max(axis=None)
        yield f"{net}: spikes per neuron and step, mean of all layers: {each}; within a factor of {worst:.2f} in each."
        ours = of_net[of_net.contestant == OURS]
        if len(ours):
            each = (f"{r.temporaries_bytes / MB:.0f} MB at B={r.batch}, T={r.num_steps}" for r in ours.itertuples())
            yield f"{net}: temporaries of jsnn's compiled step: {', '.join(each)}."
        for batch, of_batch in ours.groupby("batch", sort=False):
            *_, short, long = [None, *of_batch.sort_values("num_steps").itertuples()]
            if short:
                grown, steps = long.temporaries_bytes - short.temporaries_bytes, long.num_steps - short.num_steps
                bits, span = 8 * grown / (long.neurons * batch * steps), f"T={short.num_steps} to {long.num_steps}"
                yield f"{net}: they grow by {bits:.2f} bits per neuron and step at B={batch} from {span}."
