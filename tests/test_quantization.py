"""QCFS against its formula, and the network that it becomes against the neurons that it stands for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsnn
from jsnn.encoding import constant
from jsnn.models import VGG, ResNet, fold_batch_norm
from jsnn.network.transformation import NEURONS

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


IMAGES = normal(5, 8, 8, 2)
KEY, LAMS = jax.random.key(0), jnp.array([0.5, 1, 2, 3])
BY_CHANNEL = np.array([0.5, 1.0, 2.0], np.float32)
RESNET = ResNet((1, 1, 0, 0), (3, 4, 4, 4), 3, norm="batch")


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
    ("lams", "levels", "sentence"),
    [
        ((1.0,), 0, "level"),
        ((1.0,), 2.5, "whole number"),
        ((1.0,), np.nan, "whole number"),
        ((0.0, -1.0, np.inf, np.array([1, -1.0])), 4, "lam above 0"),
        ((np.ones((3, 2)), np.ones(3)), 2, r"broadcastable to the current \(2,\)"),
    ],
)
def test_bad_arguments_are_refused_inside_jit_too(lams, levels, sentence):
    for lam in lams:
        call = partial(jsnn.qcfs, lam=lam, levels=levels)
        for function in (call, jax.jit(call)):
            with pytest.raises(ValueError, match=sentence):
                function(jnp.ones(2))


def test_whole_numbers_as_lam_nan_and_other_dtypes_are_taken():
    for lam in (2, np.int32(2), np.array([2, 1, 2])):  # which have no derivative
        slopes = jax.grad(lambda x, lam=lam: jsnn.qcfs(x, lam, 4).sum())(jnp.array([-1.0, 0.3, 3]))
        np.testing.assert_array_equal(slopes, [0, 1, 0])
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
def test_neurons_give_after_as_many_steps_as_levels_what_the_activation_gives(function, levels):
    """Of as many samples as units, where a transposed map has the right shape."""
    variables, x = {"w": normal(4, 5), "lam": LAMS}, normal(4, 5)

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
    x, lam = normal(6, 3), jnp.asarray(BY_CHANNEL)
    of_one = derivative(lambda x, lam: (jsnn.qcfs(x, lam, 4) ** 2).sum(), (0, 1))
    mapped = jax.jit(jax.vmap(of_one, in_axes=(1, None), out_axes=1))(x.T, lam)
    one_by_one = [jax.jit(of_one)(sample, lam) for sample in x]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *one_by_one)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), mapped, stacked)


def test_a_relu_beside_it_is_balanced_and_lam_is_taken():
    """A layer behind it that is not balanced takes the largest lam before it."""
    snn = jsnn.spiking(lambda v, x: jax.nn.relu(jsnn.qcfs(jax.nn.relu(x @ v["a"]) @ v["b"], BY_CHANNEL, 4) @ v["c"]))
    variables, x = {"a": normal(3, 3), "b": normal(3, 3), "c": normal(3, 3)}, normal(4, 3)
    with pytest.raises(ValueError, match="a stands for no qcfs"):
        jsnn.trained_thresholds(snn, variables, x)
    thresholds = jsnn.balance_thresholds(snn, variables, x, constant, KEY, num_steps=3, layers=["a", "b"])
    np.testing.assert_allclose(thresholds["a"], (x @ variables["a"]).max(), rtol=1e-6)
    np.testing.assert_array_equal(thresholds["b"], BY_CHANNEL)
    assert float(thresholds["c"]) == 2


def test_lam_that_depends_on_the_input_is_refused():
    with pytest.raises(ValueError, match="lam of the qcfs"):
        jsnn.spiking(lambda variables, x: jsnn.qcfs(x, 1 + x.sum(), 4)).trace({}, IMAGES)


@pytest.mark.parametrize("ann", [VGG((4, "A"), (5,), 3, norm="batch"), RESNET])
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
    ann = RESNET.clone(levels=4)
    variables, snn = jax.jit(ann.init)(KEY, IMAGES[:1]), jsnn.spiking(ann.apply)
    thresholds = jsnn.trained_thresholds(snn, variables, IMAGES[:1])
    assert tuple(thresholds) == ann.spiking_layers
    np.testing.assert_allclose(list(thresholds.values()), 2, rtol=1e-6)
    assert set(jsnn.convert(snn, variables, thresholds, initial=0.5)[NEURONS]) == set(ann.spiking_layers)
