"""Long runs: over 500 steps and 25 epochs of each training stage nothing grows, whatever is saved and validated."""

import ctypes
import gc
import os

import jax
import pytest

from experiments.hybrid import hybrid
from experiments.runs import loop
from tests.experiments.commands import TINY, run

EPOCHS, SETTLED = 25, 5  # of 20 steps; epochs after which everything that is needed is there
MEBIBYTE = 2**20


def usage() -> dict[str, int]:
    """What this process holds: bytes, descriptors, threads, mappings and arrays.

    The allocator first gives back what nobody holds: tests before this one leave it hundreds of free MiB, whose pages
    come and go.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    with open("/proc/self/maps") as file:
        mappings = sum(1 for _ in file)
    return {
        "bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "mappings": mappings,
        "arrays": len(jax.live_arrays()),
    }


@pytest.mark.slow
def test_nothing_grows_over_500_steps(tmp_path, monkeypatch):
    save, saves_of, compiled = loop.save_network, {"ann": [], "hybrid": []}, []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **options: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )

    def watched(run, network, *arguments):
        save(run, network, *arguments)
        saves = saves_of[network]
        is_looked_at = len(saves) in (SETTLED, EPOCHS - 1)  # collecting garbage takes a quarter of a second
        saves.append({**usage(), "programs": len(compiled)} if is_looked_at else {})

    monkeypatch.setattr(loop, "save_network", watched)
    options = ["--ann.epochs", str(EPOCHS), "--finetune.epochs", str(EPOCHS)]
    assert run(hybrid, tmp_path, *TINY, *options) == 0
    assert compiled
    for saves in saves_of.values():
        assert len(saves) == EPOCHS
        settled, last = saves[SETTLED], saves[-1]
        for what in ("descriptors", "arrays", "programs"):
            assert last[what] == settled[what], what
        assert last["threads"] <= settled["threads"] + 2
        assert last["mappings"] <= settled["mappings"] + 50
        assert last["bytes"] <= settled["bytes"] + 8 * MEBIBYTE
