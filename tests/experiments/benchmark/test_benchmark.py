"""The benchmark's command: its workers, a tiny run of the contestants that are at hand, and refusals."""

import json
import pickle
import re
import runpy
import subprocess
from contextlib import nullcontext
from unittest.mock import Mock

import numpy as np
import pytest

from experiments.benchmark import __main__ as main
from experiments.benchmark import input_rate, worker
from experiments.benchmark.__main__ import Arguments, benchmark, run, take_turns
from experiments.benchmark.roster import FLOOR, OURS, STDB, STEP_LOOP, package_of
from experiments.benchmark.worker import Task
from jsnn.data.datasets import Split
from jsnn.data.sources import resident_source
from tests.experiments.benchmark.benchmark_problem import problem


@pytest.fixture
def task(tmp_path):
    """A worker's, whose problem is written."""
    (tmp_path / "problem").write_bytes(pickle.dumps(problem()))
    return Task("train", OURS, "cpu", 0.1, 60.0, 2**40, "vgg5", 2, 4, STDB, str(tmp_path / "problem"))


@pytest.mark.parametrize(
    ("changes", "timeout", "why_not"),
    [
        ({"problem": "nowhere"}, 100, "failed: .*nowhere.*"),
        ({"most_bytes": 10**6}, 100, "over 0 GB"),
        ({}, 0.01, "over 0 s"),
    ],
)
def test_a_worker_that_fails_or_is_ended_says_why_and_is_not_repeated(changes, timeout, why_not, task):
    (record,) = take_turns([task._replace(**changes)], repeats=2, timeout=timeout)
    assert "seconds" not in record
    assert re.fullmatch(why_not, record["why_not"])


def test_a_worker_takes_the_first_images_of_the_problem(task):
    given = worker.given(task._replace(batch=1, surrogate="linear"))
    np.testing.assert_array_equal(given.images, problem().images[:1])
    assert given.labels.shape == (1,)
    assert given.surrogate == "linear"


def test_workers_have_huge_pages_and_take_memory_as_they_need_it(monkeypatch, task):
    started = Mock(return_value=subprocess.CompletedProcess([], 0, "{}", ""))
    monkeypatch.setattr(main.subprocess, "run", started)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)  # the tests' own
    assert run(task, timeout=1) == {}
    given = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    assert started.call_args.kwargs["env"].items() >= {**given, "JAX_PLATFORMS": "cpu"}.items()
    monkeypatch.setenv("GLIBC_TUNABLES", "of the user's own")
    run(task, timeout=1)
    assert started.call_args.kwargs["env"]["GLIBC_TUNABLES"] == "of the user's own"


def measured(task, timeout):
    """What `run` returns, but for the step loop in this process: to start another and to import takes longest."""
    if (task.what, task.contestant) == ("train", STEP_LOOP):
        return run(task, timeout)
    return json.loads(json.dumps(getattr(worker, task.what)(task)))


@pytest.mark.slow
def test_a_whole_tiny_benchmark(tmp_path, monkeypatch):
    """Every kind of work by jsnn and the step loop; long, for it compiles jsnn and imports PyTorch twice."""
    monkeypatch.setattr(main, "run", measured)
    monkeypatch.setattr(worker, "_memory_before", lambda _: 0)  # which would watch this process
    names = OURS, STEP_LOOP, "norse"
    absent = [name for name in names if package_of(name) is None]
    small = {"width": 0.0625, "hidden": (16,), "balanced_net": "vgg5", "balanced_width": 0.0625}
    shapes = {"shapes": ("4x2-stdb",), "long_shapes": (), "evaluation": ("4x2",), "balancing": ("4x12",)}
    arguments = Arguments(**small, **shapes, contestants=names, repeats=1, seconds=0.0, output=tmp_path)
    text = benchmark(arguments)
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert written["absent"] == absent
    assert not [record["why_not"] for record in written["records"] if "why_not" in record]
    shown = {(record["what"], record["contestant"]): record for record in written["records"]}
    assert {("train", FLOOR), ("train", OURS), ("evaluate", OURS), ("balance", OURS)} <= shown.keys()
    assert all({("train", name), ("evaluate", name)} <= shown.keys() for name in names if name not in absent)
    assert min(shown["train", OURS][field] for field in ("compile", "temporaries_bytes", "neurons")) > 0
    if STEP_LOOP not in absent:
        assert shown["train", STEP_LOOP]["compile"] is None  # jax is not even imported
        assert shown["train", STEP_LOOP]["peak_bytes"] > 0
        ours, peer = shown["balance", OURS], shown["balance", STEP_LOOP]
        assert ours["thresholds"] == pytest.approx(peer["thresholds"], rel=1e-5)
    assert (f"Not installed, so absent: {', '.join(absent)}" in text) == bool(absent)
    assert (tmp_path / "benchmark.md").read_text() == text
    assert (tmp_path / "benchmark.csv").read_text().startswith("what,net,batch,num_steps,surrogate,contestant,seconds")
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_measured_is_kept_where_it_is_interrupted(tmp_path, monkeypatch):
    answers = Mock(side_effect=[{"platform": "cpu"}, {"first": 1.0, "seconds": [0.5]}, KeyboardInterrupt])
    monkeypatch.setattr(main, "run", answers)
    monkeypatch.setattr(main, "prepare", lambda *_, **__: problem())
    with pytest.raises(KeyboardInterrupt):
        benchmark(Arguments(shapes=("4x4-stdb",), contestants=(OURS,), output=tmp_path))
    (record,) = json.loads((tmp_path / "benchmark.json").read_text())["records"]
    assert record["seconds"] == [0.5]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--nets resnet20", "'resnet20'"),
        ("--contestants tensorflow", "'tensorflow'"),
        ("--device abacus", "'abacus'"),
        ("--shapes 16x4", "error: shape '16x4' must be a batch and a number of time steps, such as 16x100-stdb or"),
        ("--long-shapes 16x4-arctan", "error: shape '16x4-arctan' must be"),
        ("--evaluation 0x4", "error: shape '0x4' must be"),
        ("--balancing 16x4-stdb", "'16x4-stdb' must be a batch and a number of time steps, such as 16x100.\n"),
        ("--shapes --long-shapes", "error: no training step is to be measured"),
        ("--repeats 0", "error: repeats must be at least 1, got 0"),
        ("--leak 1.5", "error: leak must be in (0, 1], got 1.5"),
    ],
)
def test_the_command_refuses_what_cannot_be_measured(words, sentence, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark", *words.split()])
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(main.__file__, run_name="__main__")
    assert refused.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--dataset digits", "digits is read at once, not streamed"),
        ("--batch-size 0", "batch_size must be at least 1 and at most the split's 30 samples, got 0"),
        ("--batch-size 31", "batch_size must be at least 1 and at most the split's 30 samples, got 31"),
        ("--batches 0", "batches must be at least 1, got 0"),
        ("--batches 3", None),
    ],
)
def test_a_stream_is_timed_or_refused(words, sentence, monkeypatch, capsys):
    stream = resident_source(Split(np.zeros((30, 2, 2, 1), np.uint8), np.zeros(30, np.int32)))
    monkeypatch.setattr(input_rate, "streamed_source", lambda *_: stream)
    monkeypatch.setattr("sys.argv", ["input_rate", *words.split()])
    with pytest.raises(ValueError, match=sentence) if sentence else nullcontext():
        input_rate.main()
    assert sentence or re.fullmatch(r"\d+ images/s\n", capsys.readouterr().out)
