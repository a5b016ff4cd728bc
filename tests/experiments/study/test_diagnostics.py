"""Scores, gradients, steps along them and silence, against NumPy and what the network shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.data.augment import scale
from jsnn.data.sources import Batch
from jsnn.encoding import poisson
from jsnn.network.simulation import Presentation
from jsnn.training import diagnostics
from tests.networks import IMAGE_SHAPE, TINY_VGG, last_threshold, random_snn, run_network

STEPS, KEY, FACTOR = 6, jax.random.key(3), 0.5
SNN, VARIABLES = random_snn(TINY_VGG, seed=1, leak=0.9)
PRESENTATION = Presentation(SNN, poisson, STEPS, chunk=4)
UNIT = 1 / float(last_threshold(VARIABLES, TINY_VGG))  # of the paper's logits


@pytest.fixture(scope="module")
def batches():
    """Two batches of four images."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (2, 4, *IMAGE_SHAPE), np.uint8), rng.integers(0, 3, (2, 4))
    return Batch(*map(jnp.asarray, (images, labels.astype(np.int32), np.arange(8, dtype=np.int32).reshape(2, 4))))


@pytest.fixture(scope="module")
def shown(batches):
    """What the network shows of each batch, all time steps at once."""

    def show(batch):
        inputs = poisson(scale(batch.images), KEY, batch.index, jnp.arange(STEPS))
        return run_network(TINY_VGG, SNN, STEPS, VARIABLES, inputs, batch.labels)

    each = [show(jax.tree.map(lambda leaf, n=n: leaf[n], batches)) for n in range(2)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


def test_scores_are_those_of_the_logits(batches, shown):
    logits = FACTOR * shown.logits[:, -1].astype(np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    losses = -np.log(np.take_along_axis(chances, np.asarray(batches.labels)[..., None], -1))
    scores = diagnostics.mean_scores(PRESENTATION, VARIABLES, batches, KEY, FACTOR * UNIT)
    assert float(scores.loss) == pytest.approx(losses.mean(), rel=1e-5)
    assert float(scores.accuracy) == (logits.argmax(-1) == batches.labels).mean()


def test_gradients_are_those_of_each_batch(batches, shown):
    actual = diagnostics.batch_gradients(PRESENTATION, VARIABLES, batches, KEY, UNIT)
    for layer, expected in shown.gradients.items():
        np.testing.assert_allclose(actual[layer]["kernel"], expected["kernel"], rtol=1e-3, atol=1e-5)
        assert np.abs(expected["kernel"]).max() > 1e-3


def test_silence_is_counted_step_by_step(batches, shown):
    actual = diagnostics.silent_neurons(PRESENTATION, VARIABLES, batches, KEY)
    assert actual.never.keys() == actual.so_far.keys() == shown.spikes.keys()
    for layer, spikes in shown.spikes.items():
        silent, waiting = np.ones(spikes[:, 0].shape, bool), []
        for step in range(STEPS):
            waiting.append(silent)
            silent = silent & (spikes[:, step] == 0)
        assert float(actual.never[layer]) == pytest.approx(silent.mean())
        assert float(actual.so_far[layer]) == pytest.approx(np.mean(waiting))
        assert 0 < silent.mean() < np.mean(waiting) < 1


def test_batches_agree_where_all_push_alike():
    """Weights that nothing pushes don't count."""
    alike, opposite = jnp.array([[1.0, 2.0, 0.0]] * 4), jnp.array([[1.0, -2.0, 0.0], [-1.0, 2.0, 0.0]])
    assert diagnostics.agreement(alike) == pytest.approx(1)
    assert diagnostics.agreement(opposite) == diagnostics.agreement(jnp.zeros((4, 3))) == 0
    noise = np.random.default_rng(0).normal(size=(32, 10_000))
    assert diagnostics.agreement(jnp.asarray(noise)) == pytest.approx((2 / np.pi / 32) ** 0.5, rel=0.02)
    ratios = np.abs(noise.mean(0)) / np.sqrt((noise**2).mean(0))
    assert diagnostics.agreement(jnp.asarray(noise)) == pytest.approx(ratios.mean(), rel=1e-5)


def test_changes_by_steps_are_those_of_a_cubic_score():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape) for shape in ((3, 2), (4,)))
    of_a, of_b = rng.normal(size=(5, 3, 2)), np.zeros((5, 4))

    def score(variables):
        params = variables["params"]
        return {"cubes": (params["a"]["kernel"] ** 3).sum() + variables["more"] * (params["b"]["kernel"] ** 2).sum()}

    variables = {"params": {"a": {"kernel": jnp.asarray(a)}, "b": {"kernel": jnp.asarray(b)}}, "more": 7.0}
    gradients = {"a": {"kernel": jnp.asarray(of_a)}, "b": {"kernel": jnp.asarray(of_b)}}
    changes = diagnostics.step_changes(score, variables, gradients, 0.1)["cubes"]
    step = 0.1 * np.linalg.norm(a) * of_a.mean(0) / np.linalg.norm(of_a.mean(0))
    assert float(changes["a"]) == pytest.approx((((a - step) ** 3).sum() - ((a + step) ** 3).sum()) / 2, rel=1e-4)
    assert float(changes["b"]) == 0  # no gradient, no step


def test_a_step_down_an_exact_gradient_goes_as_far_as_it_says(batches):
    """The loss is a smooth function of the readout's weights, whatever the surrogate."""
    gradients = diagnostics.batch_gradients(PRESENTATION, VARIABLES, batches, KEY, FACTOR * UNIT)

    def score(variables):
        return diagnostics.mean_scores(PRESENTATION, variables, batches, KEY, FACTOR * UNIT)

    changes = diagnostics.step_changes(score, VARIABLES, gradients, 0.02)
    weights, gradient = VARIABLES["params"]["readout"]["kernel"], gradients["readout"]["kernel"].mean(0)
    expected = -0.02 * np.linalg.norm(weights) * np.linalg.norm(gradient)
    assert float(changes.loss["readout"]) == pytest.approx(expected, rel=0.02)
    assert set(changes.accuracy) == set(VARIABLES["params"])
