"""One measurement in a process of its own: a Task as JSON in, a dictionary as JSON out (the last line printed)."""

import json
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmark.problem import Contestant, Problem, operations
from experiments.benchmark.roster import FLOOR, ROSTER

MOST_WARM_UPS = 3  # calls after the first, which a library may use to compile once more
SIDES = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices whose product gives the machine's rate
TOO_MUCH = 77  # exit status of a process that was stopped because it took more memory than it may

_compiling: list[float] = []  # seconds of each piece of what jax compiles


class Task(NamedTuple):
    """What a worker is asked for."""

    what: str  # "train", "evaluate", "balance" or "machine"
    contestant: str  # its name in the roster, or the floor of training
    device: str  # "cpu" or "cuda"
    seconds: float  # to spend on repeated calls
    patience: float  # seconds of a first call after which it is not called again
    most_bytes: int  # of memory that it may take
    net: str = ""
    batch: int = 1
    num_steps: int = 1
    surrogate: str = ""  # one of SURROGATES for training; evaluation, balancing and the ANN have none
    problem: str = ""  # path


def given(task: Task) -> Problem:
    """The problem that the benchmark has written, with as many of its images as the task has."""
    problem = pickle.loads(Path(task.problem).read_bytes())
    batch = {"images": problem.images[: task.batch], "labels": problem.labels[: task.batch]}
    return problem._replace(surrogate=task.surrogate or problem.surrogate, **batch)


def machine(_task: Task) -> dict[str, Any]:
    """What the benchmark runs on; asked here, for the process that asks must leave the accelerator alone."""
    return resolve_name("experiments.machine.environment")()


def train(task: Task) -> dict[str, Any]:
    """Seconds per training step and the memory that it takes."""
    if task.contestant == FLOOR:
        return floor(task)
    contestant, before = _contestant(task)
    measured = {**_timed(contestant.train, task), "peak_bytes": _memory("VmHWM") - before}
    if task.device != "cpu":
        jax = sys.modules.get("jax")
        of_jax = jax and jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
        measured["device_peak_bytes"] = of_jax if jax else sys.modules["torch"].cuda.max_memory_allocated()
    return {**measured, "rates": contestant.rates(), **contestant.details()}


def floor(task: Task) -> dict[str, Any]:
    """The rate of float32 products (TF32 on a GPU, jax's default), and what a step's plain products take at it."""
    import jax

    side = SIDES[task.device]
    one, multiply = jax.numpy.ones((side, side)), jax.jit(jax.numpy.matmul)
    durations = _seconds(lambda: multiply(one, one).block_until_ready(), task.seconds)
    per_second = 2 * side**3 / float(np.median(durations))
    return {"operations_per_second": per_second, "seconds": [operations(given(task), task.num_steps) / per_second]}


def evaluate(task: Task) -> dict[str, Any]:
    """Seconds per evaluated batch."""
    return _timed(_contestant(task)[0].evaluate, task)


def balance(task: Task) -> dict[str, Any]:
    """Seconds of balancing, compilation included, and the thresholds."""
    problem, (module, _) = given(task), ROSTER[task.contestant].make.split(".")
    find, thresholds = resolve_name(f"experiments.benchmark.{module}.balance"), {}
    before = _memory_before(task)
    seconds = _seconds(lambda: thresholds.update(find(problem, task.num_steps, task.device)))
    return {"seconds": seconds, "thresholds": thresholds, "peak_bytes": _memory("VmHWM") - before}


def _contestant(task: Task) -> tuple[Contestant, int]:
    """The contestant, and the bytes in memory before it is made, when its library and problem are there."""
    entry, problem = ROSTER[task.contestant], given(task)
    make, _ = resolve_name(f"experiments.benchmark.{entry.make}"), resolve_name(entry.library)
    _compiling.clear()
    if jax := sys.modules.get("jax"):
        jax.monitoring.register_event_duration_secs_listener(_hear)
    before = _memory_before(task)
    return make(problem, task.num_steps, task.device, **entry.options), before


def _timed(call: Callable[[], object], task: Task) -> dict[str, Any]:
    """Seconds of the first call and of those that compile nothing any more; none where the first took all patience."""
    (first,), heard = _seconds(call), 0
    patient = first < task.patience
    for _ in range(MOST_WARM_UPS):
        if patient and len(_compiling) > heard:
            heard = len(_compiling)
            call()
    in_all = sum(_compiling) if "jax" in sys.modules else None
    return {"first": first, "compile": in_all, "seconds": _seconds(call, task.seconds) if patient else []}


def _hear(event: str, duration: float, **_: object) -> None:
    """Count the seconds that jax spends on tracing, lowering and compiling."""
    if event.startswith("/jax/core/compile/"):
        _compiling.append(duration)


def _seconds(call: Callable[[], object], budget: float = 0.0) -> list[float]:
    """Seconds of each of several calls, one at least, until the budget of seconds is spent."""
    durations: list[float] = []
    while not durations or sum(durations) < budget:
        begin = time.perf_counter()
        call()
        durations.append(time.perf_counter() - begin)
    return durations


def _memory_before(task: Task) -> int:
    """Bytes in memory as the work begins: from here on the peak counts, and the process ends where it has too many."""

    def watch() -> None:  # else the system would end whatever it likes
        while _memory("VmRSS") < task.most_bytes:
            time.sleep(0.05)
        os._exit(TOO_MUCH)

    threading.Thread(target=watch, daemon=True).start()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    return _memory("VmRSS")


def _memory(field: str) -> int:
    """Bytes that this process has in memory now, "VmRSS", or had at most, "VmHWM" (Linux)."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    task = Task(**json.loads(sys.argv[1]))
    print(json.dumps(globals()[task.what](task)))
