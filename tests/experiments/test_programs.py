"""How much the compiler does, where its programs are kept, and what a run asks of the C library."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from experiments.runs import programs

TWO_LARGE_ARRAYS = """
import ctypes
from experiments.runs.programs import keep_freed_memory

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


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is another")
def test_more_than_two_gigabytes_are_kept():
    subprocess.run([sys.executable, "-c", TWO_LARGE_ARRAYS], check=True, timeout=60)


def test_memory_is_returned_after_a_long_compilation_alone(monkeypatch):
    trimmed, listeners = [], []
    monkeypatch.setattr(programs.jax.monitoring, "register_event_duration_secs_listener", listeners.append)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=trimmed.append))
    monkeypatch.setattr(programs.sys, "platform", "linux")
    programs.return_memory.cache_clear()
    programs.return_memory()
    programs.return_memory()
    (after,) = listeners
    after(programs.COMPILED, 0.1)
    after("/jax/core/compile/jaxpr_trace_duration", 5.0, fun_name="step")
    assert trimmed == []
    after(programs.COMPILED, 5.0, fun_name="step")
    assert trimmed == [0]


def test_jax_names_the_end_of_a_compilation_so():
    events = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: events.append(event))
    jax.jit(lambda x: x + 1).lower(1.0).compile()
    assert programs.COMPILED in events


def test_less_effort_is_asked_for_once_and_the_users_flags_have_the_last_word(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
    programs.set_compiler("full", None)
    assert programs.os.environ["XLA_FLAGS"] == "--xla_backend_optimization_level=3"
    for _ in range(2):
        programs.set_compiler("less", None)
        assert programs.os.environ["XLA_FLAGS"] == f"{programs.LESS_EFFORT} --xla_backend_optimization_level=3"


def test_compiled_programs_are_kept_on_demand(tmp_path):
    settings = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        programs.set_compiler("full", str(tmp_path / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # what is compiled here takes no half second
        reset_cache()
        jax.jit(lambda x: x @ x + 1)(np.ones((3, 3))).block_until_ready()
        assert list((tmp_path / "programs").iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset_cache()
