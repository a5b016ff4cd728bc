"""Backpropagation from what is kept of neurons, bits or bytes, equals autodiff through membranes, in less memory."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn.conversion import parameters_by_channel
from jsnn.encoding import constant, poisson
from jsnn.models import dropout_of
from jsnn.network import Presentation, simulate, trains
from jsnn.network.bptt import Keys, Outcome, present
from jsnn.neurons.surrogate import boxcar, linear, stdb
from jsnn.training.forward import residuals_of, snn_forward
from tests.networks import IMAGE_SHAPE, TINY_RESNET, TINY_VGG, images, random_snn

STEPS, BATCH = 21, 3
STDB = stdb(0.4, 0.05)
INDEX, KEYS = np.array([4, 0, 9], np.int32), Keys(jax.random.key(2), jax.random.key(3))
TINY = TINY_VGG.clone(conv_dropout=0.3, dense_dropout=0.4)
NO_DROPOUT = TINY_VGG.clone(conv_dropout=0.0, dense_dropout=0.0)
RESNET = TINY_RESNET.clone(conv_dropout=0.3)


def loss_of_results(outcome):
    logits = outcome.results.sum(0)
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(BATCH) % 3).mean()


def loss_of_all(outcome):
    """A loss of every step, every sample and every layer, each with a weight of its own."""
    results, spikes = outcome
    weights = 1 + jnp.arange(results.size, dtype=results.dtype).reshape(results.shape) % 7
    samples = jnp.arange(1, BATCH + 1)
    activity = [(i * samples * spikes[layer] ** 2).sum() for i, layer in enumerate(sorted(spikes), start=1)]
    return (weights * results**2).sum() + sum(activity)


def through_membranes(presentation, variables, x, index, keys):
    """What `present` gives, by the neurons' steps under autodiff, all time steps at once."""
    results, spikes = simulate(
        presentation.snn,
        variables,
        lambda time: presentation.encode(x, keys.encoding, index, time),
        lambda observed: (observed.results, observed.layers["spikes"]),
        num_steps=STEPS,
        chunk=STEPS,
        collect=("spikes",),
        **presentation.noise(index, keys.noise),
    )
    return Outcome(results, {name: x.reshape(STEPS, BATCH, -1).mean(-1).sum(0) for name, x in spikes.items()})


@cache
def program(run, ann, chunk, loss_of, surrogate, encode):
    """(params, images, neurons) -> a loss and its gradients in params and images."""
    snn, _ = random_snn(ann, seed=5, leak=1.0, surrogate=surrogate)
    presentation = Presentation(snn, encode, STEPS, chunk, dropout_of)

    def loss(params, x, neurons):
        return loss_of(run(presentation, {"params": params, "neurons": neurons}, x, INDEX, KEYS))

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


CASES = {
    "in one chunk": (TINY, 100, loss_of_all, STDB, poisson, jnp.float32),
    "in words that two chunks share": (TINY, 4, loss_of_all, STDB, poisson, jnp.float32),
    "with padding behind, from two bits": (TINY, 5, loss_of_all, boxcar(0.8), poisson, jnp.float32),
    "of images, in chunks of a step": (NO_DROPOUT, 1, loss_of_results, STDB, constant, jnp.float32),
    "in double precision": (RESNET, 8, loss_of_all, STDB, poisson, jnp.float64),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gradients_from_bits_equal_those_through_membranes(case, monkeypatch):
    """Within a tolerance of their norm, none of which is zero, and with ages counted on from where they were kept."""
    monkeypatch.setattr(trains, "STEPS_BETWEEN_AGES", 16)
    (ann, chunk, *of_loss, encode, dtype), tolerance = case, 1e-13 if jnp.float64 in case else 1e-6
    with jax.enable_x64(dtype == jnp.float64):
        for leak in (1.0, 0.9):
            variables = random_snn(ann, seed=5, leak=leak, dtype=dtype)[1]
            arguments = variables["params"], images(BATCH, dtype), variables["neurons"]
            loss, gradients = program(present, ann, chunk, *of_loss, encode)(*arguments)
            expected, slopes = program(through_membranes, ann, STEPS, *of_loss, encode)(*arguments)
            assert float(loss) == pytest.approx(float(expected), rel=tolerance)
            for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(slopes), strict=True):
                assert a.dtype == b.dtype
                assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)
            assert all(np.linalg.norm(leaf) > 0 for leaf in jax.tree.leaves(slopes[0]))
            assert (np.linalg.norm(slopes[1]) > 0) == (encode is constant)  # the images', where they are the input


def test_bytes_give_the_gradients_of_weights_and_of_neurons_by_channel_to_their_rounding():
    snn, variables = random_snn(TINY, seed=5, leak=0.9, surrogate=linear(1.0))
    variables = parameters_by_channel(snn, variables, images(BATCH), ("threshold", "leak", "initial"))
    presentation = Presentation(snn, poisson, STEPS, 5, dropout_of)

    def gradient(residuals):
        forward = snn_forward(presentation, loss_of_all, ("params", "neurons"), residuals)
        return jax.jit(jax.grad(lambda chosen: forward(chosen, images(BATCH), INDEX, jax.random.key(4))[0]))(variables)

    actual, expected = gradient("byte"), gradient("exact")
    for parameter, most in {"kernel": 0.01, "threshold": 0.02, "leak": 0.04, "initial": 0.03}.items():
        one, other = (
            [v[parameter] for layers in tree.values() for v in layers.values() if parameter in v]
            for tree in (actual, expected)
        )
        assert optax.tree.norm(optax.tree.sub(one, other)) <= most * optax.tree.norm(other), parameter
        assert all(leaf.shape == twin.shape and leaf.any() for leaf, twin in zip(one, other, strict=True))


def test_auto_is_exact_in_one_chunk_and_a_byte_beyond():
    def presentation(chunk, surrogate):
        return Presentation(random_snn(TINY, seed=5, leak=0.9, surrogate=surrogate)[0], poisson, STEPS, chunk)

    one, several, of_stdb = presentation(32, linear()), presentation(8, linear()), presentation(8, STDB)
    in_bytes, trained = several.snn.neuron.in_bytes(), ("params", "neurons")
    for case, chosen, choice, expected in [
        (one, trained, "auto", None),
        (several, trained, "auto", in_bytes),
        (one, trained, "byte", in_bytes),
        (several, trained, "exact", None),
        (of_stdb, ("params",), "byte", of_stdb.snn.neuron.lossless),
        (of_stdb, trained, "auto", None),
        (of_stdb._replace(num_steps=4), ("params",), "byte", None),  # membranes are the least there
    ]:
        assert residuals_of(case, chosen, choice) is expected
    with pytest.raises(ValueError, match="lif and hard_reset_lif, whose surrogate asks for no spike times"):
        residuals_of(of_stdb, trained, "byte")
    with pytest.raises(ValueError, match="no residuals 'bits': choose from exact, byte, auto"):
        residuals_of(one, trained, "bits")


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
