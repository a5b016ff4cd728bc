"""Functions and graphs are kept for equal models and arguments, and made anew for arguments or settings that differ."""

from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

import jsnn
from jsnn.caching import MOST, cached
from jsnn.network.transformation import MOST_GRAPHS
from tests.plain_networks import HIDDEN


def test_equal_models_and_arguments_give_the_same_functions():
    """And so the same programs; a model that can't be hashed is made spiking as any other."""

    class Net(nn.Module):
        features: list | tuple = (3,)

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.relu(nn.Dense(self.features[0])(x)))

    neuron = jsnn.lif(jsnn.surrogate.linear())
    assert jsnn.spiking(Net().apply, neuron) is jsnn.spiking(Net().apply, neuron)
    assert jsnn.accelerate(Net().apply) is jsnn.accelerate(Net().apply)
    assert jsnn.spiking(Net((4,)).apply, neuron) is not jsnn.spiking(Net().apply, neuron)
    unhashable = Net([3])
    variables = unhashable.init(jax.random.key(0), jnp.ones((1, 4)))
    assert set(jsnn.spiking(unhashable.apply, neuron).init(variables, jnp.ones((1, 4)))["neurons"]) == {"Dense_1"}


def test_arguments_of_another_type_or_sign_of_zero_are_other_arguments():
    def apply(variables, x, flag):
        return jax.nn.relu(x @ variables["w"]) * (3.0 if flag is True else np.copysign(1.0, flag))

    snn, x = jsnn.spiking(apply), jnp.ones((1, 3))
    variables = snn.init(HIDDEN, x, True)
    state = snn.initial_state(variables, x, True)
    results = [snn.apply(variables, state, 2 * x[None], flag)[0] for flag in (True, 1, 0.0, -0.0)]
    np.testing.assert_allclose(results, [3 * results[1], results[1], results[1], -results[1]])


def test_models_with_fields_of_another_type_are_other_models():
    class Net(nn.Module):
        gain: Any

        def __call__(self, x):
            return nn.relu(x)

    for one, other in ((1, True), (1, 1.0), ((1,), (True,)), (FrozenDict({"a": 1}), FrozenDict({"a": True}))):
        assert jsnn.spiking(Net(one).apply) is jsnn.spiking(Net(one).apply)
        assert jsnn.spiking(Net(one).apply) is not jsnn.spiking(Net(other).apply), (one, other)


def test_modules_that_are_bound_hold_themselves():
    """Flax's hold their parents, and these them."""

    class Outer(nn.Module):
        inner: nn.Module

        def __call__(self, x):
            return self.inner(x)

    outer, x = Outer(nn.Dense(2)), jnp.ones((1, 3))
    bound = outer.bind(outer.init(jax.random.key(0), x))
    for call in (bound.__call__, bound.inner.__call__):
        np.testing.assert_allclose(jsnn.accelerate(call)(x), bound(x), rtol=1e-6)


def test_a_graph_is_of_the_precision_that_it_was_traced_with():
    snn, x = jsnn.spiking(lambda variables, x: jax.nn.relu(x @ variables["w"])), jnp.ones((1, 3))

    def precisions():
        operations = snn.trace(HIDDEN, x)[0].operations
        return [operation.options["precision"] for operation in operations if "precision" in operation.options]

    assert precisions() == [None]
    with jax.default_matmul_precision("highest"):
        assert precisions() == [(jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)]
    assert precisions() == [None]


@dataclass(frozen=True)
class Scaled:
    """A function whose equal instances are not one function."""

    factor: float
    rule: str = field(default="relu", compare=False)

    def apply(self, variables, x):
        return (jax.nn.relu if self.rule == "relu" else jax.nn.relu6)(x @ variables["w"] / self.factor)


def test_what_equals_but_computes_another_thing_has_an_snn_of_its_own():
    relu, relu6 = Scaled(1.0), Scaled(1.0, "relu6")
    assert relu == relu6
    assert jsnn.spiking(relu.apply) is not jsnn.spiking(relu6.apply)
    assert jsnn.spiking(relu.apply) is jsnn.spiking(Scaled(1.0).apply)
    assert jsnn.spiking(Scaled(0.0).apply) is not jsnn.spiking(Scaled(-0.0).apply)
    for net, ceiling in ((relu, None), (relu6, 6.0)):
        graph, _ = jsnn.spiking(net.apply).trace(HIDDEN, jnp.ones((1, 3)))
        assert graph.layers["w"].ceiling == ceiling


def test_only_the_latest_results_and_graphs_are_held():
    made = []
    make = cached(lambda number: made.append(number) or [number])
    first = make(0)
    for number in range(1, MOST):
        make(number)
    assert make(0) is first  # asked for again, and so the latest
    make(MOST)
    assert make(0) is first
    make(1)
    assert made == [*range(MOST + 1), 1]
    snn = jsnn.spiking(lambda variables, x: jax.nn.relu(x * variables["w"][0]))
    first, *others = (jax.ShapeDtypeStruct((batch, 3), jnp.float32) for batch in range(1, MOST_GRAPHS + 2))
    graph, _ = snn.trace(HIDDEN, first)
    assert snn.trace(HIDDEN, first)[0] is graph
    for x in others:
        snn.trace(HIDDEN, x)
    assert snn.trace(HIDDEN, first)[0] is not graph
