"""Runs that are killed at any moment end as if they had not been: real processes, signals and full disks."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.runs.lock import locked
from experiments.runs.stopping import STOPPED
from tests.commands import SHORT, TINY, finish, lines_of, outcome, start
from tests.conftest import ROOT

EPOCHS = {"ann": 20, "hybrid": 12}
COMMAND = [*TINY, "--ann.epochs", "20", "--finetune.epochs", "12", "--checkpoint-steps", "7", *SHORT]
KILL, TERM = signal.SIGKILL, signal.SIGTERM
# After which line a process is hit, and by what; then it goes on for a random moment.
HITS = (
    (r"ann first step", KILL),
    (r"ann epoch ([4-9]|\d\d)/", KILL),
    (r"ann epoch ([89]|\d\d)/", TERM),
    (r"ann epoch (1[3-9]|20)/", KILL),
    (r"ann epoch 20/", KILL),
    (r"converted thresholds", KILL),
    (r"hybrid first step", KILL),
    (r"hybrid epoch ([3-9]|\d\d)/", TERM),
    (r"hybrid epoch ([7-9]|\d\d)/", KILL),
    (r"ann +test", KILL),
)


@pytest.fixture(scope="module", params=[1, 4], ids=lambda devices: f"{devices} devices")
def uninterrupted(request, tmp_path_factory):
    """A run that nothing happens to: (devices, workdir)."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    status, output = finish(start(*COMMAND, "--workdir", workdir, devices=request.param))
    assert status == 0, output
    return request.param, workdir


def arrays(checkpoint):
    """All arrays of a checkpoint: params, optimiser, thresholds, steps."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(checkpoint / "tree")


def assert_same_to_the_bit(workdir, other):
    """Params, optimiser, thresholds, metrics and results."""
    assert outcome(workdir) == outcome(other)
    for network in ("ann", "converted", "hybrid"):
        last = str(max(int(path.name) for path in (other / network).iterdir()))
        np.testing.assert_equal(arrays(workdir / network / last), arrays(other / network / last))


def last_saved(workdir):
    """The stage that is under way and the number of its last checkpoint, as far as they can be seen."""
    for network in ("hybrid", "ann"):
        numbers = [int(path.name) for path in (workdir / network).glob("[0-9]*")]
        if numbers:
            return network, max(numbers)
    return "ann", 0


def assert_goes_on(output, before):
    """A life starts from what the lives before it have saved, not from the beginning."""
    network, step = before
    found = re.search(rf"{network}: going on in epoch \d+ after step (\d+)", output)
    done = {"ann": "train_ann: done before", "hybrid": "finetune: done before"}[network] in output
    assert done or not step or int(found[1]) >= step


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(uninterrupted, tmp_path):
    devices, expected = uninterrupted
    rng = random.Random(devices)
    for life, (pattern, number) in enumerate(HITS):
        when = ["--checkpoint-minutes", "0.001"] if life % 3 == 2 else []
        before = last_saved(tmp_path)
        process = start(*COMMAND, *when, "--workdir", tmp_path, devices=devices)
        output = ""
        for line in lines_of(process):
            output += line
            if re.search(pattern, line):
                break
        else:
            pytest.fail(f"no life came to {pattern}: {output}")
        asked_at = last_saved(tmp_path)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(number)
        status, rest = finish(process)
        assert status == (-KILL if number == KILL else STOPPED), rest
        assert_goes_on(output, before)
        if number == TERM:  # it was amid an epoch, and has saved after the signal
            assert last_saved(tmp_path)[1] > asked_at[1]
            assert "stopped on request" in rest
    status, output = finish(start(*COMMAND, "--workdir", tmp_path, devices=devices))
    assert status == 0, output
    assert_same_to_the_bit(tmp_path, expected)
    assert [(r["stage"], r["step"]) for r in outcome(tmp_path)[1]] == [
        (stage, epoch) for stage, count in EPOCHS.items() for epoch in range(1, count + 1)
    ]


def test_a_second_signal_ends_a_process_at_once():
    code = "import time; from experiments import stopping\nwith stopping.on_signals():\n  print('on')\n  time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-uc", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "on\n"
    process.send_signal(TERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(TERM)
    assert process.wait(timeout=5) == 128 + TERM


def is_gone(group, patience):
    """Whether all processes of a group have ended, after so many seconds at most."""
    for _ in range(10 * patience):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


STREAM = """
    vgg16_imagenet --architecture vgg5 --width 0.0625 --hidden 4 --batch-size 60 --eval-batch-size 60 --ann.epochs 99
    --workers 1
""".split()


@pytest.mark.slow
@pytest.mark.real_data
def test_a_signal_to_all_processes_of_a_job_spares_those_that_decode(data_dir, tmp_path):
    process = start(*STREAM, "--data-dir", data_dir, "--workdir", tmp_path, module="experiments.train_ann")
    output = ""
    while "ann first step" not in output:
        output += process.stdout.readline() or pytest.fail(output)
    os.killpg(process.pid, signal.SIGINT)
    status, rest = finish(process)
    assert status == STOPPED, rest
    assert "Traceback" not in rest
    assert last_saved(tmp_path)[1] > 0
    assert is_gone(process.pid, patience=20)  # no worker is left behind


@pytest.mark.slow
def test_a_second_process_on_a_workdir_is_refused(tmp_path):
    first = start(*COMMAND, "--workdir", tmp_path)
    assert next(line for line in lines_of(first) if "ann epoch 1/" in line)
    status, output = finish(start(*COMMAND, "--workdir", tmp_path))
    first.kill()
    finish(first)
    assert status == 2
    assert output.startswith(f"error: {tmp_path} is in use by process {first.pid} on ")
    with locked(tmp_path):  # the system took the lock from the one that was killed
        pass


FULL_DISK = """
mount -t tmpfs -o size=$1 none "$DISK" || exit 99
"$PYTHON" -m experiments.train_ann "${@:2}" --workdir "$DISK/run"; status=$?
cp -a "$DISK/run" "$KEPT"; exit $status
"""


@pytest.mark.slow
@pytest.mark.parametrize("uninterrupted", [1], indirect=True)
@pytest.mark.parametrize("size", ["24k", "132k"])
def test_a_run_whose_disk_was_full_goes_on_when_there_is_room(size, uninterrupted, tmp_path):
    devices, expected = uninterrupted
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    environment |= {"PYTHON": sys.executable, "DISK": str(disk), "KEPT": str(kept)}
    arguments = ["unshare", "-rm", "bash", "-c", FULL_DISK, "full", size, *COMMAND]
    process = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if process.returncode == 99 or process.stderr.startswith("unshare: "):
        pytest.skip("this machine lets nobody mount a small disk")
    assert process.returncode == 2, process.stderr
    assert re.fullmatch(r"error: .*No space left on device.*\n", process.stderr)
    status, output = finish(start(*COMMAND, "--workdir", kept, devices=devices, module="experiments.train_ann"))
    assert status == 0, output
    np.testing.assert_equal(arrays(kept / "ann" / "400"), arrays(expected / "ann" / "400"))
    assert outcome(kept)[1] == outcome(expected)[1][: EPOCHS["ann"]]
