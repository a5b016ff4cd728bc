"""One measurement in a process of its own: a Task as JSON in, what was found as JSON out (the last line printed)."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.benchmark import measure
from experiments.benchmark.problem import load_problem, operations
from experiments.benchmark.roster import ROSTER, STEP_LOOP, module_of

MOST_WARM_UPS = 3  # calls after the first, which a library may use to compile once more
SIDES = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices whose product gives the machine's rate


class Task(NamedTuple):
    """What a worker is asked for.

    Attributes:
        what: "train", "evaluate", "balance", "rate" or "machine".
        contestant: its name in the roster.
        problem: path of the problem.
        inputs: path of the input spikes for balancing.
        batch: B.
        num_steps: T.
        device: "cpu" or "cuda".
        seconds: to spend on repeated calls.
        patience: seconds of a first call after which it is not called again.
        most_bytes: of memory that it may take.
    """

    what: str
    contestant: str
    problem: str
    inputs: str
    batch: int
    num_steps: int
    device: str
    seconds: float
    patience: float
    most_bytes: int


def train(task: Task) -> dict[str, object]:
    """Seconds per training step and the memory that it takes."""
    make = _maker(task)
    before = _begin(task)
    contestant = make()
    found = _timed(contestant.train, task)
    found |= {"peak_bytes": measure.peak_bytes() - before, "device_peak_bytes": measure.device_peak_bytes(task.device)}
    return {**found, "rates": contestant.rates(), **contestant.details()}


def evaluate(task: Task) -> dict[str, object]:
    """Seconds per evaluated batch."""
    make = _maker(task)
    _begin(task)
    return _timed(make().evaluate, task)


def balance(task: Task) -> dict[str, object]:
    """Seconds of balancing, compilation included, and the thresholds."""
    problem = load_problem(Path(task.problem), task.batch)
    arguments: list[object] = [problem, task.num_steps, task.device]
    if task.contestant == STEP_LOOP:
        arguments.append(np.load(task.inputs, mmap_mode="r").astype(np.float32).__getitem__)
    find, thresholds = module_of(task.contestant).balance, {}
    before = _begin(task)
    seconds = measure.seconds_of(lambda: thresholds.update(find(*arguments)))
    return {"seconds": [seconds], "thresholds": thresholds, "peak_bytes": measure.peak_bytes() - before}


def rate(task: Task) -> dict[str, object]:
    """The rate of float32 products (TF32 on a GPU, jax's default), and what a step's plain products take at it."""
    import jax

    jax.config.update("jax_platforms", task.device)
    side = SIDES[task.device]
    one = jax.numpy.ones((side, side))
    multiply = jax.jit(jax.numpy.matmul)
    durations = measure.repeated(lambda: multiply(one, one).block_until_ready(), task.seconds)
    per_second = 2 * side**3 / float(np.median(durations))
    problem = load_problem(Path(task.problem), task.batch)
    return {"operations_per_second": per_second, "seconds": [operations(problem, task.num_steps) / per_second]}


def machine(task: Task) -> dict[str, object]:
    """What the benchmark runs on; found here, for the process that asks must leave the accelerator alone."""
    from experiments.runs.environment import environment

    del task
    return environment()


def _maker(task: Task) -> Callable[[], object]:
    """What makes the contestant, its library imported and its problem read."""
    problem, make = load_problem(Path(task.problem), task.batch), module_of(task.contestant).make
    _compile_seconds()  # counts from here on
    return lambda: make(problem, task.num_steps, task.device, **ROSTER[task.contestant].options)


def _compile_seconds() -> float | None:
    """Seconds that jax spent on compiling since this was last called; None where the library is not jax."""
    if "jax" not in sys.modules:
        return None
    from experiments import compilation  # it would import jax

    compilation.watch()
    return compilation.take_seconds()


def _begin(task: Task) -> int:
    """Bytes in memory before the work begins."""
    measure.limit_memory(task.most_bytes)
    measure.forget_peak()
    return measure.resident_bytes()


def _timed(call: Callable[[], object], task: Task) -> dict[str, object]:
    """Seconds of the first call and of those that compile nothing any more; none where the first took all patience."""
    first, compiled = measure.seconds_of(call), _compile_seconds()
    found: dict[str, object] = {"first": first, "compile": compiled, "seconds": []}
    if first >= task.patience:
        return found
    for _ in range(MOST_WARM_UPS if compiled else 0):
        call()
        again = _compile_seconds()
        found["compile"] += again
        if not again:
            break
    return {**found, "seconds": measure.repeated(call, task.seconds)}


if __name__ == "__main__":
    asked = Task(**json.loads(sys.argv[1]))
    work = {"train": train, "evaluate": evaluate, "balance": balance, "rate": rate, "machine": machine}
    print(json.dumps(work[asked.what](asked)))
