"""QCFS against its formula, and the network that it becomes against the neurons that it stands for."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsnn
from jsnn.encoding import constant
from jsnn.models import QCFS, VGG, ResNet, fold_batch_norm
from jsnn.network.transformation import NEURONS

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(0, 1, (5, 8, 8, 2)), jnp.float32)
KEY, LAMS = jax.random.key(0), jnp.array([0.5, 1, 2, 3])
BY_CHANNEL = np.array([0.5, 1.0, 2.0], np.float32)


@pytest.mark.parametrize(("lam", "levels"), [(1.5, 4), (1.5, 1), (BY_CHANNEL, 1), (BY_CHANNEL, 7)])
def test_values_and_gradients_are_those_of_the_formula(lam, levels):
    x = RNG.uniform(-1, 3, (50, 3)).astype(np.float32)
    x[0], x[1] = 0, lam  # where a clip would give half of the gradient
    share = np.floor(x * levels / lam + 0.5) / levels
    expected = lam * np.clip(share, 0, 1)
    np.testing.assert_allclose(jsnn.qcfs(x, lam, levels), expected, rtol=1e-6)
    by_x, by_lam = jax.grad(lambda x, lam: jsnn.qcfs(x, lam, levels).sum(), (0, 1))(x, jnp.asarray(lam))
    np.testing.assert_array_equal(by_x, (x > 0) & (x < lam))
    of_lam = np.where(x >= lam, 1, np.where(x > 0, (expected - x) / lam, 0))
    np.testing.assert_allclose(by_lam, of_lam.sum(0) if np.ndim(lam) else of_lam.sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("lam", "levels", "sentence"),
    [
        (1.0, 0, "level"),
        (1.0, 2.5, "whole number"),
        (1.0, np.nan, "whole number"),
        (0.0, 4, "lam"),
        (np.inf, 4, "lam"),
        (np.array([1, -1.0]), 2, "lam"),
        (np.ones((3, 2)), 2, r"broadcastable to the current \(2,\)"),
        (np.ones(3), 2, r"broadcastable to the current \(2,\)"),
        (-1.0, 4, "lam above 0"),
    ],
)
def test_bad_arguments_are_refused_inside_jit_too(lam, levels, sentence):
    def call(x):
        return jsnn.qcfs(x, lam, levels)

    for function in (call, jax.jit(call)):
        with pytest.raises(ValueError, match=sentence):
            function(jnp.ones(2))


@pytest.mark.parametrize("lam", [2, np.int32(2), np.array([2, 1, 2])])
def test_whole_numbers_as_lam_have_no_derivative(lam):
    x = jnp.array([-1.0, 0.3, 3])
    slopes = jax.grad(lambda x: jsnn.qcfs(x, lam, 4).sum())(x)
    np.testing.assert_array_equal(slopes, [0, 1, 0])


def test_nan_and_the_dtype_stay_what_they_are():
    np.testing.assert_array_equal(jsnn.qcfs(jnp.array([jnp.nan, 1, -1]), 2.0, 4), [np.nan, 1, 0])
    assert jsnn.qcfs(jnp.ones(3, jnp.bfloat16), jnp.float32(2), 4).dtype == jnp.bfloat16


def by_unit(w, lam, x, levels=4):
    return jsnn.qcfs(x @ w.T, lam, levels)


FUNCTIONS = {
    **{f"by unit, {levels} levels": (partial(by_unit, levels=levels), levels) for levels in (1, 3, 8)},
    "within jit": (jax.jit(by_unit), 4),
    "within remat": (jax.checkpoint(by_unit), 4),
    "per example": (lambda w, lam, x: jax.vmap(lambda x: jsnn.qcfs(w @ x, lam, 4))(x), 4),
    "an ensemble": (lambda w, lam, x: jax.vmap(partial(by_unit, x=x))(jnp.stack([w, -w]), lam[1:3]).sum(0), 4),
    "by lam": (lambda w, lam, x: jax.vmap(lambda one: by_unit(w, one, x), out_axes=1)(lam[:3]).mean(1), 4),
    "by another axis": (lambda w, lam, x: jax.vmap(partial(jsnn.qcfs, levels=4), (1, 0), 1)(x @ w.T, lam), 4),
}


@pytest.mark.parametrize(("function", "levels"), FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("samples", [3, 4])
def test_neurons_give_after_as_many_steps_as_levels_what_the_activation_gives(function, levels, samples):
    """Of as many samples as units, too, where a transposed map has the right shape."""
    variables = {"w": jnp.asarray(RNG.normal(0, 1, (4, 5)), jnp.float32), "lam": LAMS}
    x = jnp.asarray(RNG.normal(0, 1, (samples, 5)), jnp.float32)

    def apply(variables, x):
        return function(variables["w"], variables["lam"], x)

    snn = jsnn.spiking(apply)
    thresholds = jsnn.trained_thresholds(snn, variables, x)
    if levels != 4:  # one call, of one lam for each unit
        np.testing.assert_array_equal(thresholds["w"], variables["lam"])
    net = jsnn.convert(snn, variables, thresholds, initial=0.5)
    results, _ = jax.jit(snn.apply)(net, snn.initial_state(net, x), jnp.tile(x, (levels, 1, 1)))
    np.testing.assert_allclose(results.mean(0), apply(variables, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd, jax.hessian])
def test_derivatives_of_mapped_calls_are_those_of_one_call(derivative):
    x, lam = jnp.asarray(RNG.normal(0, 1, (6, 3)), jnp.float32), jnp.array([0.5, 1, 2])
    of_one = derivative(lambda x, lam: (jsnn.qcfs(x, lam, 4) ** 2).sum(), (0, 1))
    mapped = jax.jit(jax.vmap(of_one, in_axes=(1, None), out_axes=1))(x.T, lam)
    one_by_one = [jax.jit(of_one)(sample, lam) for sample in x]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *one_by_one)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), mapped, stacked)


def test_a_relu_beside_it_is_balanced_and_lam_is_taken():
    class Mixed(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3), name="first")(x))
            x = QCFS(4, name="qcfs")(nn.Conv(4, (3, 3), name="second")(x))
            return nn.Dense(3)(x.reshape(len(x), -1))

    variables = jax.jit(Mixed().init)(KEY, IMAGES)
    snn = jsnn.spiking(Mixed().apply)
    with pytest.raises(ValueError, match="first stands for no qcfs"):
        jsnn.trained_thresholds(snn, variables, IMAGES)
    thresholds = jsnn.balance_thresholds(snn, variables, IMAGES, constant, KEY, num_steps=3)
    current = nn.Conv(4, (3, 3)).apply({"params": variables["params"]["first"]}, IMAGES)
    np.testing.assert_allclose(thresholds["first"], current.max(), rtol=1e-6)
    np.testing.assert_allclose(thresholds["second"], 2, rtol=1e-6)


def test_a_layer_that_is_not_balanced_takes_the_largest_lam_before_it():
    params = {name: jnp.asarray(RNG.normal(0, 1, (3, 3)), jnp.float32) for name in ("a", "b")}

    def apply(variables, x):
        first = jsnn.qcfs(x @ variables["params"]["a"], jnp.array([0.5, 1.0, 2.0]), 4)
        return jax.nn.relu(first @ variables["params"]["b"])

    snn, images = jsnn.spiking(apply), jnp.asarray(RNG.normal(0, 1, (4, 3)), jnp.float32)
    thresholds = jsnn.balance_thresholds(snn, {"params": params}, images, constant, KEY, num_steps=3, layers=["a"])
    np.testing.assert_array_equal(thresholds["a"], [0.5, 1, 2])
    assert float(thresholds["b"]) == 2


def test_lam_that_depends_on_the_input_is_refused():
    with pytest.raises(ValueError, match="lam of the qcfs"):
        jsnn.spiking(lambda variables, x: jsnn.qcfs(x, 1 + x.sum(), 4)).trace({}, IMAGES)


@pytest.mark.parametrize(
    "ann", [VGG((4, "A"), (5,), 3, norm="batch"), ResNet((1, 1, 0, 0), (3, 4, 4, 4), 3, norm="batch")]
)
def test_folded_batch_norm_computes_the_same(ann):
    variables = jax.eval_shape(ann.init, KEY, IMAGES)
    drawn = jax.tree.map(lambda leaf: jnp.asarray(RNG.uniform(0.5, 1.5, leaf.shape), leaf.dtype), variables)
    folded = fold_batch_norm(drawn)
    expected, actual = jax.jit(ann.apply)(drawn, IMAGES), jax.jit(ann.clone(norm="folded").apply)(folded, IMAGES)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)
    assert not any(name.endswith("_norm") for name in folded["params"])
    of_snn = fold_batch_norm({**drawn, NEURONS: {"conv0": {"threshold": 2.0}}})
    assert (set(of_snn), of_snn[NEURONS]) == ({"params", NEURONS}, {"conv0": {"threshold": 2.0}})


def test_models_take_qcfs_for_every_relu():
    ann = ResNet((1, 1, 0, 0), (3, 4, 4, 4), 3, norm="batch", levels=4)
    variables, snn = jax.jit(ann.init)(KEY, IMAGES[:1]), jsnn.spiking(ann.apply)
    thresholds = jsnn.trained_thresholds(snn, variables, IMAGES[:1])
    assert tuple(thresholds) == ann.spiking_layers
    np.testing.assert_allclose(list(thresholds.values()), 2, rtol=1e-6)
    assert set(jsnn.convert(snn, variables, thresholds, initial=0.5)[NEURONS]) == set(ann.spiking_layers)
