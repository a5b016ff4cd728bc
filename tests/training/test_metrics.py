"""Records of a run: JSON and TensorBoard's events, read back from the bytes on the disk."""

import json
import resource
import threading
from pathlib import Path

import pytest

from jsnn.training import metrics


def test_metrics_are_lines_of_json(tmp_path):
    log = metrics.open_metrics(tmp_path, tensorboard=False)
    metrics.log(log, "ann", 1, {"loss": 0.5})
    metrics.log(log, "hybrid", 1, {"loss": 0.25})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"stage": "ann", "step": 1, "loss": 0.5},
        {"stage": "hybrid", "step": 1, "loss": 0.25},
    ]


RECORDS = [{"stage": stage, "step": step} for stage in ("ann", "hybrid") for step in (1, 2)]


@pytest.mark.parametrize("torn", ["", "{", '{"stage": "hybrid", "step": 3', "\x00\x00"])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_stage_gets_the_records_that_it_should_have(torn, kept, tmp_path):
    """A torn last line, records of epochs that are run again and records that were lost."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS[: 2 + kept]) + torn)
    metrics.rewrite(path, "hybrid", RECORDS[2:3])
    assert metrics.read(path) == RECORDS[:3]
    assert path.read_text().endswith("\n")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_torn_last_line_is_not_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n" + '{"stage": "an')
    assert metrics.read(path) == RECORDS[:1]


def test_a_line_in_the_middle_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "ann"}\n{"stage\n{"stage": "ann"}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*metrics.jsonl is no record"):
        metrics.read(path)


def events(folder: Path) -> list:
    """TensorBoard's events in the order of their files: length, its checksum, event, its checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    events = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            end = 12 + int.from_bytes(data[:8], "little")
            events.append(event_pb2.Event.FromString(data[12:end]))
            data = data[end + 4 :]
    return events


def test_tensorboard_has_each_record_as_soon_as_it_is_logged(tmp_path):
    log = metrics.open_metrics(tmp_path)
    assert not list(tmp_path.iterdir())
    for stage, step, loss in (("ann", 1, 0.5), ("hybrid", 1, 0.25), ("ann", 2, 0.125)):
        metrics.log(log, stage, step, {"loss": loss, "seconds": 2.0 * step})
        *_, event = events(tmp_path / "tensorboard" / stage)
        scalars = {value.tag: value.simple_value for value in event.summary.value}
        assert (event.step, scalars) == (step, {"loss": loss, "seconds": 2.0 * step})
    assert len(events(tmp_path / "tensorboard" / "ann")) == 4  # version, start, two records


def test_tensorboard_is_told_which_step_a_run_goes_on_with(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    metrics.log(metrics.open_metrics(tmp_path), "ann", 3, {"loss": 0.5})
    version, start, _ = events(tmp_path / "tensorboard" / "ann")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (3, event_pb2.SessionLog.START)


def test_a_full_disk_is_told_at_once_and_leaves_no_thread_to_tell_it_later(tmp_path):
    pytest.importorskip("tensorboardX")
    log, threads = metrics.open_metrics(tmp_path), threading.active_count()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))  # room for the line of JSON, not for the event
    try:
        with pytest.raises(OSError, match="File too large"):
            metrics.log(log, "ann", 1, {"loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert threading.active_count() == threads
