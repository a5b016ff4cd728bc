"""Numbers that a spiking network must not lose: few bits, whole numbers, NaN, ceilings, the sample of a rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from jsnn.data import array_source
from jsnn.training.forward import with_rates
from tests.network.own_network import held
from tests.plain_networks import run

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0, 1, (4, 6)), jnp.float32)
A, B = (jnp.asarray(RNG.normal(size=size), jnp.float32) for size in ((6, 8), (8, 8)))
COUNTS, REALS = RNG.integers(0, 3, (8, 3)), RNG.normal(size=(8, 3))
WEIGHTS = {"a": A, "b": B, "out": jnp.asarray(REALS, jnp.float32)}
ONE = jnp.ones((1, 1))
STEPS, KEY = 32, jax.random.key(0)
INDEX, LABELS = np.arange(4, dtype=np.int32), np.arange(4) % 3
CONSTANT, LINEAR = jsnn.encoding.constant, jsnn.lif(jsnn.surrogate.linear())


def two_layers(variables, x):
    return jax.nn.relu(jax.nn.relu(x @ variables["a"]) @ variables["b"]) @ variables["out"]


def mean(snn, variables, chunk, x=X):
    totals = jsnn.simulate(snn, variables, held(x), lambda seen: seen.total, num_steps=STEPS, chunk=chunk)
    return totals[-1] / STEPS


OUT = {
    "int32": (jnp.asarray(COUNTS, jnp.int32), 1.3),
    "int8": (jnp.asarray(COUNTS, jnp.int8), 1.3),
    "bool": (jnp.asarray(COUNTS > 0), 1.3),
    "large float16": (jnp.full((8, 3), 50, jnp.float16), 3000.0),
    "small float16": (jnp.full((8, 3), 1e-4, jnp.float16), 1e-4),
    "bfloat16": (jnp.asarray(REALS, jnp.bfloat16), 1.3),
}


@pytest.mark.parametrize(("out", "scale"), OUT.values(), ids=OUT)
def test_weights_that_would_round_a_threshold_are_taken_as_they_are(out, scale):
    """In chunks of 16 steps the threshold would go into the weights, which are then fewer than the results."""
    snn, weights = jsnn.spiking(lambda v, x: jax.nn.relu(x @ v["a"]) @ v["out"]), {"a": scale * A, "out": out}
    variables = jsnn.convert(snn, weights, {"a": 1.7 * scale}, initial=0.5)
    in_float32 = jsnn.convert(snn, {**weights, "out": out.astype(jnp.float32)}, {"a": 1.7 * scale}, initial=0.5)
    expected = mean(snn, in_float32, 16)
    for chunk in (1, 16):
        np.testing.assert_allclose(mean(snn, variables, chunk), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_float16_product_does_not_overflow_before_the_threshold_is_in_it():
    snn = jsnn.spiking(lambda v, x: jax.nn.relu(x @ v["a"]).astype(jnp.float16) @ v["out"])
    variables = jsnn.convert(snn, {"a": jnp.ones((6, 2000)), "out": jnp.full((2000, 3), 50, jnp.float16)}, {"a": 0.01})
    np.testing.assert_allclose(run(snn, variables, jnp.ones((1, 4, 6))), np.full((1, 4, 3), 1000), rtol=1e-2)


def test_sums_of_spikes_do_not_overflow_where_the_anns_do_not():
    """In float16, which holds no number above 65,504: of small thresholds there are more spikes than that."""
    snn, x = jsnn.spiking(lambda v, x: jax.nn.relu(x).sum((1, 2))), jnp.full((1, 300, 300, 1), 0.1, jnp.float16)
    variables = jsnn.convert(snn, {}, {"neurons": 0.1}, initial=0.5)
    np.testing.assert_allclose(run(snn, variables, jnp.stack([x] * 2)).mean(0), x.sum((1, 2)), rtol=1e-2)


SPOILED = {
    "nan in an image": lambda x, w: (x.at[1, 2].set(jnp.nan), w),
    "an infinite pixel": lambda x, w: (x.at[1, 2].set(-jnp.inf), w),
    "nan in a weight": lambda x, w: (x, {**w, "b": w["b"].at[0, 0].set(jnp.nan)}),
    "an infinite weight": lambda x, w: (x, {**w, "b": w["b"].at[0, 0].set(jnp.inf)}),
}
NEURONS = {"bits": jsnn.lif(), "membranes": LINEAR}
NEURONS |= {"hard reset": jsnn.hard_reset_lif(), "another state": jsnn.current_lif()}


@pytest.mark.parametrize("kind", NEURONS)
def test_what_is_not_finite_stays_so_in_results_and_losses_and_trains_nothing(kind):
    encode = CONSTANT if kind == "bits" else jsnn.encoding.poisson
    snn, optimizer = jsnn.spiking(two_layers, NEURONS[kind]), optax.sgd(0.1)
    source = array_source(np.asarray(X), LABELS)
    presentation, weights = jsnn.Presentation(snn, encode, 10, 3), jsnn.convert(snn, WEIGHTS, {"a": 1.0, "b": 1.0})
    forward, evaluate = jsnn.snn_forward(presentation, jsnn.averaged, ("a",)), jsnn.snn_evaluation(presentation, source)
    step = jsnn.train_step(source, forward, optimizer)

    @jax.jit
    def run(x, variables):
        batch = source.resident._replace(images=x), INDEX, KEY
        after, metrics = step(jsnn.init_state(variables, optimizer, ("a",)), *batch)
        lost = evaluate(variables, *batch).loss, metrics.loss
        return forward(variables, x, INDEX, KEY)[0], lost, after.params["a"]

    assert np.all(np.isfinite(run(X, weights)[0]))
    for name, spoil in SPOILED.items():
        outputs, losses, after = run(*spoil(X, weights))
        expected = [True] * 4 if "weight" in name else [False, True, False, False]
        np.testing.assert_array_equal(np.isnan(outputs).any(1), expected)
        assert all(np.all(np.isnan(loss)) for loss in losses)
        np.testing.assert_array_equal(after, weights["a"])


@pytest.mark.parametrize("chunk", [1, 4, 10])
def test_events_are_lost_from_their_step_on_whatever_the_chunk(chunk):
    snn, inputs = jsnn.spiking(two_layers), jnp.stack([X] * 10).at[5, 2, 0].set(jnp.nan)
    variables = jsnn.convert(snn, WEIGHTS, {"a": 1.0, "b": 1.0})
    total = jsnn.simulate(snn, variables, inputs.__getitem__, lambda seen: seen.total, num_steps=10, chunk=chunk)
    lost = np.isnan(total).any(-1)
    assert lost[5:, 2].all()
    assert lost.sum() == 5


def test_the_ceiling_of_relu6_is_kept_by_convert_scaling_and_gradients():
    snn, x = jsnn.spiking(lambda v, x: jax.nn.relu6(x @ v["a"]), LINEAR), 9 * ONE
    presentation, given = jsnn.Presentation(snn, CONSTANT, 9, 3), jsnn.convert(snn, {"a": ONE}, {"a": 1.0})
    forward = jsnn.snn_forward(presentation, jsnn.averaged, ("neurons",), "byte")
    run = jax.jit(lambda variables: mean(snn, variables, 8, x))

    @jax.jit
    @jax.grad
    def slope(threshold):
        neurons = {"a": {**given["neurons"]["a"], "threshold": threshold}}
        return forward({**given, "neurons": neurons}, x, INDEX[:1], KEY)[0].sum()

    for threshold in (9.0, 6.0, 4.0):
        once, third = (jsnn.convert(snn, {"a": ONE}, {"a": threshold / part}) for part in (1, 3))
        for variables in (once, jsnn.scale_thresholds(third, 3.0)):
            np.testing.assert_allclose(run(variables), [[min(threshold, 6.0)]], rtol=1e-6)
        expected = 0 if threshold > 6 else slope(threshold - 1e-4)  # at the ceiling all of it, not half
        np.testing.assert_allclose(slope(threshold), expected, rtol=1e-2)


def rates_of(network, weights, x, chunk, residuals="exact"):
    """How often the neurons of each layer spike, by sample, in training and in evaluation of the first sample."""
    snn = jsnn.spiking(network, LINEAR if residuals == "byte" else None)
    presentation, source = jsnn.Presentation(snn, CONSTANT, 6, chunk), array_source(np.asarray(x), LABELS)
    forward = jsnn.snn_forward(presentation, with_rates, residuals=residuals)
    evaluate, first_alone = jsnn.snn_evaluation(presentation, source), np.array([0, -1, -1, -1])

    @jax.jit
    def run(variables):
        spikes = evaluate(variables, source.resident, first_alone, KEY).spikes
        return forward(variables, x, INDEX, KEY)[0].rates, {name: count.sum() / 6 for name, count in spikes.items()}

    return run(snn.init(weights, x))


BY_SAMPLE = {
    "as it is": (lambda v, x: jax.nn.relu(x @ v["a"]) @ v["a"], 1),
    "transposed": (lambda v, x: (v["a"] @ jax.nn.relu(v["a"] @ x.T)).T, 6),
    "moved in a map": (lambda v, x: jax.nn.relu(jnp.moveaxis(x[:, None] * jnp.ones((1, 3, 1)), 0, 2))[0].T, 1),
    "by einsum": (lambda v, x: jax.nn.relu(jnp.einsum("oc,bc->ob", v["a"], x)).T, 6),
}


@pytest.mark.parametrize(("network", "chunk"), BY_SAMPLE.values(), ids=BY_SAMPLE)
def test_rates_are_by_sample_where_another_axis_is_as_long(network, chunk):
    """One sample fires much, three hardly: by channel their rates would all be alike."""
    x = jnp.asarray([[4.0] * 4, *[[0.1] * 4] * 3])
    rates, of_first = rates_of(network, {"a": jnp.full((4, 4), 0.2)}, x, chunk)
    for layer, rate in rates.items():
        assert rate[0] > 0.5
        np.testing.assert_array_less(rate[1:], 0.2)
        np.testing.assert_allclose(of_first[layer], rate[0], rtol=1e-6)


FOLDED = {
    "samples first": (lambda v, x: jax.nn.relu(x.reshape(-1, 3) @ v["w"]), 2, "byte"),
    "tokens first": (lambda v, x: jax.nn.relu(x.reshape(4, 2, 3).swapaxes(0, 1).reshape(-1, 3) @ v["w"]), 2, "exact"),
    "features first": (lambda v, x: jax.nn.relu(v["w"] @ x.reshape(-1, 3).T), 6, "exact"),
}


@pytest.mark.parametrize(("folded", "chunk", "residuals"), FOLDED.values(), ids=FOLDED)
def test_rates_of_tokens_that_are_folded_into_the_batch_are_the_batchs_mean(folded, chunk, residuals):
    weights = {"w": jnp.eye(3)}
    rates, expected = (
        rates_of(lambda v, x, layer=layer: layer(v, x).reshape(4, -1), weights, X, chunk, residuals)[0]["w"]
        for layer in (folded, lambda v, x: jax.nn.relu(x.reshape(4, 2, 3) @ v["w"]))
    )
    assert len(set(expected.tolist())) == 4
    np.testing.assert_allclose(rates, [expected.mean()] * 4, rtol=1e-5)
