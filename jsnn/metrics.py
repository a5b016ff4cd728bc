"""Metrics of a run: a line of JSON per record and, where tensorboardX is installed, TensorBoard."""

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

Record = dict[str, Any]


class MetricsLog(NamedTuple):
    """Where the records of a run go.

    Attributes:
        path: the JSONL file.
        writer: tensorboardX's SummaryWriter, or None.
    """

    path: Path
    writer: Any = None


def open_metrics(directory: Path, tensorboard: bool = True) -> MetricsLog:
    """Open the metrics of a run for appending.

    Args:
        directory: folder of the run, which exists; gets metrics.jsonl and tensorboard/.
        tensorboard: whether to write for TensorBoard too; without tensorboardX it has no effect.

    Returns:
        The MetricsLog.
    """
    writer = None
    if tensorboard and find_spec("tensorboardX"):
        from tensorboardX import SummaryWriter

        writer = SummaryWriter(str(directory / "tensorboard"))
    return MetricsLog(directory / "metrics.jsonl", writer)


def log(metrics: MetricsLog, stage: str, step: int, values: dict[str, float]) -> None:
    """Append one record.

    Args:
        metrics: where to.
        stage: e.g. "ann"; the first part of TensorBoard's tags.
        step: TensorBoard's horizontal axis, e.g. the epoch.
        values: name -> number.
    """
    with metrics.path.open("a") as file:
        file.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")
    if metrics.writer:
        for name, value in values.items():
            metrics.writer.add_scalar(f"{stage}/{name}", value, step)
        metrics.writer.flush()


def read(path: Path) -> list[Record]:
    """All records of a JSONL file.

    Args:
        path: the file.

    Returns:
        The records, in order; none where there is no file.
    """
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def forget(path: Path, is_forgotten: Callable[[Record], bool]) -> None:
    """Drop records, e.g. of epochs that are about to be run again; the file is replaced in one move.

    Args:
        path: the JSONL file.
        is_forgotten: tells which records to drop.
    """
    records = read(path)
    kept = [record for record in records if not is_forgotten(record)]
    if len(kept) < len(records):
        draft = path.with_suffix(".draft")
        draft.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(draft, path)
