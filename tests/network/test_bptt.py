"""Backpropagation from spike trains alone equals autodiff through the membranes, in a fraction of the memory."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn.encoding import constant, poisson
from jsnn.models import dropout_of
from jsnn.network import trains
from jsnn.network.bptt import Outcome, present
from jsnn.network.simulation import Presentation, simulate
from jsnn.network.transformation import NEURONS
from jsnn.neurons.surrogate import linear
from tests.network.presentations import BATCH, INDEX, KEYS, NETWORKS, STDB, STEPS, assert_equal_gradients, loss_of_all
from tests.networks import IMAGE_SHAPE, TINY_VGG, images, random_snn


def loss_of(outcome):
    logits = outcome.results.sum(0)
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(BATCH) % 3).mean()


@cache
def plain(name, encode=poisson, loss_of=loss_of):
    """Loss and gradients in (params, images) by the plain way: `step` of the neurons under autodiff, all at once."""
    snn, _ = random_snn(NETWORKS[name], seed=5, leak=1.0, surrogate=STDB)

    def loss(params, x, neurons):
        results, spikes = simulate(
            snn,
            {"params": params, NEURONS: neurons},
            lambda time: encode(x, KEYS.encoding, INDEX, time),
            lambda observed: (observed.results, observed.layers["spikes"]),
            num_steps=STEPS,
            chunk=STEPS,
            collect=("spikes",),
            **dropout_of(INDEX, KEYS.noise),
        )
        counts = {layer: train.reshape(STEPS, BATCH, -1).mean(-1).sum(0) for layer, train in spikes.items()}
        return loss_of(Outcome(results, counts))

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


@cache
def packed(name, chunk, encode=poisson, loss_of=loss_of):
    """The same from spike trains alone."""
    snn, _ = random_snn(NETWORKS[name], seed=5, leak=1.0, surrogate=STDB)
    presentation = Presentation(snn, encode, STEPS, chunk, dropout_of)

    def loss(params, x, neurons):
        return loss_of(present(presentation, {"params": params, NEURONS: neurons}, x, INDEX, KEYS))

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


# 21 steps in chunks of 5 with padding behind, in one chunk and in chunks of one step; the rest in the second tier, for
# the ResNet is compared in double precision and the network without dropout with images as its input.
CASES = [("vgg", 5), ("vgg", 100)]
REPETITIONS = [*((name, 8) for name in NETWORKS), ("vgg", 1), ("resnet", 5)]


@pytest.mark.parametrize("leak", [1.0, 0.9])
@pytest.mark.parametrize(("name", "chunk"), [*CASES, *(pytest.param(*c, marks=pytest.mark.slow) for c in REPETITIONS)])
def test_gradients_equal_those_through_membranes(name, chunk, leak):
    variables = random_snn(NETWORKS[name], seed=5, leak=leak)[1]
    arguments = variables["params"], images(BATCH), variables[NEURONS]
    assert_equal_gradients(packed(name, chunk)(*arguments), plain(name)(*arguments), 1e-6)


@pytest.mark.parametrize("leak", [1.0, 0.9])
def test_gradients_are_exact_in_double_precision(float64, leak):
    variables = random_snn(NETWORKS["resnet"], seed=5, leak=leak, dtype=jnp.float64)[1]
    arguments = variables["params"], images(BATCH, jnp.float64), variables[NEURONS]
    assert_equal_gradients(packed("resnet", 8)(*arguments), plain("resnet")(*arguments), 1e-13)


def test_ages_are_counted_on_from_wherever_they_were_kept(monkeypatch):
    monkeypatch.setattr(trains, "STEPS_BETWEEN_AGES", 8)
    variables = random_snn(NETWORKS["vgg"], seed=5, leak=0.9)[1]
    arguments = variables["params"], images(BATCH), variables[NEURONS]
    assert_equal_gradients(packed.__wrapped__("vgg", 1)(*arguments), plain("vgg")(*arguments), 1e-6)


def test_images_get_a_gradient_where_they_are_the_input():
    variables = random_snn(NETWORKS["vgg without dropout"], seed=5, leak=0.9)[1]
    arguments = variables["params"], images(BATCH), variables[NEURONS]
    actual = packed("vgg without dropout", 8, constant)(*arguments)
    expected = plain("vgg without dropout", constant)(*arguments)
    assert_equal_gradients(actual, expected, 1e-6)
    assert np.linalg.norm(expected[1][1]) > 0


@pytest.mark.parametrize("chunk", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_results_of_every_step_and_spikes_of_every_layer_have_their_gradients(chunk):
    variables = random_snn(NETWORKS["resnet"], seed=5, leak=0.9)[1]
    arguments = variables["params"], images(BATCH), variables[NEURONS]
    actual = packed("resnet", chunk, poisson, loss_of_all)(*arguments)
    assert_equal_gradients(actual, plain("resnet", poisson, loss_of_all)(*arguments), 1e-6)


def small_presentation(num_steps=STEPS, chunk=8):
    snn, variables = random_snn(NETWORKS["vgg"], seed=5, leak=0.9, surrogate=STDB)
    return Presentation(snn, poisson, num_steps, chunk, dropout_of), variables


def test_neurons_get_no_gradient_and_say_so():
    presentation, variables = small_presentation()
    with pytest.raises(ValueError, match="do not give the gradient in the parameters of neurons"):
        jax.grad(lambda v: loss_of(present(presentation, v, images(BATCH), INDEX, KEYS)))(variables)


def test_a_second_derivative_is_refused():
    presentation, variables = small_presentation()

    def loss(params):
        return loss_of(present(presentation, {**variables, "params": params}, images(BATCH), INDEX, KEYS))

    with pytest.raises(ValueError, match="no second derivative"):
        jax.eval_shape(lambda params: jax.jvp(jax.grad(loss), (params,), (params,)), variables["params"])


def test_neurons_whose_gradient_needs_membranes_are_refused():
    snn, variables = random_snn(NETWORKS["vgg"], seed=5, leak=0.9, surrogate=linear())
    with pytest.raises(ValueError, match="do not give the gradient of these neurons"):
        present(Presentation(snn, poisson, STEPS, 8), variables, images(BATCH), INDEX, KEYS)


@pytest.mark.parametrize("transform", [lambda loss: loss, jax.grad], ids=["forward", "backward"])
def test_variables_of_something_else_are_refused(transform):
    presentation, variables = small_presentation()
    params, neurons = variables["params"], variables[NEURONS]

    def loss(params, others):
        return loss_of(present(presentation, {"params": params, **others}, images(BATCH), INDEX, KEYS))

    with pytest.raises(ValueError, match='no "neurons"'):
        transform(loss)(params, {})
    with pytest.raises(ValueError, match=r"spikes in conv0, conv1, dense0, dense1, but .* for conv0"):
        transform(loss)(params, {NEURONS: {"conv0": neurons["conv0"]}})


@pytest.mark.parametrize(("num_steps", "chunk", "word"), [(0, 8, "num_steps"), (8, 0, "chunk")])
def test_numbers_of_steps_below_one_are_refused(num_steps, chunk, word):
    presentation, variables = small_presentation(num_steps, chunk)
    with pytest.raises(ValueError, match=word):
        present(presentation, variables, images(BATCH), INDEX, KEYS)


def temporaries(num_steps, batch):
    """Bytes of the compiled gradient's temporaries, and the number of spiking neurons in the batch."""
    snn, variables = random_snn(TINY_VGG.clone(stages=(4,), hidden=()), seed=5, leak=0.9, surrogate=STDB)
    presentation, x = Presentation(snn, poisson, num_steps, 8, dropout_of), jnp.zeros((batch, *IMAGE_SHAPE))

    def loss(params):
        return present(presentation, {**variables, "params": params}, x, jnp.arange(batch), KEYS).results.sum()

    states = jax.eval_shape(lambda: snn.initial_state(variables, x))
    compiled = jax.jit(jax.grad(loss)).lower(variables["params"]).compile()
    return compiled.memory_analysis().temp_size_in_bytes, sum(state.membrane.size for state in states.values())


@pytest.mark.usefixtures("optimized")
def test_memory_grows_by_little_more_than_a_bit_per_neuron_and_step():
    (short, neurons), (long, _) = (temporaries(num_steps, batch=64) for num_steps in (256, 1024))
    bits = 8 * (long - short) / (neurons * (1024 - 256))
    assert 1 <= bits < 1.5
