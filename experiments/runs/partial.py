"""Passes over data that go on where they were left: their states are saved as JSON, exactly, in the folder partial/."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.runs.progress import REPORT_EVERY, bar, duration, say
from experiments.runs.stopping import GO_ON, SAVE, STOP, Stopped, is_asked
from experiments.runs.workdir import PARTIAL, Run
from jsnn.folding import Fold, State
from jsnn.training.files import replace_text
from jsnn.training.hosts import global_max, on_first_process

SAVE_EVERY = 20.0  # seconds between two saves of a pass


class Saved(NamedTuple):
    """What a file of a pass holds."""

    about: dict[str, Any]  # what the pass depends on
    done: int  # items that are in the state
    state: Any  # of arrays, as `_encoded`
    seconds: float  # of the stage, up to here


def resumable(run: Run, stage: str) -> tuple[Fold, float]:
    """How a stage folds: with a bar, saved every 20 seconds, at the end and on request; and when the stage began.

    That is when it would have begun without interruptions, by `time.perf_counter`. A pass of another stage, or whose
    config, data, batch size or number of devices has changed since, begins anew. The fold raises Stopped where the run
    is asked to stop, when its state is saved.
    """
    begin = time.perf_counter() - on_first_process(lambda: _spent(run, stage))
    fields = asdict(run.config)
    of_run = {name: fields["run"][name] for name in ("data_dir", "data_module", "eval_batch_size")}
    devices = {"devices": jax.device_count(), "processes": jax.process_count()}
    about = {"stage": stage, "config": {**fields, "run": of_run}, **devices}

    def fold(name: str, total: int, items: Callable[[int], Iterable], add: Callable[[State, Any], State]) -> State:
        path = run.directory / PARTIAL / f"{re.sub('[^a-z0-9.]+', '_', name)}.json"
        of_pass = json.loads(json.dumps({**about, "pass": name, "total": total}))
        saved = _saved(path, of_pass)
        start, state = (saved.done, _decoded(saved.state)) if saved else (0, None)
        done = start
        began = saved_at = reported_at = time.monotonic()
        with bar(name, total, done, unit="batch") as progress:
            for item in items(done) if done < total else ():
                state, done = add(state, item), done + 1
                progress.update()
                due = done == total or time.monotonic() - saved_at > SAVE_EVERY
                request = int(global_max(STOP if is_asked() else SAVE if due else GO_ON))
                if request:
                    seconds, saved_at = time.perf_counter() - begin, time.monotonic()
                    _save(path, Saved(of_pass, done, _encoded(state), seconds))
                if request and time.monotonic() - reported_at > REPORT_EVERY:
                    left = duration((saved_at - began) / (done - start) * (total - done))
                    say(f"{name}: {done} of {total} batches, {left} left")
                    reported_at = time.monotonic()
                if request == STOP:
                    raise Stopped(
                        f"stopped on request after {done} of {total} batches of {name}; the same command goes on."
                    )
        return state

    return fold, begin


def _spent(run: Run, stage: str) -> float:
    """Seconds that a stage has taken before."""
    files = map(_read, (run.directory / PARTIAL).glob("*.json"))
    return max((saved.seconds for saved in files if saved and saved.about.get("stage") == stage), default=0.0)


def _saved(path: Path, about: dict[str, Any]) -> Saved | None:
    """The state of a pass that was saved, if it is of the same pass."""

    def read() -> list[Any] | None:
        saved = _read(path)
        return list(saved) if saved and saved.about == about else None

    fields = on_first_process(read)
    return Saved(*fields) if fields else None


def _read(path: Path) -> Saved | None:
    """What a file holds; None where it is not there or was damaged since: then the pass begins anew."""
    try:
        seal, text = path.read_text().split("\n")
        return Saved(**json.loads(text)) if seal == _seal(text) else None
    except (OSError, ValueError, TypeError):
        return None


def _save(path: Path, saved: Saved) -> None:
    def write() -> None:
        path.parent.mkdir(exist_ok=True)
        text = json.dumps(saved._asdict())
        replace_text(path, f"{_seal(text)}\n{text}")

    on_first_process(write)


def _seal(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _encoded(state: State) -> Any:
    """A dict of arrays as JSON; a float32 survives it, for it is a double and Python writes doubles exactly."""
    return jax.tree.map(lambda leaf: {"dtype": str(leaf.dtype), "values": leaf.tolist()}, jax.device_get(state))


def _decoded(state: Any) -> State:
    def is_array(value: Any) -> bool:
        return value.keys() == {"dtype", "values"}

    return jax.tree.map(lambda leaf: np.array(leaf["values"], leaf["dtype"]), state, is_leaf=is_array)
