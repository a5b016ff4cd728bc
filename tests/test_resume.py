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

from experiments.lock import locked
from experiments.stopping import STOPPED
from tests.commands import TINY, finish, lines_of, outcome, start
from tests.conftest import ROOT

EPOCHS = {"ann": 24, "hybrid": 14}
COMMAND = [*TINY, "--ann-epochs", "24", "--hybrid-epochs", "14", "--checkpoint-steps", "7"]
KILL, TERM = signal.SIGKILL, signal.SIGTERM
# After which line a process is hit, and by what; then it goes on for a random moment.
HITS = (
    (r"ann first step", KILL),
    (r"ann epoch ([4-9]|\d\d)/", KILL),
    (r"ann epoch ([89]|\d\d)/", TERM),
    (r"ann epoch 1[2-9]/", KILL),
    (r"ann epoch (1[6-9]|2\d)/", KILL),
    (r"ann epoch 24/", KILL),
    (r"converted thresholds", KILL),
    (r"hybrid first step", KILL),
    (r"hybrid epoch ([3-9]|\d\d)/", TERM),
    (r"hybrid epoch ([6-9]|\d\d)/", KILL),
    (r"hybrid epoch (9|\d\d)/", KILL),
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


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(uninterrupted, tmp_path):
    devices, expected = uninterrupted
    rng, statuses = random.Random(devices), []
    for pattern, number in HITS:
        process = start(*COMMAND, "--workdir", tmp_path, devices=devices)
        seen = next((line for line in lines_of(process) if re.search(pattern, line)), None)
        assert seen, f"no life came to {pattern}"
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(number)
        statuses.append((number, finish(process)[0]))
    assert {status for number, status in statuses if number == KILL} == {-KILL}
    assert {status for number, status in statuses if number == TERM} == {STOPPED}
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
@pytest.mark.parametrize("size", ["24k", "60k", "132k"])
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
    np.testing.assert_equal(arrays(kept / "ann" / "480"), arrays(expected / "ann" / "480"))
    assert outcome(kept)[1] == outcome(expected)[1][: EPOCHS["ann"]]
