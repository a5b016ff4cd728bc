"""Metrics of a run: a line of JSON per record and, where tensorboardX is installed, TensorBoard."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from jsnn.files import replace_text

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


def log(metrics: MetricsLog, stage: str, step: int, values: dict[str, float]) -> Record:
    """Append one record.

    Args:
        metrics: where to.
        stage: e.g. "ann"; the first part of TensorBoard's tags.
        step: TensorBoard's horizontal axis, e.g. the epoch.
        values: name -> number.

    Returns:
        The record.
    """
    record = {"stage": stage, "step": step, **values}
    with metrics.path.open("a") as file:
        file.write(json.dumps(record) + "\n")
    if metrics.writer:
        for name, value in values.items():
            metrics.writer.add_scalar(f"{stage}/{name}", value, step)
        metrics.writer.flush()
    return record


def read(path: Path) -> list[Record]:
    """All records of a JSONL file but a torn last line, which a process leaves that is killed while it writes.

    Args:
        path: the file.

    Returns:
        The records, in order; none where there is no file.

    Raises:
        ValueError: where another line than the last can't be read.
    """
    if not path.exists():
        return []
    whole_lines = path.read_text(errors="replace").split("\n")[:-1]
    return [_parsed(path, number, line) for number, line in enumerate(whole_lines, start=1)]


def rewrite(path: Path, stage: str, records: Sequence[Record]) -> None:
    """Give a stage the records that it should have, e.g. when it goes on from a checkpoint.

    Whatever was torn, lost or written of epochs that are about to be run again is mended by it.

    Args:
        path: the JSONL file, replaced in one move.
        stage: the stage; records of others stay.
        records: its records, which come last.
    """
    found = read(path)
    wanted = [*(record for record in found if record.get("stage") != stage), *records]
    text = "".join(json.dumps(record) + "\n" for record in wanted)
    if (path.read_text(errors="replace") if path.exists() else "") != text:
        replace_text(path, text)


def _parsed(path: Path, number: int, line: str) -> Record:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError) as error:
        raise ValueError(f"line {number} of {path} is no record ({error}): mend it or move the file away.") from error
