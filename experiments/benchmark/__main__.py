"""Measure jsnn beside other libraries: training steps, balancing, evaluation; each contestant in its own process.

python -m experiments.benchmark [--nets NET...] [--shapes BxT...] [--field value ...]
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from experiments.benchmark import report
from experiments.benchmark.ours import inputs
from experiments.benchmark.prepare import prepare
from experiments.benchmark.problem import load_problem, neurons
from experiments.benchmark.roster import OURS, ROSTER, STEP_LOOP, installed_version
from experiments.benchmark.worker import TOO_MUCH, Task, machine_bytes
from experiments.runs.command_line import refuse
from experiments.runs.progress import say
from experiments.runs.workdir import write_json
from jsnn.models import VGG_STAGES

Measurement = dict[str, Any]

ROOT = Path(__file__).parents[2]
FOR_ACCELERATORS = ("jsnn, bfloat16",)  # a CPU has little use for them
# One accelerator, its memory taken as it is needed, so that its peak tells what the work needs.
CARD = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": CARD, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclass(frozen=True)
class Arguments:
    """What to measure and how long."""

    nets: tuple[str, ...] = ("vgg5",)  # Nets to train: vgg5 to vgg19, for 32x32 images.
    width: float = 1.0  # Factor on the channels of their convolutions.
    hidden: tuple[int, ...] = (1024, 1024)  # Units of their hidden dense layers.
    shapes: tuple[str, ...] = ("16x24", "16x100", "4x100")  # Batch and number of time steps of training, as BxT.
    long_shapes: tuple[str, ...] = ("16x400",)  # The same, measured once: for the growth of memory.
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


def benchmark(arguments: Arguments) -> str:
    """Measure, write benchmark.json, benchmark.md and benchmark.png, and return the tables."""
    check(arguments)
    jax.config.update("jax_platforms", "cpu")  # the accelerator is the workers'
    most = int(arguments.memory_share * machine_bytes())
    task = partial(Task, seconds=arguments.seconds, patience=arguments.patience, most_bytes=most)
    machine = run(task("machine", OURS, device=arguments.device), arguments.timeout)
    if "why_not" in machine:
        raise ValueError(f"no worker can run: {machine['why_not']}.")
    device = ("cpu" if machine["platform"] == "cpu" else "cuda") if arguments.device == "auto" else arguments.device
    names = arguments.contestants or tuple(n for n in ROSTER if device != "cpu" or n not in FOR_ACCELERATORS)
    present = [name for name in names if installed_version(name)]
    absent = [name for name in names if name not in present]
    say(f"absent: {', '.join(absent) or 'none'}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    measurements: list[Measurement] = []
    neurons_of = {}
    task = partial(task, device=device)
    with tempfile.TemporaryDirectory() as folder:
        for net in arguments.nets:
            path = Path(folder) / net
            measurements += _train(arguments, net, present, path, task)
            neurons_of[net] = neurons(load_problem(path, 1))
        measurements += _balance(arguments, present, Path(folder), task)
    text = report.markdown(measurements, neurons_of, absent)
    record = {
        "machine": machine,
        "contestants": {name: f"{ROSTER[name].package} {installed_version(name)}" for name in present},
        "absent": absent,
        "neurons": neurons_of,
        "arguments": json.loads(json.dumps(vars(arguments), default=str)),
        "measurements": measurements,
    }
    write_json(arguments.output / "benchmark.json", record)
    (arguments.output / "benchmark.md").write_text(text)
    report.draw(measurements, arguments.output / "benchmark.png")
    return text


def check(arguments: Arguments) -> None:
    """Refuse what can't be measured.

    Raises:
        ValueError: naming the argument, its value and what it may be.
    """
    for net in (*arguments.nets, arguments.balanced_net):
        if net not in VGG_STAGES:
            raise ValueError(f"net {net!r} can't be measured: the peers know {', '.join(VGG_STAGES)}.")
    for name in arguments.contestants:
        if name not in ROSTER:
            raise ValueError(f"no contestant {name!r}: choose from {', '.join(map(repr, ROSTER))}.")
    for shape in (*arguments.shapes, *arguments.long_shapes, *arguments.evaluation, *arguments.balancing):
        parts = shape.split("x")
        if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
            raise ValueError(f"shape {shape!r} must be a batch and a number of time steps, such as 16x100.")
    if arguments.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {arguments.device}.")
    if arguments.repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {arguments.repeats}.")
    if not 0 < arguments.leak <= 1:
        raise ValueError(f"leak must be in (0, 1], got {arguments.leak}.")


def take_turns(net: str, tasks: Sequence[Task], repeats: int, timeout: float) -> list[Measurement]:
    """Run every task in a process of its own, all of them once before any of them again.

    A task that fails or runs out of patience is not repeated.
    """
    measurements = []
    for _ in range(repeats):
        turn = [_turn(net, task, timeout) for task in tasks]
        tasks = [task for task, measured in zip(tasks, turn, strict=True) if measured.get("seconds")]
        measurements += turn
    return measurements


def _turn(net: str, task: Task, timeout: float) -> Measurement:
    """One measurement, reported as it is done."""
    where = {"what": task.what, "net": net, "batch": task.batch, "num_steps": task.num_steps}
    measured = {**where, "contestant": task.contestant, **run(task, timeout)}
    result = measured.get("why_not") or f"{min(measured['seconds'] or [measured['first']]):.3f} s"
    say(f"{task.what:<8} {net} B={task.batch} T={task.num_steps}  {task.contestant:<30} {result}")
    return measured


def run(task: Task, timeout: float) -> Measurement:
    """What a worker measures, or why_not; it is ended after so many seconds."""
    command = [sys.executable, "-m", "experiments.benchmark.worker", json.dumps(task._asdict())]
    options = {"cwd": ROOT, "env": {**os.environ, **ENVIRONMENT}, "capture_output": True, "text": True, "check": False}
    try:
        process = subprocess.run(command, timeout=timeout, **options)
    except subprocess.TimeoutExpired:
        return {"why_not": f"over {timeout:.0f} s"}
    if process.returncode == TOO_MUCH:
        return {"why_not": f"over {task.most_bytes / 1e9:.0f} GB"}
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or ["no word"]
        return {"why_not": f"failed: {last[0][:100]}"}
    return json.loads(process.stdout.splitlines()[-1])


def _train(
    arguments: Arguments, net: str, names: Sequence[str], path: Path, task: Callable[..., Task]
) -> list[Measurement]:
    """Training and evaluation of one net."""
    shapes = (*arguments.shapes, *arguments.long_shapes)
    batch = max(_shape(text)["batch"] for text in (*shapes, *arguments.evaluation))
    prepare(path, net, arguments.width, arguments.hidden, batch, arguments.leak)

    def tasks(what: str, shapes: Sequence[str], who: Sequence[str]) -> list[Task]:
        return [task(what, name, problem=str(path), **_shape(text)) for text in shapes for name in who]

    once = tasks("train", arguments.long_shapes, names)
    often = [*tasks("rate", shapes, [OURS]), *tasks("train", arguments.shapes, names)]
    often += tasks("evaluate", arguments.evaluation, names)
    timeout = arguments.timeout
    return take_turns(net, often, arguments.repeats, timeout) + take_turns(net, once, 1, timeout)


def _balance(arguments: Arguments, names: Sequence[str], folder: Path, task: Callable[..., Task]) -> list[Measurement]:
    """Balancing by those who can, all from the very same input spikes."""
    path, spikes = folder / "balanced", folder / "inputs.npy"
    net, measurements = f"{arguments.balanced_net} x{arguments.balanced_width:g}", []
    for shape in map(_shape, arguments.balancing):
        prepare(
            path, arguments.balanced_net, arguments.balanced_width, arguments.hidden, shape["batch"], arguments.leak
        )
        np.save(spikes, inputs(load_problem(path, shape["batch"]), shape["num_steps"]))
        paths = {"problem": str(path), "inputs": str(spikes)}
        tasks = [task("balance", name, **paths, **shape) for name in (OURS, STEP_LOOP) if name in names]
        measurements += take_turns(net, tasks, arguments.repeats, arguments.timeout)
    return measurements


def _shape(text: str) -> dict[str, int]:
    """The batch and the number of time steps of "BxT"."""
    batch, num_steps = map(int, text.split("x"))
    return {"batch": batch, "num_steps": num_steps}


if __name__ == "__main__":
    try:
        print(benchmark(tyro.cli(Arguments, prog="python -m experiments.benchmark", description=__doc__)))
    except (ValueError, OSError) as error:
        sys.exit(refuse(error, debug=False))
