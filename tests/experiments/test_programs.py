"""How much the compiler does, where its programs are kept, and that a long run takes no more and more of anything."""

import ctypes
import gc
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from experiments.hybrid import up_to
from experiments.runs import loop, programs
from tests.experiments.commands import TINY, run

TWO_LARGE_ARRAYS = """
import ctypes
from experiments.runs.programs import keep_freed_memory

library = ctypes.CDLL(None)
library.malloc.restype = library.sbrk.restype = ctypes.c_void_p
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


def test_less_effort_is_asked_for_once_and_the_users_flags_have_the_last_word(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
    programs.set_compiler("full", None)
    assert os.environ["XLA_FLAGS"] == "--xla_backend_optimization_level=3"
    for _ in range(2):
        programs.set_compiler("less", None)
        assert os.environ["XLA_FLAGS"] == f"{programs.LESS_EFFORT} --xla_backend_optimization_level=3"


def test_compiled_programs_are_kept_on_demand_and_taken_again(tmp_path):
    settings = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before, events = {name: getattr(jax.config, name) for name in settings}, []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    try:
        programs.set_compiler("full", str(tmp_path / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # what is compiled here takes no half second
        reset_cache()
        for number_of_hits in (0, 1):
            jax.clear_caches()
            jax.jit(lambda x: x @ x + 1)(np.ones((3, 3))).block_until_ready()
            assert list((tmp_path / "programs").iterdir())
            assert events.count("/jax/compilation_cache/cache_hits") == number_of_hits
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset_cache()


COMPILED = "/jax/core/compile/backend_compile_duration"
EPOCHS, SETTLED = 25, 5  # of 20 steps; epochs after which everything that is needed is there


def usage():
    """What this process holds; the allocator first gives back what nobody does, of tests before this one."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return {
        "bytes": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "arrays": len(jax.live_arrays()),
    }


@pytest.mark.slow
def test_nothing_grows_over_500_steps(tmp_path, monkeypatch):
    """Of each training stage, whatever is saved and validated."""
    save, saves_of, events = loop.save_network, {"ann": [], "hybrid": []}, []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **options: events.append(event))

    def watched(run, network, *arguments):
        save(run, network, *arguments)
        saves = saves_of[network]
        is_looked_at = len(saves) in (SETTLED, EPOCHS - 1)  # collecting garbage takes a quarter of a second
        saves.append(usage() | {"programs": events.count(COMPILED)} if is_looked_at else {})

    monkeypatch.setattr(loop, "save_network", watched)
    options = ["--ann.epochs", str(EPOCHS), "--finetune.epochs", str(EPOCHS)]
    assert run(partial(up_to, "finetune"), tmp_path, *TINY, *options) == 0
    for saves in saves_of.values():
        assert len(saves) == EPOCHS
        settled, last = saves[SETTLED], saves[-1]
        assert settled["programs"]
        assert all(last[what] == settled[what] for what in ("descriptors", "arrays", "programs"))
        assert last["threads"] <= settled["threads"] + 2
        assert last["mappings"] <= settled["mappings"] + 50
        assert last["bytes"] <= settled["bytes"] + 8 * 2**20
