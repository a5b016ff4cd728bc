"""Freed memory is kept: large blocks cost page faults once, not each time."""

import platform
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FAULTS = """
import resource
from experiments.command import run_command

def faults(blocks):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        bytearray(64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def count(run):
    faults(1)
    print(faults(10))

print(faults(10))
run_command("hybrid", "", count)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told")
def test_in_a_command_large_blocks_fault_their_pages_in_once(tmp_path):
    command = [sys.executable, "-c", FAULTS, "digits", "--workdir", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = (int(line) for line in done.stdout.splitlines() if line.isdecimal())
    assert after * 10 < before
