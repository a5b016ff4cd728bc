"""Arguments of an SNN's functions that don't fit are refused in a sentence."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import jsnn
from tests.plain_networks import IMAGES, dense, drawn


@pytest.mark.parametrize("head", [lambda x: x.reshape(len(x), -1), lambda x: x.mean((-3, -2))], ids=["flat", "mean"])
def test_inputs_without_time(head):
    def network(params, x):
        return dense(params["out"], head(jax.nn.relu(nn.Conv(4, (3, 3)).apply({"params": params["conv"]}, x))))

    conv = drawn(jax.eval_shape(nn.Conv(4, (3, 3)).init, jax.random.key(0), IMAGES))["params"]
    size = head(jnp.zeros((1, 6, 6, 4))).shape[1]
    snn = jsnn.spiking(network)
    variables = snn.init({"conv": conv, "out": {"w": jnp.ones((size, 3)), "b": jnp.ones(3)}}, IMAGES)
    state = snn.initial_state(variables, IMAGES)
    with pytest.raises((ValueError, TypeError)) as caught:
        snn.apply(variables, state, IMAGES)
    message = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "time-major" in message
    assert "(4, 6, 6, " in message


def test_a_batch_of_another_size_than_the_state(small):
    snn, variables, inputs = small
    state = snn.initial_state(variables, inputs[0])
    with pytest.raises(ValueError, match=r"a state of shape \(4, 6, 6, 3\) does not fit a current of"):
        snn.apply(variables, state, inputs[:, :2])


def test_inputs_without_a_batch(small):
    snn, variables, inputs = small
    with pytest.raises(ValueError, match=r"time-major inputs \[K, B, ...\], got the shape \(2,\)"):
        snn.apply(variables, snn.initial_state(variables, inputs[0]), inputs[0, 0, 0, 0])


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        (None, 'variables have no "neurons": get them from snn.init or jsnn.convert'),
        ({"stem": {}, "other": {}}, "the network spikes in conv, but its variables have neurons for stem, other"),
        ({"conv": {"threshold": 1.0, "leak": 1.0}}, "the neurons of conv have no 'initial'"),
        ({"conv": 1.0}, "the neurons of conv are a mapping of parameters, got float"),
        (
            {"conv": {"threshold": jnp.ones(2), "leak": 1.0, "initial": 0.0}},
            r"of conv is of the shape \(2,\)",
        ),
    ],
    ids=["none", "another network's", "another neuron's", "no mapping", "another shape"],
)
def test_variables_with_neurons_that_are_not_the_networks(small, neurons, message):
    snn, variables, inputs = small
    state = snn.initial_state(variables, inputs[0])
    wrong = {name: value for name, value in variables.items() if name != "neurons"}
    wrong |= {} if neurons is None else {"neurons": neurons}
    for call in (lambda: snn.initial_state(wrong, inputs[0]), lambda: snn.apply(wrong, state, inputs)):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("variables", "x", "message"),
    [
        ([jnp.ones((3, 3))], jnp.ones((1, 3)), "variables are a mapping, .* got list"),
        ({}, (jnp.ones((1, 3)), jnp.ones((1, 3))), "x is one array .* got tuple"),
    ],
)
def test_arguments_of_other_kinds(variables, x, message):
    with pytest.raises(ValueError, match=message):
        jsnn.spiking(lambda variables, x: jax.nn.relu(x)).init(variables, x)


def test_what_is_no_neuron():
    with pytest.raises(ValueError, match=r"must be a jsnn.Neuron, as jsnn.lif\(\) gives one"):
        jsnn.spiking(lambda variables, x: jax.nn.relu(x), jsnn.lif)


@pytest.mark.parametrize("shape", [(1,), (8,), ()], ids=["one step", "all steps", "no time"])
def test_inputs_of_other_steps_than_those_asked_for(small, shape):
    """Which would be another presentation than the one that is asked for."""
    snn, variables, inputs = small

    def of_other_steps(time):
        return jnp.broadcast_to(inputs[0], (*shape, *inputs.shape[1:]))

    with pytest.raises(ValueError, match=r"takes time-major inputs \[3, B, ...\], got the shape"):
        jsnn.simulate(snn, variables, of_other_steps, lambda observed: observed.results, num_steps=9, chunk=3)
    presentation = jsnn.Presentation(snn, lambda images, key, index, time: of_other_steps(time), 9, 3)
    forward = jsnn.snn_forward(presentation, jsnn.averaged)
    with pytest.raises(ValueError, match=r"takes time-major inputs \[3, B, ...\], got the shape"):
        forward(variables, inputs[0], jnp.arange(len(inputs[0])), jax.random.key(0))


@pytest.mark.parametrize(("num_steps", "chunk"), [(2.5, 2), (3, 2.0)])
def test_numbers_of_steps_that_are_not_whole(small, num_steps, chunk):
    snn, variables, inputs = small
    with pytest.raises(ValueError, match="must be a whole number of time steps"):
        jsnn.simulate(
            snn, variables, lambda time: inputs, lambda observed: observed.results, num_steps=num_steps, chunk=chunk
        )
