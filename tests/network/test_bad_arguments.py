"""Bad arguments of a network, and of what makes, trains, balances or runs it, are refused in one sentence."""

from itertools import count
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from jsnn.data import Batch, Split, array_source, event_source, resident_source
from jsnn.network.bptt import Keys, present
from jsnn.training.loss import cross_entropy
from tests.network.own_network import held
from tests.plain_networks import IMAGES, ROWS, drawn

KEY, INDEX = jax.random.key(0), np.arange(3, dtype=np.int32)
WEIGHTS = drawn({"a": jax.ShapeDtypeStruct((5, 4), jnp.float32), "b": jax.ShapeDtypeStruct((4, 2), jnp.float32)})
DEAD = {**WEIGHTS, "a": -jnp.abs(WEIGHTS["a"])}
WHOLE = jnp.zeros((2, 3), int)
LABELS, ONE_HOT = np.array([0, 1, 0, 1]), np.eye(2, dtype=int)[[0, 1, 0, 1]]
CONSTANT, SGD, HELD = jsnn.encoding.constant, optax.sgd(0.1), held(ROWS)


def network(variables, x):
    return jax.nn.relu(x @ variables["a"]) @ variables["b"]


SNN, OF_STDB = jsnn.spiking(network), jsnn.spiking(network, jsnn.lif(jsnn.surrogate.stdb()))
VARIABLES = jsnn.convert(SNN, WEIGHTS, {"a": 0.5})
STATE = SNN.initial_state(VARIABLES, ROWS)
PRESENTATION = jsnn.Presentation(SNN, CONSTANT, 4, 2)
FORWARD = jsnn.snn_forward(PRESENTATION, jsnn.averaged, ("a",))


def source(labels):
    return array_source(np.asarray(ROWS), labels)


def trained(labels, item=INDEX):
    state, step = jsnn.init_state(VARIABLES, SGD, ("a",)), jsnn.train_step(source(labels), FORWARD, SGD)
    return state, *jax.jit(step)(state, source(labels).resident, item, KEY)


def evaluated(labels, item=INDEX):
    evaluate = jsnn.snn_evaluation(PRESENTATION, source(labels))
    return jax.jit(evaluate)(VARIABLES, source(labels).resident, item, KEY)


def balanced(images=ROWS, weights=WEIGHTS, snn=SNN, **options):
    return jsnn.balance_thresholds(snn, weights, images, CONSTANT, KEY, num_steps=4, **options)


def made(function, variables=WEIGHTS, x=ROWS):
    return jsnn.spiking(function).init(variables, x)


def simulated(variables=VARIABLES, inputs=HELD, **options):
    return jsnn.simulate(SNN, variables, inputs, lambda seen: seen.total, **{"num_steps": 4, "chunk": 2, **options})


def presented(variables=VARIABLES, num_steps=4, chunk=2, encode=CONSTANT):
    presentation = jsnn.Presentation(OF_STDB, encode, num_steps, chunk)
    return present(presentation, variables, ROWS, jnp.arange(4), Keys(KEY, KEY)).results


class State(NamedTuple):
    membrane: jax.Array


def spiking_as(emit, *parameters):
    """The network with neurons of one's own, which emit what a function of their parameters and membrane says."""

    def step(neuron, state, current):
        spikes = emit(neuron, state.membrane + current)
        return spikes, State(state.membrane + current - jnp.reshape(spikes, -1)[0])

    neuron = jsnn.Neuron(lambda: dict.fromkeys(parameters, 1.0), lambda _, current: State(current * 0), step)
    return jsnn.spiking(network, neuron)


def fires(neuron, membrane):
    return (membrane > 1).astype(membrane.dtype)


def with_gradient(function):
    """A function with a derivative of its own."""
    own = jax.custom_jvp(function)
    own.defjvp(lambda primals, tangents: (function(*primals), tangents[0]))
    return lambda variables, x: own(jax.nn.relu(x @ variables["a"]))


reversal = jax.custom_vjp(lambda x: x)
reversal.defvjp(lambda x: (x, None), lambda _, cotangent: (-cotangent,))
RECURRENT = spiking_as(lambda n, u: fires(n, u + u @ n["matrix"]), "threshold", "matrix")
OUTPUT = r"labels go up to 2, .* 2 classes, from 0 to 1: give it 3 outputs"
OF_OTHER_STEPS = r"takes time-major inputs \[2, B, ...\], got the shape"
AGES = "there is no 'ages' to record: choose from spikes, membranes, currents"
OWN_SHAPES = r"neurons of a can't make a step with parameters of the shapes threshold \(\), matrix \(\): .* put arrays"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: trained(ONE_HOT), r"labels must be whole numbers of the shape \(3,\).* got int32 of \(3, 2\)"),
        (lambda: trained(LABELS > 0), "got bool"),
        (lambda: evaluated(ONE_HOT), "labels must be whole numbers"),
        (lambda: trained(LABELS + 1), OUTPUT),
        (lambda: evaluated(LABELS + 1), OUTPUT),
        (lambda: cross_entropy(jnp.ones((2, 3)), Batch(None, jnp.array([0, 3]), None)), "from 0 to 2, got 0 to 3"),
        (lambda: source(LABELS - 1), "labels must be at least 0, got -1"),
        (lambda: source(LABELS + 2**32), "labels must be below 2.31, got 4294967297"),
        (lambda: array_source([np.ones(5)] * 4, LABELS), "inputs must be one array, got a list: .* numpy.stack"),
        (lambda: resident_source(Split([np.zeros((4, 4, 1), np.uint8)], LABELS)), "images must be one array"),
        (lambda: source(LABELS).shuffled(2, 0, 0, -1), "start must be the number of a batch, from 0 on, got -1"),
        (lambda: source(LABELS).shuffled(2.5, 0, 0, 0), "batch_size must be a whole number of samples, got 2.5"),
        (lambda: jsnn.evaluate_split(None, VARIABLES, source(LABELS), 2.5, KEY), "whole number of samples, got 2.5"),
        (lambda: balanced(batch_size=2.5), "batch_size must be a whole number of images, got 2.5"),
        (lambda: balanced([np.ones(5)] * 4), "images must be one array, got a list"),
        (lambda: jax.jit(lambda images: balanced(images))(ROWS), "call it outside of jit, vmap and grad"),
        (lambda: jax.vmap(lambda gain: balanced(weights={**WEIGHTS, "b": gain}))(jnp.ones((1, 4, 2))), "outside"),
        (lambda: balanced(ROWS + 1, DEAD), "behind neurons of your own"),
        (lambda: balanced(snn=jsnn.spiking(lambda v, x: x @ v["a"])), "no activation"),
        (lambda: jsnn.scale_thresholds(VARIABLES, jnp.ones(7)), "must be one number, got Array"),
        (lambda: jsnn.scale_thresholds(WEIGHTS, 0.5), 'no "neurons" whose thresholds could be scaled'),
        (lambda: spiking_as(lambda n, u: fires(n, u)[..., None], "threshold"), r"spikes of shape \(33, 1\)"),
        (lambda: jsnn.spiking(network, jsnn.lif()._replace(parameters=dict)), 'a neuron has a "threshold"'),
        (lambda: spiking_as(fires, "leak"), 'a neuron has a "threshold", .* this one has leak'),
        (lambda: spiking_as(lambda n, u: jnp.clip(jnp.round(u), -3, 3), "threshold"), "emits 0 or 1 .* one -3"),
        (lambda: RECURRENT.initial_state(RECURRENT.init(WEIGHTS, ROWS), ROWS), OWN_SHAPES),
        (lambda: jsnn.spiking(network, jsnn.lif), r"must be a jsnn.Neuron, as jsnn.lif\(\) gives one"),
        (lambda: SNN.init({"params": {"act": jax.nn.relu}}, ROWS), "params/act is a function: split the module"),
        (lambda: made(lambda v, x: jax.nn.relu(v["a"][x].sum(1)), x=WHOLE), "input is int32: .* or embed"),
        (lambda: made(lambda v, x: jax.nn.relu(x), x=WHOLE), "is no floating-point number: .* or embed"),
        (lambda: made(lambda v, x: jax.nn.relu(jax.lax.div(x, 2).astype(jnp.float32)), x=WHOLE), "^div in"),
        (lambda: made(lambda v, x: jax.nn.gelu(x @ v["a"])), "in place of GELU use jax.nn.relu"),
        (lambda: made(lambda v, x: jax.nn.softmax(network(v, x))), "of a softmax at the end, return the logits"),
        (lambda: made(lambda v, x: jax.nn.standardize(x @ v["a"])), "as layer norm"),
        (lambda: made(lambda v, x: v["a"]), "result does not depend on its input.*nothing to spike for"),
        (lambda: made(lambda v, x: (x, {"n": jnp.zeros_like(x)})), r"on its input.*leave out \[1\]\['n'\]"),
        (lambda: made(lambda v, x: jax.lax.reduce(x, 0.0, lambda a, b: jax.lax.max(a, b) * 1.0, (1,))), "^reduce in"),
        (lambda: made(with_gradient(jnp.tanh)), "^tanh in .* use jax.nn.relu"),
        (lambda: made(with_gradient(lambda x: x * x)), "^mul in .* two values that depend on the input"),
        (lambda: made(lambda v, x: reversal(x @ v["a"])), "^custom_vjp_call in .* its own would be lost"),
        (lambda: made(network, [WEIGHTS["a"]]), "variables are a mapping, .* got list"),
        (lambda: made(network, x=(ROWS, ROWS)), "x is one array .* got tuple"),
        (lambda: SNN.apply(VARIABLES, STATE, ROWS[None, :2]), r"a state of shape \(4, 4\) does not fit a current of"),
        (lambda: SNN.apply(VARIABLES, STATE, ROWS[0]), r"inputs \[K, B, ...\], got the shape \(5,\)"),
        (lambda: SNN.apply(VARIABLES, {}, ROWS[None]), "the state has no layer 'a': get it from snn.initial_state"),
        (lambda: simulated(num_steps=0), "num_steps must be at least 1 time step, got 0"),
        (lambda: presented(num_steps=2.5), "num_steps must be a whole number of time steps, got 2.5"),
        (lambda: presented(chunk=0), "chunk must be at least 1 time step, got 0"),
        (lambda: simulated(chunk=2.0), "chunk must be a whole number of time steps, got 2.0"),
        (lambda: simulated(inputs=lambda time: ROWS[None]), OF_OTHER_STEPS),
        (lambda: presented(encode=lambda *_: ROWS[None].repeat(4, 0)), OF_OTHER_STEPS),
        (lambda: presented(encode=lambda *_: ROWS), OF_OTHER_STEPS),
        (lambda: simulated(collect=("words", "spikes")), "words are collected alone, got words, spikes"),
        (lambda: simulated(collect=("membranes",)), "no 'membranes' to collect"),
        (lambda: jsnn.record(SNN, VARIABLES, None, num_steps=1, what=("spikes", "ages")), AGES),
        (lambda: jsnn.spiking(network, operands="int8"), "operands must be a floating-point dtype"),
        (lambda: jsnn.accelerate(network, "int32"), "operands must be a floating-point dtype"),
        (lambda: jsnn.spiking(network, operands="bfloat16", forward_mode=True), "leave out operands"),
        (lambda: jsnn.layer_shapes(network, WEIGHTS, ROWS), r"pass x of shape \[1, ...\], got \(4, "),
    ],
    ids=count(),
)
def test_a_bad_argument_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)


PARAMETERS = {"threshold": 1.0, "leak": 1.0, "initial": 0.0}


@pytest.mark.parametrize(
    ("neurons", "sentence"),
    [
        ({}, 'variables have no "neurons": get them from snn.init or jsnn.convert'),
        ({"neurons": {}}, "the network spikes in a, but its variables have neurons for "),
        ({"neurons": {"a": PARAMETERS, "c": PARAMETERS}}, "spikes in a, but its variables have neurons for a, c"),
        ({"neurons": {"a": {"threshold": 1.0, "leak": 1.0}}}, "the neurons of a have no 'initial'"),
        ({"neurons": {"a": 1.0}}, "the neurons of a are a mapping of parameters, got .*[Ff]loat"),
        ({"neurons": {"a": {**PARAMETERS, "threshold": jnp.ones(2)}}}, r"of a is of the shape \(2,\)"),
    ],
)
def test_neurons_that_do_not_fit_the_network_are_refused_by_all_of_its_functions(neurons, sentence):
    wrong = {**WEIGHTS, **neurons}
    for call in (
        lambda: SNN.initial_state(wrong, ROWS),
        lambda: SNN.apply(wrong, STATE, ROWS[None]),
        lambda: simulated(wrong),
        lambda: presented(wrong),
        lambda: jax.grad(lambda weights: presented({**wrong, "b": weights}).sum())(WEIGHTS["b"]),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_an_error_of_inputs_without_time_says_that_they_are_time_major():
    conv, heads = nn.Conv(4, (3, 3)), (lambda x: x.reshape(len(x), -1), lambda x: x.mean((-3, -2)))
    kernels = conv.init(KEY, IMAGES)
    for head, size in zip(heads, (144, 4), strict=True):
        snn = jsnn.spiking(lambda v, x, head=head: head(jax.nn.relu(conv.apply(v["conv"], x))) @ v["out"])
        variables = snn.init({"conv": kernels, "out": jnp.ones((size, 3))}, IMAGES)
        with pytest.raises((ValueError, TypeError)) as caught:
            snn.apply(variables, snn.initial_state(variables, IMAGES), IMAGES)
        message = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
        assert "time-major" in message
        assert "(4, 6, 6, " in message


def test_a_recurrent_neuron_with_its_matrix_runs():
    variables = RECURRENT.init(WEIGHTS, ROWS)
    variables["neurons"]["a"]["matrix"] = jnp.eye(4)
    results, _ = RECURRENT.apply(variables, RECURRENT.initial_state(variables, ROWS), ROWS[None])
    assert np.all(np.isfinite(results))


def test_padding_and_what_is_beyond_the_end_train_nothing_and_say_so():
    for place, is_lost in ((-1, False), (4, True)):
        item = np.array([0, 1, place], np.int32)
        before, after, metrics = trained(LABELS, item)
        assert np.isnan(metrics.loss)
        assert not metrics.finite["a"]
        np.testing.assert_array_equal(after.params["a"], before.params["a"])
        assert after.step == 1
        scores = evaluated(LABELS, item)
        assert np.all(np.isnan(scores.loss)) == is_lost
        assert scores.count == 2 + is_lost  # padding does not count


def test_labels_that_are_no_class_are_nan_inside_jit():
    loss = jax.jit(jax.value_and_grad(lambda logits, labels: cross_entropy(logits, Batch(None, labels, None))[0]))
    for label in (-1, 3):
        value, slope = loss(jnp.ones((2, 3)), jnp.array([0, label]))
        assert np.isnan(value)
        assert np.all(np.isnan(slope[1]))


def test_counts_of_events_beyond_32_bits_do_not_wrap():
    events = event_source(np.full((1, 2, 3), 2**33, np.int64), np.zeros(1, int))
    np.testing.assert_array_equal(events.take(events.resident, np.zeros(1, int)).images, np.float32(2**33))
