"""Metrics of a run: a line of JSON per record and, where tensorboardX is installed, TensorBoard."""

import json
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from jsnn.training.files import replace_text

Record = dict[str, Any]


class MetricsLog(NamedTuple):
    """Where the records of a run go."""

    path: Path  # the JSONL file
    tensorboard: Path | None  # folder for TensorBoard, which is made with the first record, or None
    writers: dict[str, Any]  # stage -> tensorboardX's EventsWriter, of this process


def open_metrics(directory: Path, tensorboard: bool = True) -> MetricsLog:
    """Open a run's metrics for appending: metrics.jsonl in its folder and, with tensorboardX, tensorboard/."""
    has_tensorboard = tensorboard and find_spec("tensorboardX") is not None
    return MetricsLog(directory / "metrics.jsonl", directory / "tensorboard" if has_tensorboard else None, {})


def log(metrics: MetricsLog, stage: str, step: int, values: dict[str, float]) -> Record:
    """Append one record. TensorBoard forgets what it had of the stage from this step on, which is run again."""
    record = {"stage": stage, "step": step, **values}
    with metrics.path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    if metrics.tensorboard:
        _write_event(metrics, stage, step, values)
    return record


def read(path: Path) -> list[Record]:
    """All records of a JSONL file, none without a file, but for a torn last line of a process that was killed.

    ValueError where another line can't be read.
    """
    if not path.exists():
        return []
    whole_lines = path.read_text(errors="replace").split("\n")[:-1]
    return [_parsed(path, number, line) for number, line in enumerate(whole_lines, start=1)]


def rewrite(path: Path, stage: str, records: Sequence[Record]) -> None:
    """Give a stage the records that it should have, as when it goes on from a checkpoint; those of other stages stay.

    Whatever was torn, lost or written of epochs that are about to be run again is mended by it.
    """
    others = [record for record in read(path) if record.get("stage") != stage]
    text = "".join(json.dumps(record) + "\n" for record in [*others, *records])
    if (path.read_text(errors="replace") if path.exists() else "") != text:
        replace_text(path, text)


def _parsed(path: Path, number: int, line: str) -> Record:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError) as error:
        raise ValueError(f"line {number} of {path} is no record ({error}): mend it or move the file away.") from error


def _write_event(metrics: MetricsLog, stage: str, step: int, values: dict[str, float]) -> None:
    """Write for TensorBoard at once: SummaryWriter has a thread do it, which tells nobody that the disk is full."""
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary

    if stage not in metrics.writers:
        folder = metrics.tensorboard / stage
        folder.mkdir(parents=True, exist_ok=True)
        metrics.writers[stage] = EventsWriter(str(folder / "events"))
        start = SessionLog(status=SessionLog.START)  # what TensorBoard has of the stage from this step on is void
        metrics.writers[stage].write_event(Event(wall_time=time.time(), step=step, session_log=start))
    writer = metrics.writers[stage]
    scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
    writer.flush()
