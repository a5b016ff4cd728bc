"""Scores, gradients, steps along them and silence, against NumPy and what the network shows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.config import with_fields
from experiments.networks import build_snn, presentation_of, random_key
from experiments.study import gradients
from jsnn.data.augment import scale
from jsnn.data.datasets import VALIDATION
from jsnn.network.simulation import simulate
from tests.experiments.study.tiny_study import CONFIG, RUN, random_nets

STEPS, FACTOR = CONFIG.convert.num_steps, 0.5


@pytest.fixture(autouse=True)
def _few_images(monkeypatch):
    """Two batches of 16 images in each half of the validation split."""
    for name, value in {"IMAGES": 32, "IMAGES_FOR_SILENCE": 32, "BATCH": 16}.items():
        monkeypatch.setattr(gradients, name, value)


@pytest.fixture(scope="module")
def snn():
    return random_nets()[1]


@pytest.fixture(scope="module")
def shown(snn):
    """What the network shows of the first two batches: logits [N, B, classes], spikes and the loss's gradients [N]."""

    def objective(params, batch):
        variables, key = {**snn, "params": params}, random_key(CONFIG, VALIDATION)
        total, spikes = simulate(
            build_snn(CONFIG),
            variables,
            lambda times: presentation_of(CONFIG, STEPS).encode(scale(batch.images), key, batch.index, times),
            lambda observed: (observed.total, observed.layers["spikes"]),
            num_steps=STEPS,
            chunk=STEPS,
            collect=["spikes"],
        )
        logits = total[-1] / variables["neurons"]["dense0"]["threshold"]
        losses = optax.softmax_cross_entropy_with_integer_labels(FACTOR * logits, batch.labels)
        return losses.mean(), (logits, spikes)

    program = jax.jit(jax.grad(objective, has_aux=True))
    batches = gradients.images(CONFIG, 0, 32, 16)
    each = [program(snn["params"], jax.tree.map(lambda leaf, n=n: leaf[n], batches)) for n in range(2)]
    of_batches, (logits, spikes) = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    return np.asarray(batches.labels), logits, spikes, of_batches


def test_scores_are_those_of_the_logits(snn, shown):
    """Sums over time, in units of the last layer's threshold."""
    labels, logits, *_ = shown
    logits = FACTOR * logits.astype(np.float64)
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    scores = gradients.scores(CONFIG, snn, gradients.images(CONFIG, 0, 32, 16), FACTOR)
    assert float(scores["loss"]) == pytest.approx(losses.mean(), rel=1e-5)
    assert float(scores["accuracy"]) == pytest.approx((logits.argmax(-1) == labels).mean())


def test_gradients_are_those_of_each_batch(snn, shown):
    actual = gradients.batch_gradients(CONFIG, snn, gradients.images(CONFIG, 0, 32, 16), FACTOR)
    for layer, expected in shown[-1].items():
        np.testing.assert_allclose(actual[layer]["kernel"], expected["kernel"], rtol=1e-3, atol=1e-5)
        assert np.abs(expected["kernel"]).max() > 1e-3


def test_silent_neurons_are_those_without_a_spike(snn, shown):
    shares = gradients.silent_neurons(CONFIG, snn)["never"]
    assert shares.keys() == shown[2].keys()
    for layer, spikes in shown[2].items():
        assert shares[layer] == pytest.approx((spikes.max(1) == 0).mean())
        assert 0 < shares[layer] < 1


def test_batches_agree_where_all_push_alike():
    """Weights that nothing pushes don't count."""
    alike, opposite = jnp.array([[1.0, 2.0, 0.0]] * 4), jnp.array([[1.0, -2.0, 0.0], [-1.0, 2.0, 0.0]])
    share = jax.jit(gradients.agreed_share)
    assert share(alike) == pytest.approx(1)
    assert share(opposite) == share(jnp.zeros((2, 3))) == 0
    noise = np.random.default_rng(0).normal(size=(32, 10_000))
    assert share(jnp.asarray(noise)) == pytest.approx((2 / np.pi / 32) ** 0.5, rel=0.02)
    ratios = np.abs(noise.mean(0)) / np.sqrt((noise**2).mean(0))
    assert share(jnp.asarray(noise)) == pytest.approx(ratios.mean(), rel=1e-5)


def test_changes_by_steps_are_those_of_a_cubic_score(monkeypatch):
    monkeypatch.setattr(gradients, "MOVE", 0.1)
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape) for shape in ((3, 2), (4,)))
    of_a, of_b = rng.normal(size=(5, 3, 2)), np.zeros((5, 4))

    def score(variables):
        params = variables["params"]
        return {"cubes": (params["a"]["kernel"] ** 3).sum() + variables["more"] * (params["b"]["kernel"] ** 2).sum()}

    variables = {"params": {"a": {"kernel": jnp.asarray(a)}, "b": {"kernel": jnp.asarray(b)}}, "more": 7.0}
    along = {"a": {"kernel": jnp.asarray(of_a)}, "b": {"kernel": jnp.asarray(of_b)}}
    changes = gradients.step_changes(score, variables, along)["cubes"]
    step = 0.1 * np.linalg.norm(a) * of_a.mean(0) / np.linalg.norm(of_a.mean(0))
    assert float(changes["a"]) == pytest.approx((((a - step) ** 3).sum() - ((a + step) ** 3).sum()) / 2, rel=1e-4)
    assert float(changes["b"]) == 0  # no gradient, no step


def test_a_step_down_an_exact_gradient_goes_as_far_as_it_says(snn):
    """The loss, on the second half of the images, is a smooth function of the readout's weights."""
    first, second = (gradients.images(CONFIG, start, 32, 16) for start in (0, 32))
    assert np.array_equal(np.concatenate([first.index, second.index]).ravel(), np.arange(64))
    own = gradients.batch_gradients(CONFIG, snn, second, FACTOR)
    changes = gradients.changes(CONFIG, snn, own, FACTOR)
    weights, gradient = snn["params"]["readout"]["kernel"], own["readout"]["kernel"].mean(0)
    expected = -gradients.MOVE * np.linalg.norm(weights) * np.linalg.norm(gradient)
    assert changes["loss"]["readout"] == pytest.approx(expected, rel=0.02)
    assert set(changes["accuracy"]) == set(snn["params"])


def recorded(monkeypatch):
    """Have the parts of a measurement say what they are given, and the net be "net"."""
    monkeypatch.setattr(gradients, "starting_snn", lambda run: "net")
    monkeypatch.setattr(gradients, "calibrated_scale", lambda run: 0.25)
    monkeypatch.setattr(gradients, "images", lambda config, *which: which)
    monkeypatch.setattr(gradients, "changes", lambda config, *rest: {"loss": rest})


def test_steps_are_compared_for_both_surrogates_and_losses(monkeypatch):
    """Changes are of the calibrated loss."""
    recorded(monkeypatch)
    monkeypatch.setattr(gradients, "batch_gradients", lambda config, *rest: (config.finetune.surrogate, *rest))
    assert gradients.descent(RUN) == {
        f"{surrogate}, {kind}": {"loss": ("net", (surrogate, "net", (0, 32, 16), factor), 0.25)}
        for surrogate in ("stdb", "linear")
        for kind, factor in (("plain", 1.0), ("calibrated", 0.25))
    }


def test_agreement_is_of_the_runs_own_surrogate_and_loss_and_batches(monkeypatch):
    recorded(monkeypatch)
    config = with_fields(CONFIG, {"finetune.logit_scale": 0.5, "finetune.beta": 1.0, "data.batch_size": 8})
    asked, along = [], {"dense0": {"kernel": jnp.ones((2, 3))}, "norm": {"scale": jnp.ones((2, 3))}}
    monkeypatch.setattr(gradients, "batch_gradients", lambda *given: asked.append(given) or along)
    agreement = gradients.agreement(RUN._replace(config=config), "net")
    assert asked == [(config, "net", (0, 32, 8), 0.5)]
    assert agreement == {"share": {"dense0": pytest.approx(1)}, "loss": ("net", along, 0.5)}
