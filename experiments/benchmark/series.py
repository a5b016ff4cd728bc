"""Runs workers one after the other, contestants taking turns, and gathers what they find."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmark.measure import TOO_MUCH
from experiments.benchmark.worker import Task

ROOT = Path(__file__).parents[2]
# One accelerator, its memory taken as it is needed, so that its peak tells what the work needs.
CARD = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": CARD, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

Found = dict[str, Any]


class Record(NamedTuple):
    """What a contestant showed for one kind of work, net and shape, over all repeats.

    Attributes:
        what: "train", "evaluate", "balance" or "rate".
        net: name of the net.
        batch: B.
        num_steps: T.
        contestant: its name.
        found: what each repeat found; empty where it could not finish.
        why_not: what kept it from finishing, or None.
    """

    what: str
    net: str
    batch: int
    num_steps: int
    contestant: str
    found: list[Found]
    why_not: str | None


def take_turns(
    net: str, tasks: Sequence[Task], repeats: int, timeout: float, say: Callable[[str], None]
) -> list[Record]:
    """Run every task, all of them once before any of them again.

    Args:
        net: name of the net.
        tasks: what to run.
        repeats: how often; a task that fails or runs out of patience is not repeated.
        timeout: seconds after which a worker is ended.
        say: is told about each worker.

    Returns:
        A Record for each task.
    """
    records = [Record(task.what, net, task.batch, task.num_steps, task.contestant, [], None) for task in tasks]
    for _ in range(repeats):
        for i, task in enumerate(tasks):
            if records[i].why_not is None and all(found["seconds"] for found in records[i].found):
                records[i] = _with(records[i], run(task, timeout))
                say(line(records[i]))
    return records


def run(task: Task, timeout: float) -> Found | str:
    """Run one worker.

    Args:
        task: what it shall do.
        timeout: seconds after which it is ended.

    Returns:
        What it found, or why it found nothing.
    """
    command = [sys.executable, "-m", "experiments.benchmark.worker", json.dumps(task._asdict())]
    environment = {**os.environ, **ENVIRONMENT}
    try:
        process = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return f"over {timeout:.0f} s"
    if process.returncode == TOO_MUCH:
        return f"over {task.most_bytes / 1e9:.0f} GB"
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or ["no word"]
        return f"failed: {last[0][:100]}"
    return json.loads(process.stdout.splitlines()[-1])


def line(record: Record) -> str:
    """One line about the latest turn of a record."""
    where = f"{record.what:<8} {record.net} B={record.batch} T={record.num_steps}  {record.contestant:<30}"
    if record.why_not:
        return f"{where} {record.why_not}"
    seconds = record.found[-1]["seconds"] or [record.found[-1]["first"]]
    return f"{where} {min(seconds):.3f} s"


def of_kind(records: Iterable[Record], what: str) -> list[Record]:
    """The records of one kind of work."""
    return [record for record in records if record.what == what]


def _with(record: Record, found: Found | str) -> Record:
    """The record with one more turn."""
    if isinstance(found, str):
        return record._replace(why_not=found)
    return record._replace(found=[*record.found, found])
