"""One device and four train the same; no array is gathered, no program is compiled twice."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from jsnn import init_state, parallel_train_step, snn_forward, train_step
from jsnn.models import dropout_of
from jsnn.training.forward import TEACHER, with_rates, with_teacher
from jsnn.training.loss import few_steps_loss
from jsnn.training.parallel import replicate, split_over_devices
from jsnn.training.step import mean_over_parts
from tests.networks import IMAGE_SHAPE, TINY_VGG, random_snn
from tests.training.tiny_split import BATCH, KEY, RULE, SOURCE, SPLIT, STEPS, ann, snn

ITEM = np.arange(BATCH, dtype=np.int32)


def test_four_devices_and_parts_of_a_batch_equal_one_device_with_dropout_and_augmentation_on():
    """For spiking networks `test_devices` shows it. Dropout and augmentation belong to samples."""
    variables, forward = ann()
    alone, parts = (jax.jit(train_step(SOURCE, forward, RULE, accumulate=parts)) for parts in (1, 4))
    parallel, both = (parallel_train_step(SOURCE, forward, RULE, accumulate=parts) for parts in (1, 2))
    state, resident = init_state(variables, RULE), replicate(SPLIT)
    others = {parts: state, parallel: replicate(jax.tree.map(jnp.copy, state)), both: replicate(state)}
    assert jax.device_count() == 4
    for item in SOURCE.shuffled(BATCH, seed=0, epoch=1):
        state, expected = alone(state, SPLIT, item, KEY)
        for step in others:
            batch = (SPLIT, item) if step is parts else (resident, split_over_devices(item))
            others[step], metrics = step(others[step], *batch, KEY)
            # The mean over devices adds in another order than the mean over the batch; Adam's division enlarges it.
            chex.assert_trees_all_close(metrics, expected, rtol=1e-5)
    for other in others.values():
        assert other.step == state.step == 2
        chex.assert_trees_all_close(jax.device_get(other.params), jax.device_get(state.params), atol=1e-5)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params["params"], variables["params"])
    assert min(jax.tree.leaves(moved)) > 1e-4


def test_what_is_no_floating_point_number_is_not_averaged():
    """As an NNX network's count of dropouts and their keys, which all devices change alike."""
    variables, forward = ann()
    others = {"others": {"count": jnp.int32(0), "key": jax.random.key(1), "drops": jnp.bool_(False)}}
    after = {"others": {"count": jnp.int32(3), "key": jax.random.key(2), "drops": jnp.bool_(True)}}

    def counting(variables, inputs, index, key):
        outputs, _ = forward({"params": variables["params"]}, inputs, index, key)
        return outputs, after

    state, resident = replicate((init_state({**variables, **others}, RULE), SPLIT))
    state, _ = parallel_train_step(SOURCE, counting, RULE)(state, resident, split_over_devices(ITEM), KEY)
    chex.assert_trees_all_equal(jax.device_get(state.fixed), jax.device_get(after))
    chex.assert_trees_all_equal_dtypes(state.fixed, after)


def test_a_collection_that_the_variables_do_not_have_is_refused():
    variables, forward = ann()
    sowing = lambda *arguments: (forward(*arguments)[0], {"intermediates": {"x": jnp.ones(2)}})  # noqa: E731
    step = train_step(SOURCE, sowing, RULE)
    with pytest.raises(ValueError, match="changes the collection 'intermediates', but what it may change is none"):
        step(init_state(variables, RULE), SPLIT, ITEM, KEY)


def test_neurons_and_a_teacher_are_the_same_on_one_device_on_four_and_in_parts():
    network, variables = random_snn(TINY_VGG, seed=6, leak=0.95, surrogate=jsnn.surrogate.linear())
    trained, collections = ("weights", "threshold", "leak", "initial"), ("params", "neurons")
    presentation = jsnn.Presentation(network, jsnn.encoding.constant, 3, 3, dropout_of)
    forward = with_teacher(snn_forward(presentation, with_rates, collections), TINY_VGG.apply)
    adam, loss = optax.adam(1e-2), few_steps_loss(0.5, 2.0, 0.1)
    rule = jsnn.weights_and_neurons(adam, adam, trained)
    taught = {**variables, TEACHER: {"params": variables["params"]}}
    step = jax.jit(train_step(SOURCE, forward, rule, None, loss))
    one, expected = step(init_state(taught, rule, collections), SPLIT, ITEM, KEY)
    parallel = parallel_train_step(SOURCE, forward, rule, loss, accumulate=2)
    state, resident = replicate((init_state(taught, rule, collections), SPLIT))
    four, metrics = parallel(state, resident, split_over_devices(ITEM), KEY)
    chex.assert_trees_all_close(metrics, expected, rtol=1e-5)
    chex.assert_trees_all_close(jax.device_get(four.params), jax.device_get(one.params), atol=1e-5)
    chex.assert_trees_all_equal(jax.device_get(four.fixed), {TEACHER: taught[TEACHER]})
    for name in ("threshold", "leak", "initial"):
        before, after = variables["neurons"]["conv0"][name], one.params["neurons"]["conv0"][name]
        assert abs(float(after - before)) > 1e-3, name


def test_what_is_no_float_is_the_last_parts_and_parts_that_do_not_divide_a_batch_are_refused():
    actual = mean_over_parts(lambda x: (x.mean(), x.max().astype(int)), jnp.arange(8.0), 4)
    assert actual == (3.5, 7)
    assert actual[1].dtype == jnp.int32
    for parts in (0, 3):
        with pytest.raises(ValueError, match=f"accumulate {parts} can't split 8 samples evenly: choose a divisor of 8"):
            mean_over_parts(jnp.mean, jnp.arange(8.0), parts)


def test_an_snn_learns_the_same_on_two_devices_of_four_and_from_other_noise_something_else():
    (variables, forward), two, rule = snn(), jax.devices()[:2], optax.sgd(0.1)
    alone = jax.jit(train_step(SOURCE, forward, rule))
    after, *others = (alone(init_state(variables, rule), SPLIT, ITEM, jax.random.key(seed)) for seed in (0, 0, 1))
    assert after[1].loss == others[0][1].loss != others[1][1].loss
    placed, resident = replicate((init_state(variables, rule), SPLIT), two)
    step = parallel_train_step(SOURCE, forward, rule, devices=two)
    state, metrics = jax.device_get(step(placed, resident, split_over_devices(ITEM, two), KEY))
    chex.assert_trees_all_close(metrics, after[1], rtol=1e-5)
    chex.assert_trees_all_close((state.params, metrics), (after[0].params, after[1]), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="equally many of each process, got 0 of 0 here"):
        split_over_devices(ITEM, [])


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
    after, metrics = jax.jit(train_step(SOURCE, forward, rule))(state, SPLIT, ITEM, KEY)
    assert metrics.finite == {"hidden": False, "readout": True, "optimizer": True}
    chex.assert_trees_all_equal(after.params, state.params)


@pytest.mark.parametrize("rule", [optax.scale(jnp.inf), optax.chain(optax.scale_by_adam(b2=jnp.inf), RULE)])
def test_a_step_to_numbers_that_are_not_finite_is_told_and_not_taken(rule):
    variables, forward = ann()
    state = init_state(variables, rule)
    after, metrics = jax.jit(train_step(SOURCE, forward, rule))(state, SPLIT, ITEM, KEY)
    assert jnp.isfinite(metrics.loss)
    assert not jax.tree.all(metrics.finite)
    assert after.step == 1
    chex.assert_trees_all_equal(after[1:], state[1:])


@pytest.mark.usefixtures("optimized")
def test_the_step_reduces_and_never_gathers():
    network, variables = random_snn(TINY_VGG.clone(stages=(4,)), seed=6, leak=0.95)
    forward = snn_forward(jsnn.Presentation(network, jsnn.encoding.poisson, STEPS, 3, dropout_of), jsnn.summed)
    batch = replicate(SPLIT), split_over_devices(ITEM), KEY
    step = parallel_train_step(SOURCE, forward, RULE).lower(replicate(init_state(variables, RULE)), *batch)
    text = step.compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text
    assert "all-to-all" not in text


def test_other_thresholds_leaks_and_factors_do_not_recompile():
    (network, variables), (_, others) = (random_snn(TINY_VGG, seed, leak) for seed, leak in ((6, 1.0), (7, 0.9)))
    presentation = jsnn.Presentation(network, jsnn.encoding.poisson, STEPS, 3, dropout_of)
    evaluation, forward = jsnn.snn_evaluation(presentation, SOURCE), snn_forward(presentation, jsnn.summed)
    evaluate = jsnn.parallel_evaluation(chex.assert_max_traces(evaluation, 1))
    step = parallel_train_step(SOURCE, chex.assert_max_traces(forward, 1), RULE)
    resident, item, losses = replicate(SPLIT), split_over_devices(ITEM), []
    for candidate in (variables, others, jsnn.scale_thresholds(variables, 0.5)):
        losses.append(float(evaluate(replicate(candidate), resident, item, KEY).loss[-1]))
        state = replicate(init_state(candidate, RULE))
        for _ in range(2):
            state, _ = step(state, resident, item, KEY)
    assert len(set(losses)) == 3
