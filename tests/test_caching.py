"""Functions and graphs are kept for equal models and arguments, and made anew for arguments or settings that differ."""

from dataclasses import dataclass, field, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

import jsnn
from jsnn.caching import MOST, cached
from jsnn.network.transformation import MOST_GRAPHS
from tests.plain_networks import HIDDEN


class Net(nn.Module):
    """A model with a field of any type."""

    field: Any

    def __call__(self, x):
        return nn.relu(x @ jnp.eye(3))


@dataclass(frozen=True)
class Scaled:
    """A function whose equal instances are not one function."""

    factor: float
    rule: str = field(default="relu", compare=False)

    def apply(self, variables, x):
        return (jax.nn.relu if self.rule == "relu" else jax.nn.relu6)(x @ variables["w"] / self.factor)


MODELS = [
    *((Net(one), Net(other)) for one, other in ((1, True), (1, 1.0), ((1,), (True,)), ((3,), (4,)))),
    (Net(FrozenDict({"a": 1})), Net(FrozenDict({"a": True}))),
    *((Scaled(1.0), Scaled(1.0, "relu6")), (Scaled(0.0), Scaled(-0.0))),
]


@pytest.mark.parametrize(("one", "other"), MODELS)
def test_equal_models_give_the_same_functions_and_others_others(one, other):
    """And so the same programs; others are also those that equal by `==` alone."""
    for made in (jsnn.spiking, jsnn.accelerate):
        assert made(one.apply) is made(replace(one).apply)
        assert made(one.apply) is not made(other.apply)


def test_a_model_that_cannot_be_hashed_is_made_spiking_as_any_other():
    x = jnp.ones((1, 3))
    assert len(jsnn.spiking(Net([3]).apply).init({}, x)["neurons"]) == 1


def test_arguments_of_another_type_or_sign_of_zero_are_other_arguments():
    def apply(variables, x, flag):
        return jax.nn.relu(x @ variables["w"]) * (3.0 if flag is True else np.copysign(1.0, flag))

    snn, x = jsnn.spiking(apply), jnp.ones((1, 3))
    variables = snn.init(HIDDEN, x, True)
    state = snn.initial_state(variables, x, True)
    results = [snn.apply(variables, state, 2 * x[None], flag)[0] for flag in (True, 1, 0.0, -0.0)]
    np.testing.assert_allclose(results, [3 * results[1], results[1], results[1], -results[1]])


def test_modules_that_are_bound_hold_themselves():
    """Flax's hold their parents, and these them."""

    outer, x = nn.Sequential([nn.Dense(2)]), jnp.ones((1, 3))
    bound = outer.bind(outer.init(jax.random.key(0), x))
    for call in (bound.__call__, bound.layers[0].__call__):
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


def test_what_equals_but_computes_another_thing_has_a_graph_of_its_own():
    graphs = [jsnn.spiking(Scaled(1.0, rule).apply).trace(HIDDEN, jnp.ones((1, 3)))[0] for rule in ("relu", "relu6")]
    assert [graph.layers["w"].ceiling for graph in graphs] == [None, 6.0]


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
