"""Backpropagation from spike trains alone equals autodiff through the membranes, in a fraction of the memory."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn import bptt
from jsnn.bptt import Keys, present
from jsnn.encoding import constant, poisson
from jsnn.simulation import Presentation, simulate
from jsnn.surrogate import stdb
from tests.networks import IMAGE_SHAPE, SMALL_RESNET, SMALL_VGG, TINY_VGG, random_snn

STEPS, BATCH = 21, 3
STDB = stdb(0.4, 0.05)
INDEX, KEYS = np.array([4, 0, 9], np.int32), Keys(jax.random.key(2), jax.random.key(3))
NETWORKS = {
    "vgg": SMALL_VGG.clone(conv_dropout=0.3, dense_dropout=0.4),
    "vgg without dropout": SMALL_VGG.clone(conv_dropout=0.0, dense_dropout=0.0),
    "resnet": SMALL_RESNET.clone(conv_dropout=0.3),
    "resnet without dropout": SMALL_RESNET.clone(conv_dropout=0.0),
}


def images(dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (BATCH, *IMAGE_SHAPE)), dtype)


def loss_of(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(BATCH) % 3).mean()


@cache
def plain(name, encode=poisson):
    """Loss and gradients in (params, images) by the plain way: `lif_step` under autodiff, all steps at once."""
    model, _ = random_snn(NETWORKS[name], seed=5, leak=1.0, surrogate=STDB)

    def loss(params, x, neuron):
        logits = simulate(
            model,
            {"params": params, "neuron": neuron},
            lambda time: encode(x, KEYS.encoding, INDEX, time),
            lambda logits, _: logits,
            num_steps=STEPS,
            chunk=STEPS,
            index=INDEX,
            rngs={"dropout": KEYS.dropout},
        )
        return loss_of(logits[-1])

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


@cache
def packed(name, chunk, encode=poisson):
    """The same from spike trains alone."""
    model, _ = random_snn(NETWORKS[name], seed=5, leak=1.0, surrogate=STDB)
    what = Presentation(model, encode, STEPS, chunk)

    def loss(params, x, neuron):
        return loss_of(present(what, {"params": params, "neuron": neuron}, x, INDEX, KEYS))

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


def assert_equal_gradients(one, other, tolerance):
    """Losses equal, every leaf of the gradients within `tolerance` of its norm, none of them zero."""
    assert float(one[0]) == pytest.approx(float(other[0]), rel=tolerance)
    for a, b in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        assert a.dtype == b.dtype
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)
    assert all(np.linalg.norm(leaf) > 0 for leaf in jax.tree.leaves(other[1][0]))


# 21 steps in chunks of 5 with silence before, in one chunk and in chunks of one step; the rest in the second tier, for
# the ResNet is compared in double precision and the network without dropout with images as its input.
CASES = [("vgg", 5), ("vgg", 100)]
REPETITIONS = [*((name, 8) for name in NETWORKS), ("vgg", 1), ("resnet", 5)]


@pytest.mark.parametrize("leak", [1.0, 0.9])
@pytest.mark.parametrize(("name", "chunk"), [*CASES, *(pytest.param(*c, marks=pytest.mark.slow) for c in REPETITIONS)])
def test_gradients_equal_those_through_membranes(name, chunk, leak):
    variables = random_snn(NETWORKS[name], seed=5, leak=leak)[1]
    arguments = variables["params"], images(), variables["neuron"]
    assert_equal_gradients(packed(name, chunk)(*arguments), plain(name)(*arguments), 1e-6)


@pytest.mark.parametrize("leak", [1.0, 0.9])
def test_gradients_are_exact_in_double_precision(float64, leak):
    variables = random_snn(NETWORKS["resnet"], seed=5, leak=leak, dtype=jnp.float64)[1]
    arguments = variables["params"], images(jnp.float64), variables["neuron"]
    assert_equal_gradients(packed("resnet", 8)(*arguments), plain("resnet")(*arguments), 1e-13)


def test_ages_are_counted_on_from_wherever_they_were_kept(monkeypatch):
    monkeypatch.setattr(bptt, "STEPS_BETWEEN_AGES", 8)
    variables = random_snn(NETWORKS["vgg"], seed=5, leak=0.9)[1]
    arguments = variables["params"], images(), variables["neuron"]
    assert_equal_gradients(packed.__wrapped__("vgg", 1)(*arguments), plain("vgg")(*arguments), 1e-6)


def test_images_get_a_gradient_where_they_are_the_input():
    variables = random_snn(NETWORKS["vgg without dropout"], seed=5, leak=0.9)[1]
    arguments = variables["params"], images(), variables["neuron"]
    found = packed("vgg without dropout", 8, constant)(*arguments)
    expected = plain("vgg without dropout", constant)(*arguments)
    assert_equal_gradients(found, expected, 1e-6)
    assert np.linalg.norm(expected[1][1]) > 0


def test_thresholds_get_no_gradient_and_say_so():
    model, variables = random_snn(NETWORKS["vgg"], seed=5, leak=0.9, surrogate=STDB)
    what = Presentation(model, poisson, STEPS, 8)
    with pytest.raises(ValueError, match="do not give the gradient in thresholds"):
        jax.grad(lambda v: loss_of(present(what, v, images(), INDEX, KEYS)))(variables)


def test_variables_of_something_else_are_refused():
    model, variables = random_snn(NETWORKS["vgg"], seed=5, leak=0.9, surrogate=STDB)
    with pytest.raises(ValueError, match="got 'params', 'neuron', 'state'"):
        present(Presentation(model, poisson, 4, 8), {**variables, "state": {}}, images(), INDEX, KEYS)


@pytest.mark.parametrize(("num_steps", "chunk", "word"), [(0, 8, "num_steps"), (8, 0, "chunk")])
def test_numbers_of_steps_below_one_are_refused(num_steps, chunk, word):
    model, variables = random_snn(NETWORKS["vgg"], seed=5, leak=0.9, surrogate=STDB)
    with pytest.raises(ValueError, match=word):
        present(Presentation(model, poisson, num_steps, chunk), variables, images(), INDEX, KEYS)


def temporaries(num_steps, batch):
    """Bytes of the compiled gradient's temporaries, and the number of spiking neurons in the batch."""
    model, variables = random_snn(TINY_VGG.clone(stages=(4,), hidden=()), seed=5, leak=0.9, surrogate=STDB)
    what, x = Presentation(model, poisson, num_steps, 8), jnp.zeros((batch, *IMAGE_SHAPE))

    def loss(params):
        return present(what, {**variables, "params": params}, x, jnp.arange(batch), KEYS).sum()

    trains = jax.eval_shape(lambda: model.apply(variables, x[None], mutable=["spikes"])[1]["spikes"])
    compiled = jax.jit(jax.grad(loss)).lower(variables["params"]).compile()
    return compiled.memory_analysis().temp_size_in_bytes, sum(leaf.size for leaf in jax.tree.leaves(trains))


@pytest.mark.usefixtures("optimized")
def test_memory_grows_by_little_more_than_a_bit_per_neuron_and_step():
    (short, neurons), (long, _) = (temporaries(num_steps, batch=64) for num_steps in (256, 1024))
    bits = 8 * (long - short) / (neurons * (1024 - 256))
    assert 1 <= bits < 1.5
