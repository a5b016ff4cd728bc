"""Readers that go away, terminals that hang up, and encodings that lack a character end no run."""

import asyncio
import errno
import gc
import io
import os
import re
import signal
import subprocess
import sys

import pytest

from experiments.runs import progress
from experiments.runs.command_line import report_error
from experiments.runs.progress import duration
from experiments.runs.stopping import is_asked, on_signals
from experiments.train_ann import train_ann
from tests.conftest import ROOT
from tests.experiments.commands import TINY, outcome, run


def test_a_run_goes_on_when_the_reader_of_its_pipe_is_gone(tiny, tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert run(train_ann, tmp_path, *TINY) == 0
    assert outcome(tmp_path)[1] == outcome(tiny)[1][:3]


def test_a_full_disk_is_told_in_one_sentence(tiny_copy, caplog, capsys):
    """Orbax writes by many tasks at once: what befalls those that nobody waits for any more isn't logged."""

    async def write():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def write_all():
        others = [asyncio.create_task(write()) for _ in range(3)]
        await asyncio.wait(others)
        await write()

    assert run(lambda _: asyncio.run(write_all()), tiny_copy) == 2
    gc.collect()
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"
    assert not caplog.records


def steps_shown(total, start=0):
    with progress.moving_line("work", total, start) as show:
        for done in range(start + 1, total + 1):
            show(done, f"step {done}")


def test_in_a_pipe_there_is_a_line_for_each_tenth(capsys):
    steps_shown(200)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [[f"work {n}0%", f"step {20 * n}"] for n in range(1, 10)]
    steps_shown(4, start=2)
    assert capsys.readouterr().out == "work 75%  step 3  0 s left\n"


def test_on_a_terminal_the_line_moves_and_goes_away(monkeypatch):
    clock, stdout = iter(range(1000)), io.StringIO()
    stdout.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    steps_shown(4)
    assert stdout.getvalue().split(progress.CLEAR)[-2:] == ["work [####################] step 4  0 s left", ""]
    assert "\n" not in stdout.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "redirection", "status"),
    [
        ("report {tiny} --output {folder}", "", 0),
        ("report {tiny} --output {folder}", "2>&1 | true", 0),
        ("report {tiny} --output {folder}", ">&-", 0),
        ("hybrid --num-steps 0", "2>&1 | true", 2),
    ],
)
def test_a_command_has_its_status_in_ascii_and_to_nobody(command, redirection, status, tiny, tmp_path):
    command = f"{sys.executable} -m experiments.{command.format(tiny=tiny, folder=tmp_path)}"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    script = ["bash", "-c", f"{command} {redirection}; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (status, b"")
    assert (b" ? " in done.stdout) == (not redirection)


def test_memory_that_runs_out_is_an_error_in_a_sentence(capsys):
    for error in (MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")):
        assert report_error(error, debug=False) == 2
        assert capsys.readouterr().err.startswith("error: out of memory (")


def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not is_asked()
    finally:
        signal.signal(signal.SIGHUP, before)


HUNG_UP = """
import os, pty, sys, time
child, terminal = pty.fork()
if child == 0:
    from experiments.runs.progress import moving_line, say
    from experiments.runs.stopping import is_asked, on_signals
    with on_signals(), moving_line("steps", 9) as show:
        say("on")
        while not is_asked():
            time.sleep(0.05)
        for done in range(9):
            say("nobody reads this")
            show(done)
            time.sleep(0.11)
    os._exit(75)
text = b""
while b"on" not in text:
    text += os.read(terminal, 1024)
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_terminal_that_hangs_up_ends_nothing_before_it_is_saved():
    assert subprocess.run([sys.executable, "-c", HUNG_UP], cwd=ROOT, timeout=60, check=False).returncode == 75


def test_durations_are_short():
    assert [duration(seconds) for seconds in (0.2, 89, 90, 3000, 20_000)] == ["0 s", "89 s", "2 min", "50 min", "5.6 h"]


def test_nothing_is_asserted_for_python_leaves_that_out_on_demand():
    sources = [path for folder in ("jsnn", "experiments") for path in (ROOT / folder).rglob("*.py")]
    assert sources
    assert not [path for path in sources if re.search(r"^\s*assert\b", path.read_text(), re.MULTILINE)]
