"""Freed memory is kept: blocks cost page faults once, not each time, whichever thread takes them."""

import platform
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FAULTS = """
import resource
from concurrent.futures import ThreadPoolExecutor
from experiments.command import run_command

def faults(blocks, mib, times=10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        [bytearray(mib << 20) for _ in range(blocks)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def count(run):
    with ThreadPoolExecutor(1) as other:
        for kind in ((1, 64), (8, 20)):  # what glibc would map, and what would take another thread several heaps
            faults(*kind, times=1)
            print("faults", faults(*kind), other.submit(faults, *kind).result())

run_command("hybrid", "", count)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told")
def test_in_a_command_blocks_fault_their_pages_in_once(tmp_path):
    command = [sys.executable, "-c", FAULTS, "digits", "--workdir", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("faults")]
    counts = [int(count) for line in lines for count in line]
    assert len(counts) == 4
    assert max(counts) < 100  # ten times 64 MiB are 320 faults even where pages are huge
