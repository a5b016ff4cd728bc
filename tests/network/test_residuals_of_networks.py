"""What is kept of a network's neurons for its gradient: the choice, and that all choices give the same."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jsnn.conversion import parameters_by_channel
from jsnn.encoding import poisson
from jsnn.models import dropout_of
from jsnn.network.bptt import present
from jsnn.network.simulation import Presentation
from jsnn.network.transformation import NEURONS
from jsnn.neurons.surrogate import arctan, boxcar, linear
from jsnn.training.forward import from_membranes, residuals_of, snn_forward
from tests.network.presentations import BATCH, INDEX, KEYS, NETWORKS, STDB, STEPS, assert_equal_gradients, loss_of_all
from tests.networks import images, random_snn

PARAMETERS = ("threshold", "leak", "initial")


def presentation(chunk, surrogate):
    return Presentation(random_snn(NETWORKS["vgg"], seed=5, leak=0.9, surrogate=surrogate)[0], poisson, STEPS, chunk)


def by_residuals(surrogate, choices, trained, chunk, by_channel=False):
    """Gradients in variables for each choice of residuals."""
    snn, variables = random_snn(NETWORKS["vgg"], seed=5, leak=0.9, surrogate=surrogate)
    variables = parameters_by_channel(snn, variables, images(BATCH), PARAMETERS) if by_channel else variables
    presentation = Presentation(snn, poisson, STEPS, chunk, dropout_of)
    chosen = {name: variables[name] for name in trained}

    def gradient(residuals):
        forward = snn_forward(presentation, lambda outcome: outcome, trained, residuals)

        def loss(chosen):
            return loss_of_all(forward({**variables, **chosen}, images(BATCH), INDEX, jax.random.key(4))[0])

        return jax.jit(jax.value_and_grad(loss))(chosen)

    return [gradient(residuals) for residuals in choices]


def test_two_bits_of_a_boxcar_give_the_gradient_exactly():
    snn, variables = random_snn(NETWORKS["vgg"], seed=5, leak=0.9, surrogate=boxcar(0.8))
    presentation = Presentation(snn, poisson, STEPS, 5, dropout_of)

    def gradient(run):
        def loss(params):
            return loss_of_all(run(presentation, {**variables, "params": params}, images(BATCH), INDEX, KEYS))

        return jax.jit(jax.value_and_grad(loss, (0,)))(variables["params"])

    assert_equal_gradients(gradient(present), gradient(from_membranes), 1e-6)


@pytest.mark.parametrize(
    ("surrogate", "chunk", "by_channel"),
    [
        (linear(1.0), 5, False),  # with padding behind
        (linear(1.0), 8, True),
        pytest.param(linear(1.0), 1, False, marks=pytest.mark.slow),
        pytest.param(arctan(), 8, False, marks=pytest.mark.slow),
    ],
)
def test_bytes_give_the_gradients_of_weights_and_neurons_to_their_rounding(surrogate, chunk, by_channel):
    (_, actual), (_, expected) = by_residuals(surrogate, ("byte", "exact"), ("params", NEURONS), chunk, by_channel)
    assert off(actual["params"], expected["params"]) <= 0.01
    for parameter, most in {"threshold": 0.02, "leak": 0.04, "initial": 0.03}.items():
        one, other = ([layer[parameter] for layer in tree[NEURONS].values()] for tree in (actual, expected))
        assert off(one, other) <= most, parameter
        assert all(leaf.shape == twin.shape and leaf.any() for leaf, twin in zip(one, other, strict=True))


def off(actual, expected):
    """The distance of two trees by the norm of the second."""
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, actual, expected)) / optax.tree.norm(expected))


def test_auto_is_exact_in_one_chunk_and_a_byte_beyond():
    one, several = (presentation(chunk, linear()) for chunk in (32, 8))
    trained = ("params", NEURONS)
    for case, choice, expected in [
        (one, "auto", None),
        (several, "auto", several.snn.neuron.in_bytes()),
        (one, "byte", one.snn.neuron.in_bytes()),
        (several, "exact", None),
        (one._replace(num_steps=40, chunk=64), "auto", None),
    ]:
        assert residuals_of(case, trained, choice) is expected
    stdb_net = presentation(8, STDB)
    assert residuals_of(stdb_net, ("params",), "byte") is stdb_net.snn.neuron.lossless
    assert residuals_of(stdb_net, trained, "auto") is None
    assert residuals_of(stdb_net._replace(num_steps=4), ("params",), "byte") is None  # membranes are the least there
    with pytest.raises(ValueError, match="lif and hard_reset_lif, whose surrogate asks for no spike times"):
        residuals_of(stdb_net, trained, "byte")
    with pytest.raises(ValueError, match="no residuals 'bits': choose from exact, byte, auto"):
        residuals_of(one, trained, "bits")
