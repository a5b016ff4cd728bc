"""Several processes as one run: the same losses, one lock, agreed stops, and nobody waits for the dead."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.hybrid import hybrid
from experiments.runs import loop
from experiments.runs.stopping import STOPPED
from experiments.runs.workdir import read_results
from experiments.train_ann import train_ann
from tests.conftest import ROOT
from tests.experiments.commands import SHORT, TINY, finish, lines_of, outcome, run, together

# A learning rate at which rounding stays rounding: a larger one enlarges it from epoch to epoch.
RATES = "--ann.lr 0.003 --finetune.lr 3e-5".split()
COMMAND = [*TINY, "--ann.epochs", "4", "--finetune.epochs", "2", "--checkpoint-steps", "7", *RATES, *SHORT]
PATIENCE = 60  # seconds within which the others stop when one is killed


def wait_for(pattern, process):
    line = next((line for line in lines_of(process) if re.search(pattern, line)), None)
    assert line, f"no line {pattern}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The workdir of this process alone, with its four devices."""
    workdir = tmp_path_factory.mktemp("alone")
    assert run(hybrid, workdir, *COMMAND) == 0
    return workdir


def assert_equal_losses(records, others):
    assert [(r["stage"], r["step"]) for r in records] == [(r["stage"], r["step"]) for r in others]
    np.testing.assert_allclose([r["loss"] for r in records], [r["loss"] for r in others], rtol=1e-5)


def assert_equal_but_for_the_order_of_sums(workdir, other):
    """Which samples meet on a device differs, and so does rounding; noise, dropout and crops do not."""
    (actual, records), (expected, others) = outcome(workdir), outcome(other)
    assert len(records) == len(others)
    assert_equal_losses(records, others)
    thresholds = [results["converted"]["thresholds"] for results in (actual, expected)]
    np.testing.assert_allclose(*(list(layers.values()) for layers in thresholds), rtol=1e-5)
    for network in ("ann", "converted", "hybrid"):
        assert actual[network]["accuracy"] == pytest.approx(expected[network]["accuracy"], abs=2 / 360)


@pytest.mark.slow
def test_two_processes_equal_one_and_a_run_goes_on_with_another_number_of_them(alone, tmp_path, monkeypatch):
    """Six processes of their own, each of which imports jax and loads its programs: asked to stop, killed, done."""
    first, second = together(2, *COMMAND, "--workdir", tmp_path, devices=2, module="experiments.train_ann")
    wait_for(r"ann .* epoch 1/", first)
    second.terminate()  # asks one process, stops both at the same step
    assert [finish(process)[0] for process in (first, second)] == [STOPPED, STOPPED]
    first, second = together(2, *COMMAND, "--workdir", tmp_path, devices=2, module="experiments.train_ann")
    wait_for(r"ann .* epoch 2/", first)
    assert_the_other_stops(second, first)
    with monkeypatch.context() as patch:  # then one process alone, up to its first line
        patch.setattr(loop, "stop_if_asked", lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert run(train_ann, tmp_path, *COMMAND) == STOPPED
    first, second = together(2, *COMMAND, "--workdir", tmp_path, devices=2)
    output = finish(first)[1]
    assert (first.returncode, finish(second)[0]) == (0, 0), output
    assert "ann: going on in epoch" in output
    assert_equal_but_for_the_order_of_sums(tmp_path, alone)
    assert read_results(tmp_path)["environment"]["process_count"] == 2


@pytest.mark.slow
def test_where_the_first_process_is_killed_the_other_stops_and_one_alone_goes_on(alone, tmp_path, capsys):
    first, second = together(2, *COMMAND, "--workdir", tmp_path, devices=2, module="experiments.train_ann")
    wait_for(r"ann .* epoch 1/", first)
    assert_the_other_stops(first, second)
    assert run(train_ann, tmp_path, *COMMAND) == 0
    assert "ann: going on in epoch" in capsys.readouterr().out
    assert_equal_losses(outcome(tmp_path)[1], outcome(alone)[1][:4])


def assert_the_other_stops(killed, other):
    """Where one process is killed, the other stops by itself, with an error."""
    killed.kill()
    begin = time.monotonic()
    status, output = finish(other, timeout=PATIENCE)
    assert time.monotonic() - begin < PATIENCE
    assert status not in (0, STOPPED), output
    finish(killed)


JOINED = """
import jax, numpy as np
from jsnn.training import hosts
hosts.join({arguments})
def fail():
    raise OSError("the disk of the first is full")
print("joined", jax.process_count(), jax.process_index())
print("all_gather", hosts.all_gather(np.array([2**40 + jax.process_index()])).tolist())
print("by first", hosts.on_first_process(lambda: {{"found": [jax.process_index(), "é"]}}))
try:
    hosts.on_first_process(fail)
except ValueError as error:
    print("raised", error)
"""
SLURM = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "localhost"}


@pytest.mark.slow
def test_tasks_of_slurm_find_each_other_and_agree():
    tasks = []
    for number in "01":
        settings = SLURM | {"SLURM_PROCID": number, "SLURM_LOCALID": number, "JAX_PLATFORMS": "cpu"}
        arguments = [sys.executable, "-c", JOINED.format(arguments="")]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        tasks.append(subprocess.Popen(arguments, cwd=ROOT, env=os.environ | settings, **pipes))
    for number, task in enumerate(tasks):
        output, errors = task.communicate(timeout=120)
        assert task.returncode == 0, errors
        said = [line for line in output.splitlines() if "Gloo" not in line]
        assert said == [
            f"joined 2 {number}",
            f"all_gather [[{2**40}], [{2**40 + 1}]]",
            "by first {'found': [0, 'é']}",
            "raised the disk of the first is full",
        ]


@pytest.mark.slow
def test_processes_that_were_started_differently_are_refused(tmp_path):
    first, second = together(2, *COMMAND, "--workdir", tmp_path / "run", devices=2, different="--seed")
    for process in (first, second):
        status, output = finish(process)
        assert status == 2
        assert "error: the processes were started with different fields" in output
    assert not (tmp_path / "run").exists()
