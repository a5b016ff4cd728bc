"""Measure jsnn beside other libraries: training steps, balancing, evaluation; each contestant in its own process.

python -m experiments.benchmark [--nets NET...] [--shapes BxT-SURROGATE...] [--field value ...]
"""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

from experiments.benchmark import chart, report
from experiments.benchmark.ours import prepare
from experiments.benchmark.roster import ANN, FLOOR, OURS, ROSTER, STDB, STEP_LOOP, SURROGATES, package_of
from experiments.benchmark.worker import TOO_MUCH, Task
from experiments.machine import host_bytes
from experiments.runs.command_line import guarded
from experiments.runs.files import replace_text
from experiments.runs.progress import say
from jsnn.models import VGG_STAGES

SHAPES = "64x4-stdb 64x4-linear 64x8-linear 16x24-stdb 16x32-linear 16x100-stdb 16x100-linear 4x100-stdb"
SHAPE = r"(\d*[1-9]\d*)x(\d*[1-9]\d*)(?:-(\w+))?"  # a batch, a number of time steps, a surrogate
Net = Literal[tuple(VGG_STAGES)]


@dataclass(frozen=True)
class Arguments:
    """What to measure and how long."""

    nets: tuple[Net, ...] = ("vgg5",)  # Nets to train, for 32x32 images.
    width: float = 1.0  # Factor on the channels of their convolutions.
    hidden: tuple[int, ...] = (1024, 1024)  # Units of their hidden dense layers.
    # Batch, number of time steps and surrogate of training, as BxT-stdb or BxT-linear.
    shapes: tuple[str, ...] = tuple(SHAPES.split())
    long_shapes: tuple[str, ...] = ("16x400-stdb", "16x400-linear")  # The same, measured once: for the memory's growth.
    evaluation: tuple[str, ...] = ("16x100",)  # Batch and number of time steps of evaluation.
    balancing: tuple[str, ...] = ("64x400",)  # Images and number of time steps of balancing.
    balanced_net: Net = "vgg16"  # Net whose thresholds are balanced.
    balanced_width: float = 0.25  # Factor on the channels of its convolutions.
    leak: float = 1.0  # Of the membranes per time step; below 1 not all libraries have the same dynamics.
    # Who takes part; all that are installed where none is named (bfloat16 on accelerators only).
    contestants: tuple[Literal[tuple(ROSTER)], ...] = ()
    repeats: int = 3  # Turns of each contestant, each in a new process.
    seconds: float = 5.0  # Seconds of repeated calls in each turn, after the first call.
    patience: float = 60.0  # Seconds of a first call after which a contestant is not called again.
    timeout: float = 240.0  # Seconds after which a process is ended.
    memory_share: float = 0.8  # Share of the machine's memory that a process may take.
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto is cuda where jax finds one.
    output: Path = Path("runs/benchmark")  # Folder for benchmark.json, .csv, .md and .png.
    debug: bool = False  # Show the traceback of an error.


def benchmark(arguments: Arguments) -> str:
    """Measure, write benchmark.json, .csv, .md and .png, return the tables; ValueError for what can't be measured."""
    if not _shapes(arguments.shapes + arguments.long_shapes, *SURROGATES):
        raise ValueError("no training step is to be measured: name at least one of shapes or long_shapes.")
    _shapes(arguments.evaluation + arguments.balancing)
    if arguments.repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {arguments.repeats}.")
    if not 0 < arguments.leak <= 1:
        raise ValueError(f"leak must be in (0, 1], got {arguments.leak}.")

    jax.config.update("jax_platforms", "cpu")  # the accelerator is the workers'
    most = int(arguments.memory_share * host_bytes())
    task = partial(Task, seconds=arguments.seconds, patience=arguments.patience, most_bytes=most)
    machine = run(task("machine", OURS, arguments.device), arguments.timeout)
    if "why_not" in machine:
        raise ValueError(f"no worker can run: {machine['why_not']}.")
    device = ("cpu" if machine["platform"] == "cpu" else "cuda") if arguments.device == "auto" else arguments.device
    names = arguments.contestants or tuple(name for name in ROSTER if device != "cpu" or "bfloat16" not in name)
    versions = {name: package for name in names if (package := package_of(name))}
    absent = [name for name in names if name not in versions]
    say(f"absent: {', '.join(absent) or 'none'}")

    file = arguments.output / "benchmark"
    file.parent.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    about = {"machine": machine, "contestants": versions, "absent": absent, "records": records}
    about["arguments"] = vars(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for record in _measured(arguments, list(versions), partial(task, device=device, problem=f"{folder}/problem")):
            records.append(record)  # and written at once: hours may lie between the first and the last
            replace_text(file.with_suffix(".json"), json.dumps(about, indent=2, default=str) + "\n")
    rows = report.medians(records)
    rows[report.KEPT].to_csv(file.with_suffix(".csv"), index=False, float_format="%.4g")
    text = report.markdown(rows, absent)
    file.with_suffix(".md").write_text(text, encoding="utf-8")
    chart.draw(rows, file.with_suffix(".png"))
    return text


def run(task: Task, timeout: float) -> dict[str, Any]:
    """What a worker measures, or why_not; it is ended after so many seconds."""
    command = [sys.executable, "-m", "experiments.benchmark.worker", json.dumps(task._asdict())]
    huge_pages = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # where the system has them for those who ask
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]  # one, its memory taken as needed: for its peak
    of_card = {"CUDA_VISIBLE_DEVICES": card, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    of_jax = {} if task.what == "machine" else {"JAX_PLATFORMS": task.device}
    options = {"cwd": report.ROOT, "env": huge_pages | {**os.environ} | of_card | of_jax}
    try:
        process = subprocess.run(command, timeout=timeout, check=False, capture_output=True, text=True, **options)
    except subprocess.TimeoutExpired:
        return {"why_not": f"over {timeout:.0f} s"}
    if process.returncode == 0:
        return json.loads(process.stdout.splitlines()[-1])
    if process.returncode == TOO_MUCH:
        return {"why_not": f"over {task.most_bytes / 1e9:.0f} GB"}
    *_, last = ["no word", *process.stderr.strip().splitlines()]
    return {"why_not": f"failed: {last[:100]}"}


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


def _measured(arguments: Arguments, names: Sequence[str], task: partial[Task]) -> Iterator[dict[str, Any]]:
    """All records, each as soon as it is measured."""
    short, long = (_shapes(shapes, *SURROGATES) for shapes in (arguments.shapes, arguments.long_shapes))
    evaluation, problem = _shapes(arguments.evaluation), partial(prepare, hidden=arguments.hidden, leak=arguments.leak)
    path, repeats, timeout = Path(task.keywords["problem"]), arguments.repeats, arguments.timeout
    for net in arguments.nets:
        most = max(shape["batch"] for shape in (*short, *long, *evaluation))
        path.write_bytes(pickle.dumps(problem(net, arguments.width, batch=most)))
        of_net = partial(task, net=net)
        batches = sorted({shape["batch"] for shape in short}) if ANN in names else []
        often = [of_net("train", ANN, batch=batch) for batch in batches]
        often += [*_tasks(of_net, "train", short, names), *_tasks(of_net, "evaluate", evaluation, names)]
        yield from take_turns(often, repeats, timeout)
        yield from take_turns([*_tasks(of_net, "train", long, names)], 1, timeout)
    net, width = arguments.balanced_net, arguments.balanced_width
    of_net, balancers = partial(task, net=f"{net} x{width:g}"), [name for name in (OURS, STEP_LOOP) if name in names]
    for shape in _shapes(arguments.balancing):
        path.write_bytes(pickle.dumps(problem(net, width, batch=shape["batch"], num_steps=shape["num_steps"])))
        yield from take_turns([*_tasks(of_net, "balance", [shape], balancers)], repeats, timeout)


def _tasks(task: partial[Task], what: str, shapes: Sequence[dict[str, Any]], names: Sequence[str]) -> Iterator[Task]:
    """Work of each shape: by all that have a surrogate like the shape's, or STDB where it has none."""
    for shape in shapes:
        able = [name for name in names if (shape["surrogate"] or STDB) in ROSTER[name].surrogates]
        yield from (task(what, name, **shape) for name in ([FLOOR] if what == "train" else []) + able)


def _shapes(texts: Sequence[str], *surrogates: str) -> list[dict[str, Any]]:
    """The fields of a Task in each BxT-SURROGATE, or BxT where no surrogates are named; ValueError for other texts."""
    matches = [re.fullmatch(SHAPE, text) for text in texts]
    for text, match in zip(texts, matches, strict=True):
        if not match or match[3] not in (surrogates or [None]):
            examples = " or ".join(f"16x100-{surrogate}" for surrogate in surrogates) or "16x100"
            raise ValueError(f"shape {text!r} must be a batch and a number of time steps, such as {examples}.")
    return [{"batch": int(match[1]), "num_steps": int(match[2]), "surrogate": match[3] or ""} for match in matches]


def main() -> None:
    """Measure what the command line names; asked to end, it leaves no worker and no problem behind."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    say(benchmark(tyro.cli(Arguments, prog="python -m experiments.benchmark", description=__doc__)))


if __name__ == "__main__":
    sys.exit(guarded(main))
