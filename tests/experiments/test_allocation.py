"""What a run asks of the C library, whatever its version."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from experiments.runs import allocation
from experiments.runs.allocation import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, MOST_OF_OLD_ONES, NEVER, NO_TRIMMING

TWO_LARGE_ARRAYS = """
import ctypes
from experiments.runs.allocation import keep_freed_memory

library = ctypes.CDLL(None)
for function in (library.malloc, library.sbrk):
    function.restype = ctypes.c_void_p
keep_freed_memory()
arrays = [ctypes.c_void_p(library.malloc(ctypes.c_size_t(3 << 29))) for _ in range(2)]
end_of_heap = library.sbrk(0)
for array in arrays:
    library.free(array)
assert library.sbrk(0) == end_of_heap
"""


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (NEVER, [(M_MMAP_THRESHOLD, NEVER), (M_TRIM_THRESHOLD, NO_TRIMMING)]),
        (
            MOST_OF_OLD_ONES,
            [(M_MMAP_THRESHOLD, NEVER), (M_MMAP_THRESHOLD, MOST_OF_OLD_ONES), (M_TRIM_THRESHOLD, NO_TRIMMING)],
        ),
        (0, [(M_MMAP_THRESHOLD, NEVER), (M_MMAP_THRESHOLD, MOST_OF_OLD_ONES)]),  # then all stays as it was
    ],
)
def test_memory_is_kept_where_maps_can_be_turned_off(most, expected, monkeypatch):
    asked = []

    def mallopt(name, value):
        asked.append((name, value))
        return int(name != M_MMAP_THRESHOLD or value <= most)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(allocation.sys, "platform", "linux")
    allocation.keep_freed_memory()
    assert asked == expected


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is another")
def test_more_than_two_gigabytes_are_kept_as_well():
    subprocess.run([sys.executable, "-c", TWO_LARGE_ARRAYS], check=True, timeout=60)


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    allocation.keep_freed_memory()
