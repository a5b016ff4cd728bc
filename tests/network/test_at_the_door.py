"""Arguments that used to end in an error of JAX, or in a wrong number, are refused in a sentence where they come in."""

from itertools import count
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from jsnn.data import array_source, event_source, resident_source
from jsnn.data.datasets import Split
from jsnn.data.sources import Batch
from jsnn.training.loss import cross_entropy
from tests.plain_networks import ROWS, drawn

KEY, INDEX = jax.random.key(0), np.arange(3, dtype=np.int32)
WEIGHTS = drawn({"a": jax.ShapeDtypeStruct((5, 4), jnp.float32), "b": jax.ShapeDtypeStruct((4, 2), jnp.float32)})
SGD = optax.sgd(0.1)


def network(variables, x):
    return jax.nn.relu(x @ variables["a"]) @ variables["b"]


SNN = jsnn.spiking(network)
VARIABLES = jsnn.convert(SNN, WEIGHTS, {"a": 0.5})
PRESENTATION = jsnn.Presentation(SNN, jsnn.encoding.constant, 4, 2)
FORWARD = jsnn.snn_forward(PRESENTATION, jsnn.averaged, ("a",))


def source(labels):
    return array_source(np.asarray(ROWS), labels)


def trained(labels, item=INDEX):
    state, step = jsnn.init_state(VARIABLES, SGD, ("a",)), jsnn.train_step(source(labels), FORWARD, SGD)
    return state, *jax.jit(step)(state, source(labels).resident, item, KEY)


def evaluated(labels, item=INDEX):
    evaluate = jsnn.snn_evaluation(PRESENTATION, source(labels))
    return jax.jit(evaluate)(VARIABLES, source(labels).resident, item, KEY)


def balanced(images=ROWS, weights=WEIGHTS, **options):
    return jsnn.balance_thresholds(SNN, weights, images, jsnn.encoding.constant, KEY, num_steps=4, **options)


def made_spiking(function):
    return jsnn.spiking(function).init(WEIGHTS, ROWS)


class State(NamedTuple):
    membrane: jax.Array


def neuron(emit, parameters=("threshold",)):
    def step(neuron, state, current):
        spikes = emit(neuron, state.membrane + current)
        return spikes, State(state.membrane + current - jnp.reshape(spikes, -1)[0])

    return jsnn.Neuron(lambda: dict.fromkeys(parameters, 1.0), lambda _, current: State(jnp.zeros_like(current)), step)


def fires(neuron, membrane):
    return (membrane > 1).astype(membrane.dtype)


RECURRENT = jsnn.spiking(network, neuron(lambda n, u: fires(n, u + u @ n["matrix"]), ("threshold", "matrix")))
LABELS, ONE_HOT = np.array([0, 1, 0, 1]), np.eye(2, dtype=int)[[0, 1, 0, 1]]
OUTPUT = r"labels go up to 2, .* 2 classes, from 0 to 1: give it 3 outputs"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: trained(ONE_HOT), r"labels must be whole numbers of the shape \(3,\).* got int32 of \(3, 2\)"),
        (lambda: trained(LABELS[:, None]), r"got int32 of \(3, 1\)"),
        (lambda: trained(LABELS.astype(np.float32)), "got float32"),
        (lambda: trained(LABELS > 0), "got bool"),
        (lambda: evaluated(ONE_HOT), "labels must be whole numbers"),
        (lambda: evaluated(LABELS > 0), "got bool"),
        (lambda: trained(LABELS + 1), OUTPUT),
        (lambda: evaluated(LABELS + 1), OUTPUT),
        (lambda: cross_entropy(jnp.ones((2, 3)), Batch(None, jnp.array([0, 3]), None)), "from 0 to 2, got 0 to 3"),
        (lambda: source(LABELS - 1), "labels must be at least 0, got -1"),
        (lambda: source(LABELS + 2**32), "labels must be below 2.31, got 4294967297"),
        (lambda: array_source([np.ones(5)] * 4, LABELS), "inputs must be one array, got a list: .* numpy.stack"),
        (lambda: array_source(np.asarray(ROWS), [0, 1, 0, 1]), "targets must be one array, got a list"),
        (lambda: resident_source(Split([np.zeros((4, 4, 1), np.uint8)], LABELS)), "images must be one array"),
        (lambda: source(LABELS).shuffled(2, 0, 0, -1), "start must be the number of a batch, from 0 on, got -1"),
        (lambda: source(LABELS).shuffled(2.5, 0, 0, 0), "batch_size must be a whole number of samples, got 2.5"),
        (lambda: source(LABELS).in_order(2, -1, None), "start must be"),
        (lambda: balanced(batch_size=2.5), "batch_size must be a whole number of images, got 2.5"),
        (lambda: jsnn.evaluate_split(None, VARIABLES, source(LABELS), 2.5, KEY), "whole number of samples, got 2.5"),
        (lambda: balanced([np.ones(5)] * 4), "images must be one array, got a list"),
        (lambda: jax.jit(lambda images: balanced(images))(ROWS), "call it outside of jit, vmap and grad"),
        (
            lambda: jax.vmap(lambda weights: balanced(weights=weights))(jax.tree.map(lambda x: x[None], WEIGHTS)),
            "outside",
        ),
        (lambda: jsnn.scale_thresholds(VARIABLES, "0.5"), "must be one number, got '0.5'"),
        (lambda: jsnn.scale_thresholds(VARIABLES, jnp.ones(7)), "must be one number, got Array"),
        (lambda: jsnn.scale_thresholds(WEIGHTS, 0.5), 'no "neurons" whose thresholds could be scaled'),
        (lambda: jsnn.spiking(network, neuron(lambda n, u: fires(n, u)[..., None])), r"spikes of shape \(33, 1\)"),
        (lambda: jsnn.spiking(network, neuron(fires, ("leak",))), 'a neuron has a "threshold", .* this one has leak'),
        (lambda: jsnn.spiking(network, neuron(lambda n, u: jnp.clip(jnp.round(u), -3, 3))), "emits 0 or 1 .* one -3"),
        (lambda: jsnn.spiking(network, neuron(lambda n, u: 2 * fires(n, u))), "emits 0 or 1 .* one 2"),
        (
            lambda: RECURRENT.initial_state(RECURRENT.init(WEIGHTS, ROWS), ROWS),
            r"neurons of a can't make a step with parameters of the shapes threshold \(\), matrix \(\): .* put arrays",
        ),
        (lambda: SNN.init({"params": {"act": jax.nn.relu}}, ROWS), "params/act is a function: split the module"),
        (lambda: jsnn.convert(SNN, {"act": jax.nn.relu}, {}), "act is a function: split the module"),
        (
            lambda: jsnn.spiking(lambda v, x: jax.nn.relu(v["a"][x].sum(1))).init(WEIGHTS, jnp.zeros((2, 3), int)),
            "the network's input is int32: give it floating-point numbers, or embed",
        ),
        (
            lambda: jsnn.spiking(lambda v, x: jax.nn.relu(x)).init(WEIGHTS, jnp.zeros((2, 3), int)),
            "is no floating-point number: give the network such ones as its input, or embed",
        ),
        (lambda: made_spiking(lambda v, x: jax.nn.gelu(x @ v["a"])), "in place of GELU use jax.nn.relu"),
        (
            lambda: made_spiking(lambda v, x: jax.nn.softmax(network(v, x))),
            "of a softmax at the end, return the logits",
        ),
        (lambda: made_spiking(lambda v, x: jax.nn.standardize(x @ v["a"])), "as layer norm"),
        (
            lambda: balanced(weights={**WEIGHTS, "a": -jnp.abs(WEIGHTS["a"])}, images=ROWS + 1),
            "behind neurons of your own",
        ),
    ],
    ids=count(),
)
def test_what_can_not_be_used_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_recurrent_neuron_with_its_matrix_runs():
    variables = RECURRENT.init(WEIGHTS, ROWS)
    variables["neurons"]["a"]["matrix"] = jnp.eye(4)
    results, _ = RECURRENT.apply(variables, RECURRENT.initial_state(variables, ROWS), ROWS[None])
    assert np.all(np.isfinite(results))


@pytest.mark.parametrize("item", [[0, 1, -1], [0, 1, 4]], ids=["padding", "beyond the end"])
def test_what_is_no_sample_trains_nothing_and_says_so(item):
    before, after, metrics = trained(LABELS, np.array(item, np.int32))
    assert np.isnan(metrics.loss)
    assert not metrics.finite["a"]
    np.testing.assert_array_equal(after.params["a"], before.params["a"])
    assert after.step == 1
    scores = evaluated(LABELS, np.array(item, np.int32))
    assert np.all(np.isnan(scores.loss)) == (4 in item)  # padding does not count
    assert scores.count == (3 if 4 in item else 2)


def test_labels_that_are_no_class_are_nan_inside_jit():
    loss = jax.jit(lambda logits, labels: cross_entropy(logits, Batch(None, labels, None))[0])
    for label in (-1, 3):
        labels = jnp.array([0, label])
        assert np.isnan(loss(jnp.ones((2, 3)), labels))
        assert np.all(np.isnan(jax.grad(loss)(jnp.ones((2, 3)), labels)[1]))


def test_counts_of_events_beyond_32_bits_do_not_wrap():
    events = event_source(np.full((1, 2, 3), 2**33, np.int64), np.zeros(1, int))
    np.testing.assert_array_equal(events.take(events.resident, np.zeros(1, int)).images, np.float32(2**33))


def test_a_file_is_of_one_shape_and_no_folder(tmp_path):
    with pytest.raises(ValueError, match="is a folder: name a file in it"):
        jsnn.save(tmp_path, SNN, VARIABLES, ROWS[None])
    assert not list(tmp_path.parent.glob("*.part"))
    jsnn.save(tmp_path / "net", SNN, VARIABLES, ROWS[None])
    run = jsnn.load(tmp_path / "net")
    assert run(ROWS[None]).shape == (1, 4, 2)
    for inputs in (ROWS, ROWS[None, :2], ROWS[None].astype(int)):
        with pytest.raises(ValueError, match=r"net was saved for inputs \[T, B, ...\] of \(1, 4, 5\) float32, got"):
            run(inputs)
    with pytest.raises(ValueError, match="inputs must be one array, got a dict"):
        run({"x": ROWS[None]})
