"""One device and four train the same; no array is gathered, no program is compiled twice."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn.conversion.scaling import scale_thresholds
from jsnn.encoding import constant, poisson
from jsnn.models import dropout_of
from jsnn.network.simulation import Presentation
from jsnn.neurons.surrogate import linear
from jsnn.training.evaluation import snn_evaluation
from jsnn.training.forward import TEACHER, snn_forward, summed, with_rates, with_teacher
from jsnn.training.loss import few_steps_loss
from jsnn.training.optimizers import optimizer
from jsnn.training.parallel import parallel_evaluation, parallel_train_step, replicate, split_over_devices
from jsnn.training.step import init_state, mean_over_parts, train_step
from jsnn.training.within_bounds import weights_and_neurons
from tests.networks import IMAGE_SHAPE, TINY_VGG, random_snn
from tests.training.tiny_split import BATCH, KEY, SOURCE, SPLIT, STEPS, ann, snn

RULE = optimizer("adam", optax.constant_schedule(1e-3), 5e-4)


@cache
def single_step(network, rule=RULE):
    """The training step on one device."""
    return jax.jit(train_step(SOURCE, network()[1], rule))


def test_one_device_equals_four_with_dropout_and_augmentation_on():
    """For spiking networks `test_devices` shows it."""
    variables, forward = ann()
    single = single_step(ann)
    parallel = parallel_train_step(SOURCE, forward, RULE)
    one, four = init_state(variables, RULE), replicate(init_state(variables, RULE))
    resident = replicate(SPLIT)
    assert jax.device_count() == 4
    for item in SOURCE.shuffled(BATCH, seed=0, epoch=1):
        one, metrics_of_one = single(one, SPLIT, item, KEY)
        four, metrics_of_four = parallel(four, resident, split_over_devices(item), KEY)
        # The mean over devices adds in another order than the mean over the batch; Adam's division enlarges it.
        chex.assert_trees_all_close(metrics_of_four, metrics_of_one, rtol=1e-5)
    assert one.step == four.step == 2
    chex.assert_trees_all_close(jax.device_get(four.params), jax.device_get(one.params), atol=1e-5)
    assert set(one.fixed) == set(variables) - {"params"}
    for fixed in (one.fixed, four.fixed):
        chex.assert_trees_all_equal(jax.device_get(fixed), {name: variables[name] for name in fixed})
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one.params["params"], variables["params"])
    assert min(jax.tree.leaves(moved)) > 1e-4


def test_what_is_no_floating_point_number_is_not_averaged():
    """As an NNX network's count of dropouts and their keys, which all devices change alike."""
    variables, forward = ann()
    others = {"others": {"count": jnp.int32(0), "key": jax.random.key(1), "drops": jnp.bool_(False)}}
    after = {"others": {"count": jnp.int32(3), "key": jax.random.key(2), "drops": jnp.bool_(True)}}

    def counting(variables, inputs, index, key):
        outputs, _ = forward({"params": variables["params"]}, inputs, index, key)
        return outputs, after

    item = np.arange(BATCH, dtype=np.int32)
    state, resident = replicate((init_state({**variables, **others}, RULE), SPLIT))
    state, _ = parallel_train_step(SOURCE, counting, RULE)(state, resident, split_over_devices(item), KEY)
    chex.assert_trees_all_equal(jax.device_get(state.fixed), jax.device_get(after))
    chex.assert_trees_all_equal_dtypes(state.fixed, after)


def test_a_collection_that_the_variables_do_not_have_is_refused():
    variables, forward = ann()
    sowing = lambda *arguments: (forward(*arguments)[0], {"intermediates": {"x": jnp.ones(2)}})  # noqa: E731
    step = train_step(SOURCE, sowing, RULE)
    with pytest.raises(ValueError, match="changes the collection 'intermediates', but what it may change is none"):
        step(init_state(variables, RULE), SPLIT, np.arange(BATCH, dtype=np.int32), KEY)


def test_a_batch_in_parts_equals_the_whole_on_one_device_and_on_four():
    """Gradients and metrics are means over the parts; dropout and augmentation belong to samples."""
    (variables, forward), item = ann(), np.arange(BATCH, dtype=np.int32)
    at_once, expected = single_step(ann)(init_state(variables, RULE), SPLIT, item, KEY)
    parts = jax.jit(train_step(SOURCE, forward, RULE, accumulate=4))
    parallel = parallel_train_step(SOURCE, forward, RULE, accumulate=2)
    one, metrics = parts(init_state(variables, RULE), SPLIT, item, KEY)
    state, resident = replicate((init_state(variables, RULE), SPLIT))
    four, metrics_of_four = parallel(state, resident, split_over_devices(item), KEY)
    for actual in (metrics, metrics_of_four):
        chex.assert_trees_all_close(actual, expected, rtol=1e-5)
    for state in (one, four):
        assert state.step == 1
        chex.assert_trees_all_close(jax.device_get(state.params), jax.device_get(at_once.params), atol=1e-5)


def test_neurons_and_a_teacher_are_the_same_on_one_device_on_four_and_in_parts():
    network, variables = random_snn(TINY_VGG, seed=6, leak=0.95, surrogate=linear())
    trained, collections = ("weights", "threshold", "leak", "initial"), ("params", "neurons")
    presentation = Presentation(network, constant, 3, 3, dropout_of)
    forward = with_teacher(snn_forward(presentation, with_rates, collections), TINY_VGG.apply)
    adam, loss = optax.adam(1e-2), few_steps_loss(0.5, 2.0, 0.1)
    rule, item = weights_and_neurons(adam, adam, trained), np.arange(BATCH, dtype=np.int32)
    taught = {**variables, TEACHER: {"params": variables["params"]}}
    step = jax.jit(train_step(SOURCE, forward, rule, None, loss))
    one, expected = step(init_state(taught, rule, collections), SPLIT, item, KEY)
    parallel = parallel_train_step(SOURCE, forward, rule, loss, accumulate=2)
    state, resident = replicate((init_state(taught, rule, collections), SPLIT))
    four, metrics = parallel(state, resident, split_over_devices(item), KEY)
    chex.assert_trees_all_close(metrics, expected, rtol=1e-5)
    chex.assert_trees_all_close(jax.device_get(four.params), jax.device_get(one.params), atol=1e-5)
    chex.assert_trees_all_equal(jax.device_get(four.fixed), {TEACHER: taught[TEACHER]})
    for name in ("threshold", "leak", "initial"):
        before, after = variables["neurons"]["conv0"][name], one.params["neurons"]["conv0"][name]
        assert abs(float(after - before)) > 1e-3, name


@pytest.mark.parametrize("parts", [0, 3])
def test_parts_that_do_not_divide_a_batch_are_refused(parts):
    variables, forward = ann()
    step = train_step(SOURCE, forward, RULE, accumulate=parts)
    with pytest.raises(ValueError, match=f"accumulate {parts} can't split 8 samples evenly: choose a divisor of 8"):
        step(init_state(variables, RULE), SPLIT, np.arange(BATCH, dtype=np.int32), KEY)


def test_what_is_no_float_is_the_last_parts():
    actual = mean_over_parts(lambda x: (x.mean(), x.max().astype(int)), jnp.arange(8.0), 4)
    assert actual == (3.5, 7)
    assert actual[1].dtype == jnp.int32


def test_some_of_the_devices_can_be_named():
    """Two of them give what all four do."""
    (variables, forward), item = snn(), np.arange(BATCH, dtype=np.int32)
    state, metrics = init_state(variables, RULE), []
    for devices in (jax.devices(), jax.devices()[:2]):
        step = parallel_train_step(SOURCE, forward, RULE, devices=devices)
        parts = item.reshape(len(devices), -1)
        metrics.append(step(jax.tree.map(jnp.copy, state), SPLIT, parts, KEY)[1])
    chex.assert_trees_all_close(jax.device_get(metrics[0]), jax.device_get(metrics[1]), rtol=1e-5)


def test_the_noise_is_really_on():
    variables, step = snn()[0], single_step(snn)
    item = np.arange(BATCH, dtype=np.int32)
    losses = [float(step(init_state(variables, RULE), SPLIT, item, jax.random.key(seed))[1].loss) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("number", [jnp.nan, -jnp.inf])
def test_one_number_of_many_that_is_not_finite_is_told_of_its_layer(number):
    """XLA:CPU's maximum of so many would pass over NaN; the optimiser carries a key, which is no number."""

    def forward(variables, x, index, key):
        del index, key
        return x.reshape(len(x), -1) @ variables["params"]["hidden"] @ variables["params"]["readout"], {}

    def spoil(updates, params):
        del params
        return {"params": {**updates["params"], "hidden": updates["params"]["hidden"].at[3, 1].set(number)}}

    weights = {"hidden": jnp.ones((np.prod(IMAGE_SHAPE), 1000)), "readout": jnp.ones((1000, 3))}
    rule = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.stateless(spoil))
    state = init_state({"params": weights}, rule)
    after, metrics = jax.jit(train_step(SOURCE, forward, rule))(state, SPLIT, np.arange(BATCH), KEY)
    assert metrics.finite == {"hidden": False, "readout": True, "optimizer": True}
    chex.assert_trees_all_equal(after.params, state.params)


@pytest.mark.parametrize("rule", [optax.scale(jnp.inf), optax.chain(optax.scale_by_adam(b2=jnp.inf), RULE)])
def test_a_step_to_numbers_that_are_not_finite_is_told_and_not_taken(rule):
    state = init_state(ann()[0], rule)
    after, metrics = single_step(ann, rule)(state, SPLIT, np.arange(BATCH), KEY)
    assert jnp.isfinite(metrics.loss)
    assert not jax.tree.all(metrics.finite)
    assert after.step == 1
    chex.assert_trees_all_equal(after[1:], state[1:])


@pytest.mark.usefixtures("optimized")
def test_the_step_reduces_and_never_gathers():
    network, variables = random_snn(TINY_VGG.clone(stages=(4,)), seed=6, leak=0.95)
    presentation = Presentation(network, poisson, STEPS, 3, dropout_of)
    step = parallel_train_step(SOURCE, snn_forward(presentation, summed), RULE)
    item = split_over_devices(np.arange(BATCH, dtype=np.int32))
    text = step.lower(replicate(init_state(variables, RULE)), replicate(SPLIT), item, KEY).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text
    assert "all-to-all" not in text


def test_other_thresholds_leaks_and_factors_do_not_recompile():
    network, variables = random_snn(TINY_VGG, seed=6, leak=1.0)
    _, others = random_snn(TINY_VGG, seed=7, leak=0.9)
    presentation = Presentation(network, poisson, STEPS, 3, dropout_of)

    @chex.assert_max_traces(n=1)
    def scored(*arguments):
        return snn_evaluation(presentation, SOURCE)(*arguments)

    @chex.assert_max_traces(n=1)
    def forward(*arguments):
        return snn_forward(presentation, summed)(*arguments)

    evaluate, step = parallel_evaluation(scored), parallel_train_step(SOURCE, forward, RULE)
    item = split_over_devices(np.arange(BATCH, dtype=np.int32))
    resident, losses = replicate(SPLIT), []
    for candidate in (variables, others, scale_thresholds(variables, 0.5)):
        losses.append(float(evaluate(replicate(candidate), resident, item, KEY).loss[-1]))
        state = replicate(init_state(candidate, RULE))
        for _ in range(2):
            state, _ = step(state, resident, item, KEY)
    assert len(set(losses)) == 3
