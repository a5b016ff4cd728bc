"""Checkpoints come back as they were saved, damaged ones are detected, and an interrupted save loses none."""

import hashlib
import shutil
from functools import cache
from unittest.mock import Mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn.training import checkpoint
from jsnn.training.checkpoint import is_intact, latest_is_intact, latest_step, restore, save
from jsnn.training.optimizers import optimizer
from jsnn.training.parallel import replicate
from jsnn.training.step import init_state
from tests.networks import SMALL_RESNET, SMALL_VGG, random_snn

RULE = optimizer("adam", optax.constant_schedule(1e-3), 5e-4)


@cache
def state_of(ann, seed=0):
    return init_state(random_snn(ann, seed, leak=0.9)[1], RULE)


def test_what_is_restored_is_what_was_saved(tmp_path):
    state = state_of(SMALL_VGG)
    save(tmp_path / "ann", 3, replicate(state), {"seed": 1, "config": {"hidden": [4, 5]}})
    like = jax.eval_shape(lambda: state)
    actual = restore(tmp_path / "ann", like)
    assert actual.step == 3
    assert actual.record == {"seed": 1, "config": {"hidden": [4, 5]}}
    chex.assert_trees_all_equal(actual.tree, state)
    chex.assert_trees_all_equal_dtypes(actual.tree, state)
    assert float(actual.tree.fixed["neurons"]["conv0"]["leak"]) == pytest.approx(0.9)


def test_the_last_ones_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, {"x": jnp.array(step)}, {}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]
    assert restore(tmp_path, {"x": jnp.array(0)}).tree["x"] == 4


def test_saving_a_step_again_replaces_it(tmp_path):
    for value in (1, 2):
        save(tmp_path, 7, {"x": jnp.array(value)}, {"value": value})
    actual = restore(tmp_path, {"x": jnp.array(0)})
    assert (actual.tree["x"], actual.record["value"]) == (2, 2)


def test_an_unfinished_save_is_no_checkpoint_and_gives_way_to_the_next(tmp_path):
    save(tmp_path, 1, {"x": jnp.array(1)}, {})
    shutil.copytree(tmp_path / "1", tmp_path / "draft-2")
    (tmp_path / "draft-2" / "SHA256SUMS").unlink()
    assert restore(tmp_path, {"x": jnp.array(0)}).step == 1
    save(tmp_path, 2, {"x": jnp.array(2)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_sealed_draft_only_lacks_its_name(tmp_path):
    save(tmp_path, 2, {"x": jnp.array(2)}, {})
    (tmp_path / "2").rename(tmp_path / "draft-2")
    assert restore(tmp_path, {"x": jnp.array(0)}).tree["x"] == 2
    assert (latest_step(tmp_path), latest_is_intact(tmp_path)) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["draft-2"]  # who reads changes nothing
    save(tmp_path, 3, {"x": jnp.array(3)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_sealed_draft_below_the_others_is_the_latest(tmp_path):
    """Of a run that went back, and was killed before its checkpoint had a name."""
    for step in (15, 10, 20, 30):
        save(tmp_path / ("new" if step == 15 else "old"), step, {"x": jnp.array(step)}, {}, keep=3)
    (tmp_path / "new" / "15").rename(tmp_path / "old" / "draft-15")
    assert restore(tmp_path / "old", {"x": jnp.array(0)}).step == latest_step(tmp_path / "old") == 15
    save(tmp_path / "old", 17, {"x": jnp.array(17)}, {}, keep=3)
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == ["10", "15", "17"]


def test_who_reads_while_a_draft_gets_its_name_harms_nothing(tmp_path, monkeypatch):
    seal = checkpoint._give_name

    def read_first(draft):
        monkeypatch.setattr(checkpoint, "_give_name", seal)
        assert restore(tmp_path, {"x": jnp.array(0)}).tree["x"] == 2
        seal(draft)

    save(tmp_path, 1, {"x": jnp.array(1)}, {})
    monkeypatch.setattr(checkpoint, "_give_name", read_first)
    save(tmp_path, 2, {"x": jnp.array(2)}, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_a_draft_that_can_have_no_name_stays_the_latest(tmp_path, monkeypatch):
    save(tmp_path, 1, {"x": jnp.array(1)}, {})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "move_folder", Mock(side_effect=OSError("read-only")))
        with pytest.raises(OSError, match="can't be written: read-only"):
            save(tmp_path, 2, {"x": jnp.array(2)}, {})
        with pytest.raises(OSError, match="can't be written: read-only"):
            save(tmp_path, 3, {"x": jnp.array(3)}, {})
    assert restore(tmp_path, {"x": jnp.array(0)}).tree["x"] == 2


def test_random_keys_come_back_as_keys(tmp_path):
    tree = {"key": jax.random.key(3), "keys": jax.random.split(jax.random.key(1, impl="rbg"), 2), "count": jnp.array(5)}
    save(tmp_path, 1, tree, {})
    for like in (tree, jax.eval_shape(lambda: tree)):
        actual = restore(tmp_path, like).tree
        chex.assert_trees_all_equal_dtypes(actual, tree)
        np.testing.assert_array_equal(*(jax.random.bits(one["key"]) for one in (actual, tree)))
        np.testing.assert_array_equal(*(jax.vmap(jax.random.bits)(one["keys"]) for one in (actual, tree)))


def test_numbers_of_python_are_saved_as_arrays(tmp_path):
    save(tmp_path, 1, {"rate": 0.5, "count": 3}, {})
    assert restore(tmp_path, {"rate": np.zeros(()), "count": np.zeros((), int)}).tree == {"rate": 0.5, "count": 3}


@pytest.mark.parametrize(("name", "beside"), [("a.b", {"b": np.zeros(2)}), ("a.0", [np.zeros(2)])])
def test_names_that_orbax_would_take_for_one_are_refused(name, beside, tmp_path):
    with pytest.raises(ValueError, match=f"two arrays of the tree have the name {name} in a checkpoint: give one"):
        save(tmp_path, 1, {name: np.ones(2), "a": beside}, {})
    assert not list(tmp_path.iterdir())
    tree = {name: np.ones(2), "A": beside}
    save(tmp_path, 1, tree, {})
    chex.assert_trees_all_equal(restore(tmp_path, tree).tree, tree)


def test_a_save_below_damaged_numbers_stays(tmp_path):
    for step in (20, 27, 34):
        save(tmp_path, step, {"x": jnp.array(step)}, {}, keep=3)
    for step in ("27", "34"):
        (tmp_path / step / "SHA256SUMS").write_text("")
    save(tmp_path, 23, {"x": jnp.array(23)}, {}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["20", "23"]
    assert restore(tmp_path, {"x": jnp.array(0)}).tree["x"] == 23


def test_the_seal_is_that_of_sha256sum(tmp_path):
    save(tmp_path, 1, state_of(SMALL_VGG), {})
    assert is_intact(tmp_path / "1")
    files = {path.relative_to(tmp_path / "1").as_posix() for path in (tmp_path / "1").rglob("*") if path.is_file()}
    lines = (tmp_path / "1" / "SHA256SUMS").read_text().splitlines()
    sums = dict(reversed(line.split("  ")) for line in lines)
    assert sums.keys() == files - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert digest == hashlib.sha256((tmp_path / "1" / name).read_bytes()).hexdigest()


def truncate(path, _):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path, _):
    path.write_bytes(b"")


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def delete(path, _):
    path.unlink()


def all_files(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    for step in (1, 2):
        save(folder, step, state_of(SMALL_VGG, step), {"step": step})
    return folder


@pytest.mark.parametrize("damage", [truncate, empty, flip, delete])
def test_damage_to_any_file_is_detected_and_the_one_before_is_taken(damage, two_checkpoints, tmp_path):
    rng = np.random.default_rng(0)
    like = jax.eval_shape(lambda: state_of(SMALL_VGG))
    count = len(all_files(two_checkpoints / "2"))
    assert count > 8
    for number in range(count):
        folder = tmp_path / str(number)
        shutil.copytree(two_checkpoints, folder)
        damage(all_files(folder / "2")[number], rng)
        with pytest.warns(UserWarning, match=f"the checkpoint {folder}/2 is damaged"):
            actual = restore(folder, like)
        assert (actual.step, actual.record) == (1, {"step": 1})
        chex.assert_trees_all_equal(actual.tree, state_of(SMALL_VGG, 1))
        assert not latest_is_intact(folder)


def test_where_none_is_whole_nothing_is_touched(two_checkpoints, tmp_path):
    folder = tmp_path / "ann"
    shutil.copytree(two_checkpoints, folder)
    for step in "12":
        empty(folder / step / "record.json", None)
    before = {path: path.read_bytes() for path in all_files(folder)}
    with pytest.raises(ValueError, match=rf"no checkpoint in {folder} is intact; .* are {folder}/2, {folder}/1"):
        restore(folder, jax.eval_shape(lambda: state_of(SMALL_VGG)))
    assert {path: path.read_bytes() for path in all_files(folder)} == before


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_saved_again(two_checkpoints, tmp_path):
    shutil.copytree(two_checkpoints, tmp_path, dirs_exist_ok=True)
    empty(tmp_path / "2" / "SHA256SUMS", None)
    save(tmp_path, 2, {"x": jnp.array(5)}, {})
    assert restore(tmp_path, {"x": jnp.array(0)}).tree["x"] == 5


def test_nothing_is_restored_from_nothing(tmp_path):
    assert restore(tmp_path / "nowhere", {}) is None
    assert restore(tmp_path, {}) is None
    assert not (tmp_path / "nowhere").exists()


def test_another_network_is_refused(tmp_path):
    save(tmp_path, 1, state_of(SMALL_VGG), {})
    with pytest.raises(ValueError, match="another network"):
        restore(tmp_path, jax.eval_shape(lambda: state_of(SMALL_RESNET)))
