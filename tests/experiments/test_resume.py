"""Runs that are interrupted at any moment end as if they had not been: in this process, and by real signals."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest

from experiments.fields import Config, Runtime
from experiments.hybrid import hybrid
from experiments.runs import loop, progress
from experiments.runs.data import open_source
from experiments.runs.files import locked
from experiments.runs.stopping import GO_ON, SAVE, STOPPED
from experiments.train_ann import train_ann
from tests.conftest import ROOT
from tests.experiments.commands import TINY, Killed, arrays, finish, outcome, run, start

COMMAND = [*TINY, "--checkpoint-steps", "7"]
KILL, TERM = signal.SIGKILL, signal.SIGTERM


def assert_same_to_the_bit(workdir, other):
    """Params, optimiser, thresholds, metrics and results."""
    assert outcome(workdir) == outcome(other)
    for network in ("ann", "converted", "hybrid"):
        np.testing.assert_equal(arrays(workdir, network), arrays(other, network))


def last_saved(workdir):
    """The network that is trained and the number of its last checkpoint; larger for later ones: ann < hybrid."""
    saved = [path for network in ("ann", "hybrid") for path in (workdir / network).glob("*") if path.name.isdecimal()]
    return max(((path.parent.name, int(path.name)) for path in saved), default=("ann", 0))


def assert_goes_on(output, before):
    """A life starts from what the lives before it have saved, not from the beginning."""
    network, step = before
    match = re.search(rf"{network}: going on in epoch \d+ after step (\d+)", output)
    done = {"ann": "train_ann: done before", "hybrid": "finetune: done before"}[network] in output
    assert done or not step or int(match[1]) >= step


@pytest.fixture
def hit(monkeypatch):
    """Has the run in this process killed, or asked to stop, at its so manieth event: a line or a training step."""

    def arrange(event, number):
        left = [event]

        def counted(work):
            def counting(argument):
                left[0] -= 1
                if left[0] == 0 and number == KILL:
                    raise Killed
                if left[0] == 0:
                    os.kill(os.getpid(), TERM)
                return work(argument)

            return counting

        monkeypatch.undo()
        for module, function in ((progress, "_write"), (loop, "split_over_devices")):
            monkeypatch.setattr(module, function, counted(getattr(module, function)))

    return arrange


def test_a_run_interrupted_at_random_moments_ends_as_if_it_had_not_been(hit, tiny, tmp_path, capsys):
    """In this process, on four devices."""
    rng, workdir = random.Random(0), tmp_path / "run"
    for life in range(30):
        number = TERM if life % 3 == 2 else KILL
        when = ["--checkpoint-minutes", "0.001"] if life % 4 == 3 else []
        before = last_saved(workdir)
        hit(rng.randint(5, 30), number)
        try:
            status = run(hybrid, workdir, *COMMAND, *when)
        except Killed:
            status = -KILL
        output = capsys.readouterr().out
        assert_goes_on(output, before)
        if "stopped on request in epoch" in output:  # it was amid an epoch, and has saved after the signal
            assert last_saved(workdir) > before
        if status == 0:
            break
        assert status == (-KILL if number == KILL else STOPPED)
    assert life >= 6
    assert_same_to_the_bit(workdir, tiny)


@pytest.mark.slow
def test_real_signals_at_random_moments_are_survived(tiny, tmp_path):
    """By processes of their own, and the last life by this one."""
    rng = random.Random(1)
    for pattern, number in ((r"ann .* epoch 2/", KILL), (r"hybrid .* epoch 1/", TERM)):
        before, process = last_saved(tmp_path), start(*COMMAND, "--workdir", tmp_path, devices=4)
        output = ""
        while not re.search(pattern, output):
            output += process.stdout.readline() or pytest.fail(f"no life came to {pattern}: {output}")
        asked_at = last_saved(tmp_path)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(number)
        status, rest = finish(process)
        assert status == (-KILL if number == KILL else STOPPED), rest
        assert_goes_on(output, before)
        if number == TERM:  # it was amid an epoch, and has saved after the signal
            assert last_saved(tmp_path) > asked_at
            assert "stopped on request" in rest
    assert run(hybrid, tmp_path, *COMMAND) == 0
    assert_same_to_the_bit(tmp_path, tiny)


def test_a_second_signal_ends_a_process_at_once():
    lines = "import time", "from experiments.runs import stopping", "with stopping.on_signals():", "  print('on')"
    code = "\n".join([*lines, "  time.sleep(60)"])
    process = subprocess.Popen([sys.executable, "-uc", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "on\n"
    process.send_signal(TERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(TERM)
    assert process.wait(timeout=5) == 128 + TERM


STREAM = """
    vgg16_imagenet --dataset small_imagenet2012 --data-module tests.experiments.small_data --architecture vgg5
    --width 0.0625 --hidden 4 --batch-size 60 --eval-batch-size 60 --ann.epochs 9 --workers 1
""".split()


@pytest.mark.slow
@pytest.mark.real_data
def test_a_signal_to_all_processes_of_a_job_spares_those_that_decode(data_dir, tmp_path):
    process, output = start(*STREAM, "--workdir", tmp_path, module="experiments.train_ann"), ""
    while "epoch 1/" not in output:
        output += process.stdout.readline() or pytest.fail(output)
    os.killpg(process.pid, signal.SIGINT)
    status, rest = finish(process)
    assert status == STOPPED, rest
    assert "Traceback" not in rest
    assert last_saved(tmp_path)[1] > 0
    with suppress(ProcessLookupError):
        for _ in range(200):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        pytest.fail("a worker is left behind")


HOLDING = """
import sys
from pathlib import Path
from experiments.runs.files import locked
with locked(Path(sys.argv[1])):
    print("held")
    sys.stdin.read()
"""


def test_a_second_process_on_a_workdir_is_refused(tmp_path, capsys):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first = subprocess.Popen([sys.executable, "-uc", HOLDING, str(tmp_path)], cwd=ROOT, **pipes)
    assert first.stdout.readline() == "held\n"
    assert run(hybrid, tmp_path, *COMMAND) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} is in use by process {first.pid} on ")
    first.kill()
    first.communicate()
    with locked(tmp_path):  # the system took the lock from the one that was killed
        pass


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (OSError("cannot identify image file"), 2, "cannot identify image file"),
        (RuntimeError("a worker died"), 1, "RuntimeError, see --debug: a worker died"),
    ],
)
def test_a_run_goes_on_after_an_error_of_its_input(error, status, sentence, tiny, tmp_path, monkeypatch, capsys):
    def failing(*arguments):
        source = open_source(*arguments)

        def shuffled(batch_size, seed, epoch, start):
            for number, item in enumerate(source.shuffled(batch_size, seed, epoch, start), start):
                if (epoch, number) == (2, 13):
                    raise error
                yield item

        return source._replace(shuffled=shuffled)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "open_source", failing)
        assert run(train_ann, tmp_path, *COMMAND) == status
    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert run(train_ann, tmp_path, *COMMAND) == 0
    assert outcome(tmp_path)[1] == outcome(tiny)[1][:3]


def test_a_run_saves_after_so_many_steps_or_minutes():
    config = Config(run=Runtime(checkpoint_steps=7, checkpoint_minutes=2))
    assert [loop._request(config, steps, 0.0) for steps in (6, 7)] == [GO_ON, SAVE]
    assert [loop._request(config, 1, seconds) for seconds in (119, 120)] == [GO_ON, SAVE]
    assert loop._request(Config(run=Runtime(checkpoint_minutes=2)), 10**6, 119) == GO_ON


FULL_DISK = """
mount -t tmpfs none "$DISK" || exit 99
for size in 24k 132k; do
    mount -o remount,size=$size "$DISK" || exit 99
    "$PYTHON" -m experiments.train_ann "$@" --workdir "$DISK/run"
    [ $? = 2 ] || exit 1
done
cp -a "$DISK/run" "$KEPT"
"""


@pytest.mark.slow
def test_a_run_whose_disk_was_full_goes_on_when_there_is_room(tiny, tmp_path):
    """In processes of its own, twice without room, then in this one, as many devices each."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4"}
    environment |= {"PYTHON": sys.executable, "DISK": str(disk), "KEPT": str(kept)}
    arguments = ["unshare", "-rm", "bash", "-c", FULL_DISK, "full", *COMMAND]
    process = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if process.returncode == 99 or process.stderr.startswith("unshare: "):
        pytest.skip("this machine lets nobody mount a small disk")
    assert process.returncode == 0, process.stderr
    assert re.fullmatch(r"(error: .*No space left on device.*\n){2}", process.stderr)
    assert run(train_ann, kept, *COMMAND) == 0
    np.testing.assert_equal(arrays(kept, "ann"), arrays(tiny, "ann"))
    assert outcome(kept)[1] == outcome(tiny)[1][:3]
