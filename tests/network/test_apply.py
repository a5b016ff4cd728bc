"""Spiking networks are applied in chunks and under JAX's transformations, to inputs that fit; others are refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jsnn
from tests.plain_networks import PLAIN, ROWS, dense, drawn, plain, run


def test_chunks_give_what_the_whole_gives(small):
    snn, variables, inputs = small
    at_once = run(snn, variables, inputs)

    @partial(jax.jit, static_argnums=0)
    def in_chunks(chunk, variables, inputs):
        def at(time):
            return inputs.at[time].get(mode="fill", fill_value=7)

        return jsnn.simulate(snn, variables, at, lambda observed: observed.results, num_steps=10, chunk=chunk)

    for chunk in (3, 5, 100):
        np.testing.assert_allclose(in_chunks(chunk, variables, inputs), at_once, rtol=1e-5, atol=1e-6)


def test_composes_with_jit_and_scan(small):
    snn, variables, inputs = small

    @jax.jit
    def scanned(variables, inputs):
        def step(state, inputs):
            results, state = snn.apply(variables, state, inputs)
            return state, results

        chunks = inputs.reshape(5, 2, *inputs.shape[1:])
        return jax.lax.scan(step, snn.initial_state(variables, inputs[0]), chunks)[1].reshape(10, 4, 3)

    np.testing.assert_allclose(scanned(variables, inputs), run(snn, variables, inputs), rtol=1e-5, atol=1e-6)


def test_composes_with_vmap_and_grad(small):
    snn, variables, inputs = small
    others = {**variables, "conv": -variables["conv"]}
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, others)

    @jax.grad
    def gradient(variables):
        return (run(snn, variables, inputs).mean(0) ** 2).sum()

    together = jax.jit(jax.vmap(gradient))(both)
    for position, one in enumerate((variables, others)):
        alone = jax.jit(gradient)(one)
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(alone))
        for leaf, expected in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(leaf[position], expected, rtol=1e-4, atol=1e-5)


def test_composes_with_pmap(small):
    snn, variables, inputs = small
    parts = inputs.reshape(10, 4, 1, *inputs.shape[2:])
    actual = jax.pmap(lambda variables, inputs: run(snn, variables, inputs), in_axes=(None, 1), out_axes=1)(
        variables, parts
    )
    assert len(actual.sharding.device_set) == 4
    np.testing.assert_allclose(actual.reshape(10, 4, 3), run(snn, variables, inputs), rtol=1e-5, atol=1e-6)


def test_results_are_a_tree():
    def network(params, x):
        hidden = jax.nn.relu(dense(params["hidden"], x))
        return {"logits": dense(params["out"], hidden), "features": (hidden, x)}

    snn = jsnn.spiking(network)
    results = run(snn, snn.init(drawn(PLAIN), ROWS), ROWS[None])
    shapes = jax.tree.map(jnp.shape, results)
    assert shapes == {"logits": (1, 4, 3), "features": ((1, 4, 6), (1, 4, 5))}


def test_integers_go_in():
    apply, variables = plain(jax.nn.relu), drawn(PLAIN)

    def of_bytes(params, x):
        return apply(params, x.astype(jnp.float32) / 255)

    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 5)), jnp.uint8)
    snn = jsnn.spiking(of_bytes)
    spiking = snn.init(variables, x)
    expected = run(jsnn.spiking(apply), spiking, jnp.stack([x / 255] * 3))
    np.testing.assert_allclose(run(snn, spiking, jnp.stack([x] * 3)), expected, rtol=1e-5)
