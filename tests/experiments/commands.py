"""Commands, in this process or in ones of their own, which tests kill, run together and ask for their status."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
import pytest

from experiments import hybrid
from experiments.runs.command_line import main
from experiments.runs.workdir import Record, Run, read_record, read_results, write_record
from tests.conftest import ROOT

TINY = """
    digits --recipe linear --width 0.0625 --hidden 16 --dense-std 0.2 --ann.epochs 3 --finetune.epochs 2
    --balance-images 64 --balance-steps 30 --num-steps 4 --eval-steps 6 --streams 2 --scaling-factor 0.5 --chunk 4
    --finetune.surrogate stdb --finetune.lr 1e-3
""".split()
SHORT = "--eval-steps 4 --streams 1".split()  # one program to evaluate SNNs instead of two


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def run(work: Callable[[Run], None], workdir: Path, *arguments: str) -> int:
    """The exit status of a command in this process."""
    return main("python -m experiments.test", "A test.", work, [*arguments, "--workdir", str(workdir)])


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The words on stderr of a command that must be refused."""
    try:
        status = main("python -m experiments.hybrid", hybrid.__doc__, hybrid.hybrid, arguments)
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in captured.err
    return " ".join(captured.err.replace("│", " ").split())


def start(*arguments: str, devices: int = 1, module: str = "experiments.hybrid") -> subprocess.Popen:
    """Start a command on so many CPU devices; its stderr goes into its stdout."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "-u", "-m", module, *map(str, arguments)]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **output)


def finish(process: subprocess.Popen, timeout: float = 300) -> tuple[int, str]:
    """The exit status and output of a process, which is killed after `timeout` seconds."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, output


def together(count: int, *arguments: str, devices: int, different: str | None = None, **options: str) -> list:
    """Start a command as several processes of one run; an option that is different gets the process's number."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    which = ["--coordinator", coordinator, "--num-processes", count, "--process-id"]
    own = [[*which, number, *([different, number] if different else [])] for number in range(count)]
    return [start(*arguments, *of_process, devices=devices, **options) for of_process in own]


def lines_of(process: subprocess.Popen) -> Iterator[str]:
    """The lines that a process writes, as they come."""
    yield from iter(process.stdout.readline, "")


def state_of(folder: Path) -> dict[Path, bytes]:
    """All files of a folder with their contents, but for the lock."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock"}


def undone(workdir: Path, *stages: str) -> Record:
    """Make a workdir as if some stages had not been run; what it then says of itself."""
    record = read_record(workdir)
    for stage in stages:
        del record.stages[stage]
    write_record(workdir, record)
    return record


def opened(workdir: Path) -> Run:
    """The run of a workdir."""
    return Run(read_record(workdir).config, workdir)


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """The records of both trainings' epochs."""
    paths = [path for network in ("ann", "hybrid") if (path := workdir / f"{network}.jsonl").exists()]
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def arrays(workdir: Path, network: str) -> dict[str, Any]:
    """All arrays of a network's last checkpoint, by name: params, optimiser, thresholds, steps."""
    with ocp.CheckpointManager(workdir / network) as manager:
        return manager.restore(None, args=ocp.args.Composite(tree=ocp.args.PyTreeRestore()))["tree"]


def without_time(value: Any) -> Any:
    """Results or metrics without what differs from run to run."""
    if isinstance(value, dict):
        timed = ("seconds", "images_per_second", "environment", "config")
        return {name: without_time(part) for name, part in value.items() if name not in timed}
    return [without_time(part) for part in value] if isinstance(value, list) else value


def outcome(workdir: Path) -> tuple[dict, list[dict]]:
    """What a run has found and its metrics, without what differs from run to run."""
    return without_time(read_results(workdir)), without_time(metrics(workdir))
