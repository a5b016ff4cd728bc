"""Checkpoints come back as they were saved, damaged ones are passed over, and a killed save loses none."""

import random
import resource
import shutil
import subprocess
import sys
import time
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from jsnn.training.checkpoint import restore, save
from jsnn.training.parallel import replicate
from tests.conftest import ROOT
from tests.networks import SMALL_VGG, random_snn

ZERO = {"x": np.zeros((), np.int32)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save_numbers(folder, *steps, keep=2):
    """Save checkpoints that hold their number."""
    for step in steps:
        save(folder, step, {"x": jnp.array(step)}, {"x": step}, keep)


def test_what_is_restored_is_what_was_saved(tmp_path):
    state = jsnn.init_state(random_snn(SMALL_VGG, 0, leak=0.9)[1], optax.adam(1e-3))
    save(tmp_path / "ann", 3, replicate(state), {"seed": 1, "config": {"hidden": [4, 5]}})
    actual = restore(tmp_path / "ann", jax.eval_shape(lambda: state))
    assert actual.step == 3
    assert actual.record == {"seed": 1, "config": {"hidden": [4, 5]}}
    chex.assert_trees_all_equal(actual.tree, state)
    chex.assert_trees_all_equal_dtypes(actual.tree, state)
    assert float(actual.tree.fixed["neurons"]["conv0"]["leak"]) == pytest.approx(0.9)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    save(tmp_path, 1, {"x": jnp.ones(2)}, {})
    for like in ({"x": jnp.ones(3)}, {"x": jnp.ones(2, int)}, {"y": jnp.ones(2)}, {"x": {"y": jnp.ones(2)}}):
        with pytest.raises(ValueError, match="holds another network"):
            restore(tmp_path, like)


def test_random_keys_come_back_as_keys_and_numbers_as_arrays(tmp_path):
    tree = {"key": jax.random.key(3), "keys": jax.random.split(jax.random.key(1, impl="rbg"), 2), "count": jnp.array(5)}
    save(tmp_path, 1, tree, {})
    for like in (tree, jax.eval_shape(lambda: tree)):
        actual = restore(tmp_path, like).tree
        chex.assert_trees_all_equal_dtypes(actual, tree)
        np.testing.assert_array_equal(*(jax.random.bits(one["key"]) for one in (actual, tree)))
        np.testing.assert_array_equal(*(jax.vmap(jax.random.bits)(one["keys"]) for one in (actual, tree)))
    save(tmp_path, 2, {"rate": 0.5, "count": 3}, {})
    assert restore(tmp_path, {"rate": np.zeros(()), "count": np.zeros((), int)}).tree == {"rate": 0.5, "count": 3}


@pytest.mark.parametrize(("name", "beside"), [("a.b", {"b": np.zeros(2)}), ("a.0", [np.zeros(2)])])
def test_names_that_a_checkpoint_would_take_for_one_are_refused(name, beside, tmp_path):
    with pytest.raises(ValueError, match=f"two arrays of the tree have the name {name} in a checkpoint: give one"):
        save(tmp_path, 1, {name: np.ones(2), "a": beside}, {})
    assert not list(tmp_path.iterdir())


def test_the_last_ones_are_kept_and_a_run_that_went_back_replaces_later_ones(tmp_path):
    save_numbers(tmp_path, 10, 20, 30, 40, keep=3)
    assert names(tmp_path) == ["20", "30", "40"]
    save_numbers(tmp_path, 40)
    assert names(tmp_path) == ["30", "40"]
    save_numbers(tmp_path, 35)
    assert names(tmp_path) == ["30", "35"]
    assert restore(tmp_path, ZERO).tree["x"] == 35
    with pytest.raises(ValueError, match="at least 1 checkpoint is kept, got keep 0"):
        save_numbers(tmp_path, 50, keep=0)


def test_nothing_is_restored_from_nothing(tmp_path):
    assert restore(tmp_path / "nowhere", {}) is None
    assert restore(tmp_path, {}) is None
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_a_file_that_is_empty_or_missing_never_gives_wrong_numbers(damage, tmp_path):
    """Either the checkpoint is read without it, or it is passed over with a warning, and the one before is taken."""
    trees = [{"x": jnp.arange(5000.0) + step, "n": jnp.array(step)} for step in range(3)]
    for step in (1, 2):
        save(tmp_path / "sound", step, trees[step], {"step": step})
    files = [path.relative_to(tmp_path) for path in (tmp_path / "sound" / "2").rglob("*") if path.is_file()]
    passed = 0
    for file in files:
        shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
        shutil.copytree(tmp_path / "sound", tmp_path / "damaged")
        damage(tmp_path / "damaged" / file.relative_to("sound"))
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            actual = restore(tmp_path / "damaged", trees[0])
        assert any("/2 is damaged" in str(each.message) for each in warned) == (actual.step == 1)
        passed += actual.step == 1
        chex.assert_trees_all_equal(actual.tree, trees[actual.step])
        assert actual.record == {"step": actual.step}
    assert passed >= 3


def test_where_none_can_be_read_nothing_is_touched(tmp_path):
    save_numbers(tmp_path, 1, 2)
    for step in "12":
        (tmp_path / step / "record" / "metadata").write_text("{")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=f"no checkpoint in {tmp_path} can be read: delete the folder"):
        restore(tmp_path, ZERO)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_full_disk_is_told_in_a_sentence_and_loses_nothing(tmp_path):
    large = {"x": jnp.arange(10_000)}
    save(tmp_path, 1, large, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"the checkpoint {tmp_path}/2 can't be written: File too large"):
            save(tmp_path, 2, {"x": jnp.asarray(np.random.default_rng(0).integers(0, 2**31, 10_000, np.int32))}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert restore(tmp_path, large).step == 1
    save(tmp_path, 2, large, {})
    assert names(tmp_path) == ["1", "2"]  # what the save had begun is gone


SAVING = """
import sys
from pathlib import Path
import numpy as np
from jsnn.training.checkpoint import restore, save
folder, like = Path(sys.argv[1]), {"x": np.zeros(5000, np.int32)}
step = restore(folder, like).step if folder.exists() else 0
print("on", flush=True)
while True:
    step += 1
    save(folder, step, {"x": np.full(5000, step, np.int32)}, {"step": step}, 1 + step % 2)
"""


@pytest.mark.slow
def test_a_save_that_is_killed_leaves_a_checkpoint(tmp_path):
    """Four lives of a process that saves all the time, of one checkpoint or two that are kept."""
    rng, step = random.Random(0), 0
    for _ in range(4):
        command = [sys.executable, "-c", SAVING, str(tmp_path / "run")]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "on\n"
        time.sleep(0.5 + rng.random())
        process.kill()
        process.wait()
        actual = restore(tmp_path / "run", {"x": np.zeros(5000, np.int32)})
        assert actual.step > step
        step = actual.step
        np.testing.assert_array_equal(actual.tree["x"], step)
        assert actual.record == {"step": step}
