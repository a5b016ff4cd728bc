"""Measure jsnn beside other libraries: training steps, balancing, evaluation.

Each contestant has its own process, with huge pages where the system has them for those who ask.

python -m experiments.benchmark [--nets NET...] [--shapes BxT-SURROGATE...] [--field value ...]
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import tyro

from experiments.benchmark import chart, report
from experiments.benchmark.ours import prepare
from experiments.benchmark.problem import (
    ANN,
    FLOOR,
    OURS,
    ROSTER,
    STDB,
    STEP_LOOP,
    SURROGATES,
    package_of,
    save_problem,
)
from experiments.benchmark.worker import TOO_MUCH, Task
from experiments.runs import huge_pages
from experiments.runs.command_line import guarded
from experiments.runs.machine import host_bytes
from experiments.runs.progress import say
from experiments.runs.records import write_json
from jsnn.models import VGG_STAGES

ROOT = Path(__file__).parents[2]
FEW_STEPS = "64x4-stdb", "64x4-linear", "64x8-linear"
LONG_RUNS = "16x24-stdb", "16x32-linear", "16x100-stdb", "16x100-linear", "4x100-stdb"
SHAPE = r"\d*[1-9]\d*x\d*[1-9]\d*"  # a batch and a number of time steps
FOR_ACCELERATORS = ("jsnn, bfloat16",)  # a CPU has little use for them
CARD = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]  # one, its memory taken as it is needed: for its peak
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": CARD, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclass(frozen=True)
class Arguments:
    """What to measure and how long."""

    nets: tuple[str, ...] = ("vgg5",)  # Nets to train: vgg5 to vgg19, for 32x32 images.
    width: float = 1.0  # Factor on the channels of their convolutions.
    hidden: tuple[int, ...] = (1024, 1024)  # Units of their hidden dense layers.
    shapes: tuple[str, ...] = FEW_STEPS + LONG_RUNS
    """Batch, number of time steps and surrogate of training, as BxT-stdb or BxT-linear."""
    long_shapes: tuple[str, ...] = ("16x400-stdb", "16x400-linear")
    """The same, measured once: for the growth of memory."""
    evaluation: tuple[str, ...] = ("16x100",)  # Batch and number of time steps of evaluation.
    balancing: tuple[str, ...] = ("64x400",)  # Images and number of time steps of balancing.
    balanced_net: str = "vgg16"  # Net whose thresholds are balanced.
    balanced_width: float = 0.25  # Factor on the channels of its convolutions.
    leak: float = 1.0  # Of the membranes per time step; below 1 not all libraries have the same dynamics.
    contestants: tuple[str, ...] = ()
    """Who takes part; all that are installed where none is named (bfloat16 on accelerators only)."""
    repeats: int = 3  # Turns of each contestant, each in a new process.
    seconds: float = 5.0  # Seconds of repeated calls in each turn, after the first call.
    patience: float = 60.0  # Seconds of a first call after which a contestant is not called again.
    timeout: float = 240.0  # Seconds after which a process is ended.
    memory_share: float = 0.8  # Share of the machine's memory that a process may take.
    device: str = "auto"  # cpu or cuda; auto is cuda where jax finds one.
    output: Path = Path("runs/benchmark")  # Folder for benchmark.json, benchmark.md and benchmark.png.
    debug: bool = False  # Show the traceback of an error.


def benchmark(arguments: Arguments) -> str:
    """Measure, write benchmark.json, benchmark.md and benchmark.png, and return the tables."""
    check(arguments)
    jax.config.update("jax_platforms", "cpu")  # the accelerator is the workers'
    most = int(arguments.memory_share * host_bytes())
    task = partial(Task, seconds=arguments.seconds, patience=arguments.patience, most_bytes=most)
    machine = run(task("machine", OURS, arguments.device), arguments.timeout)
    if "why_not" in machine:
        raise ValueError(f"no worker can run: {machine['why_not']}.")
    device = ("cpu" if machine["platform"] == "cpu" else "cuda") if arguments.device == "auto" else arguments.device
    names = arguments.contestants or tuple(n for n in ROSTER if device != "cpu" or n not in FOR_ACCELERATORS)
    versions = {name: package for name in names if (package := package_of(name))}
    absent = [name for name in names if name not in versions]
    say(f"absent: {', '.join(absent) or 'none'}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    about = {"machine": machine, "contestants": versions, "absent": absent, "records": records}
    about["arguments"] = json.loads(json.dumps(vars(arguments), default=str))
    with tempfile.TemporaryDirectory() as folder:
        of_device = partial(task, device=device, problem=f"{folder}/problem.npz")
        for record in _measured(arguments, list(versions), of_device):
            records.append(record)
            write_json(arguments.output / "benchmark.json", about)  # hours may lie between the first and the last
    rows = report.medians(records)
    text = report.markdown(rows, absent)
    (arguments.output / "benchmark.md").write_text(text, encoding="utf-8")
    if len(report.spiking(rows)):
        chart.draw(rows, arguments.output / "benchmark.png")
    return text


def check(arguments: Arguments) -> None:
    """Refuse what can't be measured, by a ValueError that names the argument, its value and what it may be."""
    for net in (*arguments.nets, arguments.balanced_net):
        if net not in VGG_STAGES:
            raise ValueError(f"net {net!r} can't be measured: the peers know {', '.join(VGG_STAGES)}.")
    for name in arguments.contestants:
        if name not in ROSTER:
            raise ValueError(f"no contestant {name!r}: choose from {', '.join(map(repr, ROSTER))}.")
    for shape in (*arguments.evaluation, *arguments.balancing):
        if not re.fullmatch(SHAPE, shape):
            raise ValueError(f"shape {shape!r} must be a batch and a number of time steps, such as 16x100.")
    for shape in (*arguments.shapes, *arguments.long_shapes):
        if not re.fullmatch(f"{SHAPE}-({'|'.join(SURROGATES)})", shape):
            example = f"such as 16x100-{' or 16x100-'.join(SURROGATES)}"
            raise ValueError(f"shape {shape!r} must be a batch, a number of time steps and a surrogate, {example}.")
    if not arguments.shapes + arguments.long_shapes:
        raise ValueError("no training step is to be measured: name at least one of shapes or long_shapes.")
    if arguments.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {arguments.device}.")
    if arguments.repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {arguments.repeats}.")
    if not 0 < arguments.leak <= 1:
        raise ValueError(f"leak must be in (0, 1], got {arguments.leak}.")


def take_turns(tasks: Sequence[Task], repeats: int, timeout: float) -> Iterator[dict[str, Any]]:
    """Run every task, all of them once before any of them again; what fails or takes all patience is not repeated."""
    for _ in range(repeats):
        turn, tasks = tasks, []
        for task in turn:
            record = {name: getattr(task, name) for name in report.KEY} | run(task, timeout)
            result = record.get("why_not") or f"{min(record['seconds'] or [record['first']]):.3f} s"
            shape = f"B={task.batch} T={task.num_steps} {task.surrogate}"
            say(f"{task.what:<8} {task.net} {shape:<18} {task.contestant:<30} {result}")
            tasks += [task] if record.get("seconds") else []
            yield record


def run(task: Task, timeout: float) -> dict[str, Any]:
    """What a worker measures, or why_not; it is ended after so many seconds."""
    command = [sys.executable, "-m", "experiments.benchmark.worker", json.dumps(task._asdict())]
    variables = huge_pages.asking({**os.environ, **ENVIRONMENT})
    options = {"cwd": ROOT, "env": variables, "capture_output": True, "text": True}
    try:
        process = subprocess.run(command, timeout=timeout, check=False, **options)
    except subprocess.TimeoutExpired:
        return {"why_not": f"over {timeout:.0f} s"}
    if process.returncode == 0:
        return json.loads(process.stdout.splitlines()[-1])
    *_, last = ["no word", *process.stderr.strip().splitlines()]
    over = process.returncode == TOO_MUCH
    return {"why_not": f"over {task.most_bytes / 1e9:.0f} GB" if over else f"failed: {last[:100]}"}


def _measured(arguments: Arguments, names: Sequence[str], task: partial[Task]) -> Iterator[dict[str, Any]]:
    """All records, each as soon as it is measured."""
    path, (hidden, leak) = Path(task.keywords["problem"]), (arguments.hidden, arguments.leak)
    fields = arguments.shapes, arguments.long_shapes, arguments.evaluation, arguments.balancing
    short, long, evaluation, balancing = (list(map(_shape, shapes)) for shapes in fields)

    for net in arguments.nets:
        of_net = partial(task, net=net)
        most = max(shape["batch"] for shape in (*short, *long, *evaluation))
        save_problem(path, prepare(net, arguments.width, hidden, most, leak))
        anns = [of_net("train", ANN, batch=batch) for batch in sorted({shape["batch"] for shape in short})]
        often = [*(anns if ANN in names else []), *_trainings(of_net, short, names)]
        often += [of_net("evaluate", name, **shape) for shape in evaluation for name in _with(STDB, names)]
        yield from take_turns(often, arguments.repeats, arguments.timeout)
        yield from take_turns(_trainings(of_net, long, names), 1, arguments.timeout)
    net, width = arguments.balanced_net, arguments.balanced_width
    balancers = [name for name in (OURS, STEP_LOOP) if name in names]
    for shape in balancing:
        save_problem(path, prepare(net, width, hidden, shape["batch"], leak, shape["num_steps"]))
        work = [task("balance", name, net=f"{net} x{width:g}", **shape) for name in balancers]
        yield from take_turns(work, arguments.repeats, arguments.timeout)


def _trainings(task: partial[Task], shapes: Sequence[dict[str, Any]], names: Sequence[str]) -> list[Task]:
    """Training steps of each shape: the floor, and every contestant that has a surrogate like the shape's."""
    return [task("train", n, **shape) for shape in shapes for n in (FLOOR, *_with(shape["surrogate"], names))]


def _with(surrogate: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if surrogate in ROSTER[name].surrogates]


def _shape(text: str) -> dict[str, Any]:
    """The fields of a Task in BxT or BxT-SURROGATE."""
    batch, num_steps, surrogate = re.fullmatch(r"(\d+)x(\d+)-?(\w*)", text).groups()
    return {"batch": int(batch), "num_steps": int(num_steps), "surrogate": surrogate}


def main() -> None:
    """Measure what the command line names; asked to end, it leaves no worker and no problem behind."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    say(benchmark(tyro.cli(Arguments, prog="python -m experiments.benchmark", description=__doc__)))


if __name__ == "__main__":
    sys.exit(guarded(main))
