"""Runs that are killed at any moment end as if they had not been: real processes, signals and full disks."""

import random
import re
import signal
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.stopping import STOPPED
from tests.commands import TINY, finish, lines_of, outcome, start

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
