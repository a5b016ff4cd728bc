"""What compiling leaves behind in memory goes back to the system."""

import ctypes
from collections import defaultdict
from types import SimpleNamespace

import jax
import pytest

from experiments.runs import compilation


@pytest.fixture
def listeners(monkeypatch):
    """Those that are registered meanwhile, by a function that remembers that it did."""
    registered = []
    monkeypatch.setattr(compilation.jax.monitoring, "register_event_duration_secs_listener", registered.append)
    compilation.return_memory.cache_clear()
    yield registered
    compilation.return_memory.cache_clear()


def test_memory_is_returned_after_a_long_compilation_alone(monkeypatch, listeners):
    trimmed = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=trimmed.append))
    monkeypatch.setattr(compilation.sys, "platform", "linux")
    compilation.return_memory()
    compilation.return_memory()
    (after,) = listeners
    after(compilation.COMPILED, 0.1)
    after("/jax/core/compile/jaxpr_trace_duration", 5.0, fun_name="step")
    assert trimmed == []
    after(compilation.COMPILED, 5.0, fun_name="step")
    assert trimmed == [0]


def test_other_libraries_are_not_asked_to_trim(monkeypatch, listeners):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    compilation.return_memory()
    assert not listeners


def test_jax_tells_of_a_compilation_by_that_name():
    durations = defaultdict(list)
    jax.monitoring.register_event_duration_secs_listener(lambda event, duration, **_: durations[event].append(duration))
    jax.jit(lambda x: x + 1).lower(1.0).compile()
    assert durations[compilation.COMPILED]
