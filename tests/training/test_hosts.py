"""Several processes as one run: the same results, one lock, agreed stops, and nobody waits for the dead."""

import os
import re
import signal
import subprocess
import sys

import chex
import numpy as np
import pytest

from experiments.hybrid import hybrid
from experiments.runs import loop
from experiments.runs.stopping import STOPPED
from experiments.runs.workdir import read_results
from experiments.train_ann import train_ann
from tests.conftest import ROOT
from tests.experiments.commands import SHORT, TINY, arrays, finish, lines_of, outcome, run, together

# A learning rate at which rounding stays rounding: a larger one enlarges it from epoch to epoch.
RATES = "--ann.lr 0.003 --finetune.lr 3e-5".split()
COMMAND = [*TINY, *"--batch-size 256 --finetune.epochs 1 --checkpoint-steps 2".split(), *RATES, *SHORT]
PATIENCE = 60  # seconds within which the other stops by itself, with an error, when one is killed


def assert_equal_but_for_the_order_of_sums(workdir, other):
    """Which samples meet on a device differs, and so does rounding; noise, dropout and crops do not."""
    (actual, records), (expected, others) = outcome(workdir), outcome(other)
    assert [(r["stage"], r["step"]) for r in records] == [(r["stage"], r["step"]) for r in others]
    np.testing.assert_allclose([r["loss"] for r in records], [r["loss"] for r in others], rtol=1e-5)
    thresholds = [results["converted"]["thresholds"] for results in (actual, expected)]
    np.testing.assert_allclose(*(list(layers.values()) for layers in thresholds), rtol=1e-5)
    for network in ("ann", "converted", "hybrid"):
        assert actual[network]["accuracy"] == pytest.approx(expected[network]["accuracy"], abs=2 / 360)
        params = [arrays(folder, network) for folder in (workdir, other)]
        chex.assert_trees_all_close(*params, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_processes_equal_one_and_a_run_goes_on_with_another_number_of_them(tmp_path, monkeypatch):
    """Four processes of their own, each of which imports jax and loads its programs: asked to stop, and done."""
    alone, workdir = tmp_path / "alone", tmp_path / "together"
    assert run(hybrid, alone, *COMMAND) == 0  # with the four devices of this process
    first, second = together(2, *COMMAND, "--workdir", workdir, devices=2, module="experiments.train_ann")
    assert any(re.search(r"ann .* epoch 1/", line) for line in lines_of(first))
    second.terminate()  # asks one process, stops both at the same step
    assert [finish(process)[0] for process in (first, second)] == [STOPPED, STOPPED]
    with monkeypatch.context() as patch:  # then one process alone, up to its first line
        patch.setattr(loop, "stop_if_asked", lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert run(train_ann, workdir, *COMMAND) == STOPPED
    first, second = together(2, *COMMAND, "--workdir", workdir, devices=2)
    output = finish(first)[1]
    assert (first.returncode, finish(second)[0]) == (0, 0), output
    assert "ann: going on in epoch" in output
    assert_equal_but_for_the_order_of_sums(workdir, alone)
    assert read_results(workdir)["environment"]["process_count"] == 2


TASK = """
import os, sys
import jax, numpy as np
from experiments.runs.command_line import main, run_command
from jsnn.training import hosts
def fail():
    raise OSError("the disk of the first is full")
def work(run):
    print("joined", jax.process_count(), jax.process_index())
    print("all_gather", hosts.all_gather(np.array([2**40 + jax.process_index()])).tolist())
    print("by first", hosts.on_first_process(lambda: {"found": [jax.process_index(), "é"]}))
    try:
        hosts.on_first_process(fail)
    except ValueError as error:
        print("raised", error)
    while True:
        hosts.all_gather(np.zeros(1))
hosts.HEARTBEAT = 10  # seconds
print("status", main("test", "A test.", work, sys.argv[1:]), os.listdir())
hosts.join = lambda *joined: None
del sys.argv[-2:]
run_command("test", "A test.", work)
"""
SLURM = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "localhost"}


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_tasks_of_slurm_meet_refuse_a_different_start_agree_and_stop_where_one_is_killed(killed, tmp_path):
    tasks = []
    for number in "01":
        settings = SLURM | {"SLURM_PROCID": number, "SLURM_LOCALID": number, "PYTHONPATH": str(ROOT)}
        arguments = [sys.executable, "-uc", TASK, *TINY, "--workdir", "run", "--seed", number]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        tasks.append(subprocess.Popen(arguments, cwd=tmp_path, env=os.environ | settings, **pipes))
    for number, task in enumerate(tasks):
        lines = (line for line in lines_of(task) if "Gloo" not in line)
        assert next(lines).startswith("error: the processes were started with different fields")
        assert [next(lines, "").strip() for _ in range(5)] == [
            "status 2 []",
            f"joined 2 {number}",
            f"all_gather [[{2**40}], [{2**40 + 1}]]",
            "by first {'found': [0, 'é']}",
            "raised the disk of the first is full",
        ]
    tasks[killed].kill()
    status, output = finish(tasks[1 - killed], PATIENCE)
    assert status not in (0, STOPPED), output
    finish(tasks[killed])
