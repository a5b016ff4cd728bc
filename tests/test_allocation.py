"""What a run asks of the C library, whatever its version."""

import ctypes
from types import SimpleNamespace

import pytest

from experiments.runs import allocation
from experiments.runs.allocation import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, MOST_OF_OLD_ONES, NEVER


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (NEVER, [(M_MMAP_THRESHOLD, NEVER), (M_TRIM_THRESHOLD, NEVER)]),
        (
            MOST_OF_OLD_ONES,
            [(M_MMAP_THRESHOLD, NEVER), (M_MMAP_THRESHOLD, MOST_OF_OLD_ONES), (M_TRIM_THRESHOLD, NEVER)],
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


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    allocation.keep_freed_memory()
