import json

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from jsnn import metrics
from jsnn.checkpoint import restore, save
from jsnn.optimizers import optimizer
from jsnn.parallel import replicate
from jsnn.training import init_state
from tests.networks import SMALL_RESNET, SMALL_VGG, random_snn

RULE = optimizer("adam", optax.constant_schedule(1e-3), 5e-4)


def state_of(ann, seed=0):
    return init_state(random_snn(ann, seed, leak=0.9)[1], RULE)


def test_what_is_restored_is_what_was_saved(tmp_path):
    state = state_of(SMALL_VGG)
    save(tmp_path / "ann", 3, replicate(state), {"seed": 1, "config": {"hidden": [4, 5]}})
    like = jax.eval_shape(lambda: state)
    found = restore(tmp_path / "ann", like)
    assert found.step == 3
    assert found.record == {"seed": 1, "config": {"hidden": [4, 5]}}
    chex.assert_trees_all_equal(found.tree, state)
    chex.assert_trees_all_equal_dtypes(found.tree, state)
    assert float(found.tree.neuron["conv0"]["leak"]) == pytest.approx(0.9)


def test_the_last_ones_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, {"x": jnp.array(step)}, {}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]
    assert restore(tmp_path, {"x": jnp.array(0)}).tree["x"] == 4


def test_saving_a_step_again_replaces_it(tmp_path):
    for value in (1, 2):
        save(tmp_path, 7, {"x": jnp.array(value)}, {"value": value})
    found = restore(tmp_path, {"x": jnp.array(0)})
    assert (found.tree["x"], found.record["value"]) == (2, 2)


def test_an_unfinished_save_is_no_checkpoint(tmp_path):
    save(tmp_path, 1, {"x": jnp.array(1)}, {})
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    assert restore(tmp_path, {"x": jnp.array(0)}).step == 1


def test_nothing_is_restored_from_nothing(tmp_path):
    assert restore(tmp_path / "nowhere", {}) is None
    assert restore(tmp_path, {}) is None
    assert not (tmp_path / "nowhere").exists()


def test_another_network_is_refused(tmp_path):
    save(tmp_path, 1, state_of(SMALL_VGG), {})
    with pytest.raises(ValueError, match="another network"):
        restore(tmp_path, jax.eval_shape(lambda: state_of(SMALL_RESNET)))


def test_metrics_are_lines_of_json(tmp_path):
    log = metrics.open_metrics(tmp_path, tensorboard=False)
    metrics.log(log, "ann", 1, {"loss": 0.5})
    metrics.log(log, "hybrid", 1, {"loss": 0.25})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"stage": "ann", "step": 1, "loss": 0.5},
        {"stage": "hybrid", "step": 1, "loss": 0.25},
    ]


def test_records_can_be_forgotten(tmp_path):
    log = metrics.open_metrics(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        metrics.log(log, "ann", step, {})
    metrics.forget(log.path, lambda record: record["step"] > 1)
    assert [record["step"] for record in metrics.read(log.path)] == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_tensorboard_gets_events(tmp_path):
    pytest.importorskip("tensorboardX")
    log = metrics.open_metrics(tmp_path)
    metrics.log(log, "ann", 1, {"loss": 0.5})
    assert list((tmp_path / "tensorboard").glob("events*"))
