"""Freed memory is kept: large blocks cost page faults once, not each time."""

import platform
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FAULTS = """
import resource
from experiments.memory import keep_freed

def faults(blocks):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        bytearray(64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(10))
keep_freed()
faults(1)
print(faults(10))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told")
def test_large_blocks_fault_their_pages_in_once():
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after * 10 < before
