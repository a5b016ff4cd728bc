"""Measure jsnn beside other libraries: training steps, balancing, evaluation; each contestant in its own process.

python -m experiments.benchmark [--nets NET...] [--shapes BxT...] [--field value ...]
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

from experiments.benchmark import chart, measure, tables
from experiments.benchmark.ours import inputs
from experiments.benchmark.prepare import prepare
from experiments.benchmark.problem import load_problem, neurons
from experiments.benchmark.roster import OURS, ROSTER, STEP_LOOP, installed_version
from experiments.benchmark.series import Found, Record, run, take_turns
from experiments.benchmark.worker import Task
from experiments.runs.command_line import refuse
from experiments.runs.progress import say
from experiments.runs.workdir import write_json
from jsnn.models import VGG_STAGES

FOR_ACCELERATORS = ("jsnn, bfloat16",)  # a CPU has little use for them


@dataclass(frozen=True)
class Arguments:
    """What to measure and how long."""

    nets: tuple[str, ...] = ("vgg5",)
    """Nets to train: vgg5 to vgg19, for 32x32 images."""
    width: float = 1.0
    """Factor on the channels of their convolutions."""
    hidden: tuple[int, ...] = (1024, 1024)
    """Units of their hidden dense layers."""
    shapes: tuple[str, ...] = ("16x24", "16x100", "4x100")
    """Batch and number of time steps of training, as BxT."""
    long_shapes: tuple[str, ...] = ("16x400",)
    """The same, measured once: for the growth of memory."""
    evaluation: tuple[str, ...] = ("16x100",)
    """Batch and number of time steps of evaluation."""
    balancing: tuple[str, ...] = ("64x400",)
    """Images and number of time steps of balancing."""
    balanced_net: str = "vgg16"
    """Net whose thresholds are balanced."""
    balanced_width: float = 0.25
    """Factor on the channels of its convolutions."""
    leak: float = 1.0
    """Of the membranes per time step; below 1 not all libraries have the same dynamics."""
    contestants: tuple[str, ...] = ()
    """Who takes part; all that are installed where none is named (bfloat16 on accelerators only)."""
    repeats: int = 3
    """Turns of each contestant, each in a new process."""
    seconds: float = 5.0
    """Seconds of repeated calls in each turn, after the first call."""
    patience: float = 60.0
    """Seconds of a first call after which a contestant is not called again."""
    timeout: float = 240.0
    """Seconds after which a process is ended."""
    memory_share: float = 0.8
    """Share of the machine's memory that a process may take."""
    device: str = "auto"
    """cpu or cuda; auto is cuda where jax finds one."""
    output: Path = Path("runs/benchmark")
    """Folder for benchmark.json, benchmark.md and benchmark.png."""


def benchmark(arguments: Arguments) -> str:
    """Measure, and write what was found.

    Args:
        arguments: what to measure.

    Returns:
        The tables.

    Raises:
        ValueError: where an argument is out of its range.
    """
    check(arguments)
    jax.config.update("jax_platforms", "cpu")  # the accelerator is the workers'
    machine = _machine(arguments)
    device = ("cpu" if machine["platform"] == "cpu" else "cuda") if arguments.device == "auto" else arguments.device
    names = arguments.contestants or tuple(n for n in ROSTER if device != "cpu" or n not in FOR_ACCELERATORS)
    present = [name for name in names if installed_version(name)]
    absent = [name for name in names if name not in present]
    say(f"absent: {', '.join(absent) or 'none'}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    neurons_of = {}
    with tempfile.TemporaryDirectory() as folder:
        for net in arguments.nets:
            records += _train(arguments, net, present, device, Path(folder))
            neurons_of[net] = neurons(load_problem(Path(folder) / f"{net}.npz", 1))
        records += _balance(arguments, present, device, Path(folder))
    versions = {name: f"{ROSTER[name].package} {installed_version(name)}" for name in present}
    found = {"machine": machine, "contestants": versions, "absent": absent, "neurons": neurons_of}
    return _written(arguments, records, found)


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


def _train(arguments: Arguments, net: str, names: list[str], device: str, folder: Path) -> list[Record]:
    """Training and evaluation of one net."""
    path = folder / f"{net}.npz"
    every = [_shape(text) for text in (*arguments.shapes, *arguments.long_shapes, *arguments.evaluation)]
    prepare(path, net, arguments.width, arguments.hidden, max(batch for batch, _ in every), arguments.leak)

    def tasks(what: str, shapes: tuple[str, ...], who: list[str]) -> list[Task]:
        return [_task(arguments, what, name, path, _shape(text), device) for text in shapes for name in who]

    def turns(tasks: list[Task], repeats: int) -> list[Record]:
        return take_turns(net, tasks, repeats, arguments.timeout, say)

    rates = tasks("rate", (*arguments.shapes, *arguments.long_shapes), [OURS])
    training = tasks("train", arguments.shapes, names)
    scoring = tasks("evaluate", arguments.evaluation, names)
    return [
        *turns([*rates, *training, *scoring], arguments.repeats),
        *turns(tasks("train", arguments.long_shapes, names), 1),
    ]


def _balance(arguments: Arguments, names: list[str], device: str, folder: Path) -> list[Record]:
    """Balancing by those who can."""
    path, drawn = folder / "balanced.npz", folder / "inputs.npy"
    net, records = f"{arguments.balanced_net} x{arguments.balanced_width:g}", []
    who = [name for name in (OURS, STEP_LOOP) if name in names]
    for text in arguments.balancing:
        batch, num_steps = _shape(text)
        prepare(path, arguments.balanced_net, arguments.balanced_width, arguments.hidden, batch, arguments.leak)
        np.save(drawn, inputs(load_problem(path, batch), num_steps))
        tasks = [_task(arguments, "balance", name, path, (batch, num_steps), device, drawn) for name in who]
        records += take_turns(net, tasks, arguments.repeats, arguments.timeout, say)
    return records


def _task(
    arguments: Arguments, what: str, name: str, problem: Path, shape: tuple[int, int], device: str, drawn: Path = Path()
) -> Task:
    most = int(arguments.memory_share * measure.machine_bytes())
    durations = arguments.seconds, arguments.patience
    return Task(what, name, str(problem), str(drawn), *shape, device, *durations, most)


def _shape(text: str) -> tuple[int, int]:
    """The batch and the number of time steps of "BxT"."""
    batch, num_steps = map(int, text.split("x"))
    return batch, num_steps


def _machine(arguments: Arguments) -> Found:
    """What the workers run on.

    Raises:
        ValueError: where not even that can be found.
    """
    found = run(_task(arguments, "machine", OURS, Path(), (1, 1), arguments.device), arguments.timeout)
    if isinstance(found, str):
        raise ValueError(f"no worker can run: {found}.")
    return found


def _written(arguments: Arguments, records: list[Record], found: Found) -> str:
    """The tables, written beside the raw findings and the plot."""
    text = tables.markdown(records, found["neurons"], found["absent"])
    found |= {"arguments": json.loads(json.dumps(vars(arguments), default=str))}
    write_json(arguments.output / "benchmark.json", found | {"records": [record._asdict() for record in records]})
    (arguments.output / "benchmark.md").write_text(text)
    chart.draw(records, arguments.output / "benchmark.png")
    return text


if __name__ == "__main__":
    try:
        print(benchmark(tyro.cli(Arguments, prog="python -m experiments.benchmark", description=__doc__)))
    except (ValueError, OSError) as error:
        sys.exit(refuse(error, debug=False))
