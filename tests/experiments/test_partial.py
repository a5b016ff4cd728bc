"""Passes of conversion and evaluation go on from the batch where they were, and end to the bit the same."""

import os
import signal
from functools import partial

import numpy as np
import pytest

from experiments import convert, evaluate
from experiments.config import with_fields
from experiments.hybrid import up_to
from experiments.runs import partial as passes
from experiments.runs.partial import resumable
from experiments.runs.records import saved_config
from experiments.runs.stopping import STOPPED, Stopped, on_signals
from experiments.runs.workdir import Run
from tests.experiments.commands import TINY, Killed, outcome, run


@pytest.fixture
def toy(tiny, tmp_path, monkeypatch):
    """A run, and a pass of it over seven numbers: what it computes is counted, and it may end amid an item."""
    monkeypatch.setattr(passes, "SAVE_EVERY", 0.0)
    counted = []

    def fold(end_at=None, by=None, name="toy, stream 0", stage="evaluate", **fields):
        run = Run(with_fields(saved_config(tiny), fields), tmp_path, None)

        def add(state, item):
            counted.append(item)
            if item == end_at:
                by()
            value = np.float32(1 / (item + 3))
            if state is None:
                return {"sum": value, "by": {"item": np.full(3, item, np.int64)}}
            return {"sum": state["sum"] + value, "by": {"item": state["by"]["item"] * 3 + item}}

        with on_signals():
            return resumable(run, stage)[0](name, 7, lambda start: iter(range(start, 7)), add)

    return fold, counted


def die():
    raise Killed


def ask():
    os.kill(os.getpid(), signal.SIGTERM)


def assert_same(state, other):
    for one, two in ((state["sum"], other["sum"]), (state["by"]["item"], other["by"]["item"])):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("item", range(7))
def test_a_pass_goes_on_to_the_bit_from_wherever_it_was_killed(item, toy):
    fold, counted = toy
    expected = fold(name="another pass")
    del counted[:]
    with pytest.raises(Killed):
        fold(item, die)
    assert_same(fold(), expected)
    assert counted == [*range(item + 1), *range(item, 7)]
    assert_same(fold(), expected)  # it was done: nothing is computed again
    assert len(counted) == 8


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_pass_that_is_asked_to_stop_saves_and_loses_nothing(number, toy):
    fold, counted = toy
    with pytest.raises(Stopped, match="after 4 of 7 batches of toy, stream 0; the same command goes on"):
        fold(3, lambda: os.kill(os.getpid(), getattr(signal, number)))
    fold()
    assert counted == list(range(7))


@pytest.mark.parametrize(
    "fields",
    [{"run.eval_batch_size": 32}, {"convert.percentile": 99.0}, {"data.flip": True}, {"stage": "finetune"}],
)
def test_a_pass_of_something_else_begins_anew(fields, toy):
    fold, counted = toy
    with pytest.raises(Stopped):
        fold(3, ask)
    fold(**fields)
    assert counted == [0, 1, 2, 3, *range(7)]


@pytest.mark.parametrize("change", [lambda text: text[:-9], lambda text: text.replace("3", "4"), lambda text: ""])
def test_a_damaged_state_begins_anew(change, toy, tmp_path):
    fold, counted = toy
    with pytest.raises(Stopped):
        fold(3, ask)
    (path,) = (tmp_path / passes.PARTIAL).iterdir()
    path.write_text(change(path.read_text()))
    fold()
    assert counted == [0, 1, 2, 3, *range(7)]


def test_the_time_before_counts(toy, tmp_path, tiny, monkeypatch):
    fold, _ = toy
    with pytest.raises(Stopped):
        fold(3, ask)
    run = Run(saved_config(tiny), tmp_path, None)
    clock = passes.time.perf_counter
    monkeypatch.setattr(passes.time, "perf_counter", lambda: clock() + 100)  # a later process has a clock of its own
    assert 0 < passes.time.perf_counter() - resumable(run, "evaluate")[1] < 50
    now = passes.time.perf_counter()
    assert resumable(run, "finetune")[1] == pytest.approx(now, abs=1)


@pytest.mark.parametrize("stage", ["convert", pytest.param("evaluate", marks=pytest.mark.slow)])
def test_a_stage_in_slices_ends_the_same_and_computes_nothing_twice(stage, tiny, tmp_path, monkeypatch):
    """In four lives of up to a third of the batches each; three layers and passes are left amid."""
    batches, names = 0, []
    workdir, fields = tmp_path / "run", [*TINY, "--eval-batch-size", "32", "--from-run", str(tiny)]
    module = {"convert": convert, "evaluate": evaluate}[stage]
    if stage == "convert":
        fields += ["--percentile", "99.9"]

    def counting(limit):
        def folds(*arguments):
            saving, begin = resumable(*arguments)

            def fold(name, total, items, add):
                def adding(state, item):
                    names.append(name)
                    if len(names) == limit:
                        ask()
                    return add(state, item)

                return saving(name, total, items, adding)

            return fold, begin

        monkeypatch.setattr(module, "resumable", folds)

    counting(None)
    uninterrupted = tmp_path / "uninterrupted"
    assert run(partial(up_to, stage), uninterrupted, *fields) == 0
    batches = len(names)
    expected = sorted(names)
    del names[:]
    for life in (1, 2, 3, 4):
        counting(life * batches // 3 if life < 4 else None)
        status = run(partial(up_to, stage), workdir, *fields)
        if status == 0:
            break
        assert status == STOPPED
    assert life == 4
    assert sorted(names) == expected
    assert outcome(workdir) == outcome(uninterrupted)
    assert not (workdir / passes.PARTIAL).exists()
