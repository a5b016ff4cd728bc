"""What a run asks of the C library, whatever its version."""

import ctypes
from collections import defaultdict
from types import SimpleNamespace

import jax
import pytest

from experiments.runs import allocation
from experiments.runs.allocation import M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, MOST_OF_OLD_ONES, NEVER

KEPT = [(M_TRIM_THRESHOLD, NEVER), (M_ARENA_MAX, 1)]


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (NEVER, [(M_MMAP_THRESHOLD, NEVER), *KEPT]),
        (MOST_OF_OLD_ONES, [(M_MMAP_THRESHOLD, NEVER), (M_MMAP_THRESHOLD, MOST_OF_OLD_ONES), *KEPT]),
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


@pytest.fixture
def listeners(monkeypatch):
    """Those that are registered meanwhile, by a function that remembers that it did."""
    registered = []
    monkeypatch.setattr(allocation.jax.monitoring, "register_event_duration_secs_listener", registered.append)
    allocation.return_compilers_memory.cache_clear()
    yield registered
    allocation.return_compilers_memory.cache_clear()


def test_memory_is_returned_after_a_long_compilation_alone(monkeypatch, listeners):
    trimmed = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=trimmed.append))
    monkeypatch.setattr(allocation.sys, "platform", "linux")
    allocation.return_compilers_memory()
    allocation.return_compilers_memory()
    (after,) = listeners
    after(allocation.COMPILED, 0.1)
    after("/jax/core/compile/jaxpr_trace_duration", 5.0, fun_name="step")
    assert trimmed == []
    after(allocation.COMPILED, 5.0, fun_name="step")
    assert trimmed == [0]


def test_other_libraries_are_not_asked_to_trim(monkeypatch, listeners):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    allocation.return_compilers_memory()
    assert not listeners


def test_jax_tells_of_a_compilation_by_that_name():
    durations = defaultdict(list)
    jax.monitoring.register_event_duration_secs_listener(lambda event, duration, **_: durations[event].append(duration))
    jax.jit(lambda x: x + 1).lower(1.0).compile()
    assert durations[allocation.COMPILED]
