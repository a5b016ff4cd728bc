"""What the runs of the study measure of their nets, against NumPy and what the network shows."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.config import with_fields
from experiments.networks import build_ann, build_snn, init_variables, presentation_of, random_key, scaled, snn_like
from experiments.runs.data import open_source
from experiments.runs.workdir import Run
from experiments.scoring import score_ann, score_snn
from experiments.study import work
from jsnn.data.augment import scale
from jsnn.data.datasets import TEST, VALIDATION
from jsnn.network.simulation import simulate
from jsnn.network.transformation import NEURONS
from tests.experiments.study.conftest import CONFIG

RUN = Run(CONFIG, None)
SNN, STEPS, FACTOR, KEY = build_snn(CONFIG), CONFIG.convert.num_steps, 0.5, random_key(CONFIG, VALIDATION)


@pytest.fixture(autouse=True)
def _few_images(monkeypatch):
    """For gradients two batches of 16 images in each half of the validation split."""
    for name, value in {"IMAGES": 32, "IMAGES_FOR_SILENCE": 32, "BATCH": 16}.items():
        monkeypatch.setattr(work, name, value)


@pytest.fixture(scope="module")
def snn():
    """Of random weights, its thresholds low enough for all layers to spike."""
    return scaled(CONFIG, snn_like(CONFIG), 0.2)


def batch_of(split, count=None):
    """The first images of a split, or all."""
    source = open_source(CONFIG, split)
    return source.take(source.resident, jnp.arange(count or source.num_examples))


def encoded(batch, key, times):
    return presentation_of(CONFIG, STEPS).encode(scale(batch.images), key, batch.index, times)


@jax.jit
def logits_of(variables, batch, key=KEY):
    """By the SNN's own function at all steps at once: sums over time, in units of the last layer's threshold."""
    spikes = encoded(batch, key, jnp.arange(STEPS))
    results, _ = SNN.apply(variables, SNN.initial_state(variables, spikes[0]), spikes)
    return results.sum(0) / variables[NEURONS]["dense0"]["threshold"]


def accuracy_of(variables, batch, key=KEY):
    return float((logits_of(variables, batch, key).argmax(-1) == batch.labels).mean())


def loss_of(variables, batch, factor=1.0):
    logits = factor * logits_of(variables, batch)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()


def test_accuracies_over_streams_are_those_of_the_logits(monkeypatch, snn):
    """Of all validation images at once, by streams that training has not chosen on; nets before and after are told."""
    nets = {"converted": snn, "hybrid": scaled(CONFIG, snn, 2.0)}
    monkeypatch.setattr(work, "as_far_as", lambda stage, run: {"stage": stage})
    for name, net in {"scaled_snn": snn, "last_snn": nets["hybrid"], "starting_snn": "start"}.items():
        monkeypatch.setattr(work, name, lambda run, net=net: net)
    for name in ("silent_neurons", "agreement"):
        monkeypatch.setattr(work, name, lambda _, net: net)
    measured = work.diagnosed(RUN)
    assert measured["stage"] == "finetune"
    assert measured["silence"] == measured["agreement"] == {"before": "start", "after": nets["hybrid"]}
    batch, keys = batch_of(VALIDATION), [jax.random.fold_in(KEY, n) for n in range(CONFIG.evaluate.streams)]
    for net, variables in nets.items():
        assert measured["streams"][net] == pytest.approx([accuracy_of(variables, batch, key) for key in keys])


def test_some_images_of_a_split_are_scored_alone_by_the_papers_logits(snn):
    size, score = open_source(CONFIG, VALIDATION).num_examples, partial(score_snn, CONFIG, snn, STEPS, VALIDATION, KEY)
    part, rest, everything, more = (score(images=images) for images in (range(65), range(65, 999), None, range(10**6)))
    assert [scores.count for scores in (part, rest, everything, more)] == [65, size - 65, size, size]
    of_parts = (65 * part.accuracy + (size - 65) * rest.accuracy) / size
    np.testing.assert_allclose(of_parts, everything.accuracy, rtol=1e-6)
    assert float(everything.loss[-1]) == pytest.approx(float(loss_of(snn, batch_of(VALIDATION))), rel=1e-5)
    ann, first = init_variables(CONFIG, "init"), batch_of(TEST, 64)
    right = jax.jit(build_ann(CONFIG).apply)(ann, scale(first.images)).argmax(-1) == first.labels
    assert score_ann(CONFIG, ann, TEST, range(64)) == pytest.approx(float(right.mean()))


def test_the_factor_is_the_best_on_validation_and_the_largest_of_equals(monkeypatch):
    """On test images, of the first stream, it is measured beside factor 1."""
    curves = {0.4: [0.0, 0.7, 0.9], 0.55: [0.0, 0.8, 0.2], 0.7: [0.0, 0.8, 0.3], 1.0: [0.0, 0.6, 0.1]}
    keys = {VALIDATION: KEY, TEST: jax.random.fold_in(random_key(CONFIG, TEST), 0)}

    def score(config, factor, num_steps, split, key, images):
        assert (num_steps, key) == (3, keys[split])
        assert images == {VALIDATION: range(64), TEST: None}[split]
        return SimpleNamespace(accuracy=np.asarray(curves[factor]) / (10 if split == TEST else 1))

    monkeypatch.setattr(work, "score_snn", score)
    monkeypatch.setattr(work, "scaled", lambda config, snn, factor: factor)
    validation, test = work.by_steps(RUN, "net", (2, 3), tuple(curves), range(64), None)
    assert validation == {str(t): {f"{factor:g}": curve[t - 1] for factor, curve in curves.items()} for t in (2, 3)}
    assert test == {
        "2": {"factor_1": pytest.approx(0.06), "factor": 0.7, "chosen": pytest.approx(0.08)},
        "3": {"factor_1": pytest.approx(0.01), "factor": 0.4, "chosen": pytest.approx(0.09)},
    }


def test_scores_and_gradients_are_those_of_the_logits_of_each_batch(snn):
    batches = work.batched(CONFIG, 0, 32, 16)
    each = [jax.tree.map(lambda leaf, n=n: leaf[n], batches) for n in range(2)]
    scores = work.scores(CONFIG, snn, batches, FACTOR)
    assert float(scores["loss"]) == pytest.approx(np.mean([loss_of(snn, batch, FACTOR) for batch in each]), rel=1e-5)
    assert float(scores["accuracy"]) == pytest.approx(np.mean([accuracy_of(snn, batch) for batch in each]))
    gradient = jax.jit(jax.grad(lambda params, batch: loss_of({**snn, "params": params}, batch, FACTOR)))
    actual = work.batch_gradients(CONFIG, snn, batches, FACTOR)
    for n, batch in enumerate(each):
        for layer, expected in gradient(snn["params"], batch).items():
            np.testing.assert_allclose(actual[layer]["kernel"][n], expected["kernel"], rtol=1e-3, atol=1e-5)
            assert np.abs(expected["kernel"]).max() > 1e-3


def test_silent_neurons_are_those_without_a_spike(snn):
    batch, options = batch_of(VALIDATION, 32), {"num_steps": STEPS, "chunk": STEPS, "collect": ["spikes"]}
    shown = simulate(SNN, snn, partial(encoded, batch, KEY), lambda each: each.layers["spikes"], **options)
    shares = work.silent_neurons(CONFIG, snn)["never"]
    assert shares == {layer: pytest.approx(float((spikes.max(0) == 0).mean())) for layer, spikes in shown.items()}
    assert all(0 < share < 1 for share in shares.values())


def test_batches_agree_where_all_push_alike():
    """Weights that nothing pushes don't count."""
    alike, opposite = jnp.array([[1.0, 2.0, 0.0]] * 4), jnp.array([[1.0, -2.0, 0.0], [-1.0, 2.0, 0.0]])
    share = jax.jit(work.agreed_share)
    assert share(alike) == pytest.approx(1)
    assert share(opposite) == share(jnp.zeros((2, 3))) == 0
    noise = np.random.default_rng(0).normal(size=(32, 10_000))
    ratios = np.abs(noise.mean(0)) / np.sqrt((noise**2).mean(0))
    assert share(jnp.asarray(noise)) == pytest.approx(ratios.mean(), rel=1e-5)


def test_changes_by_steps_are_those_of_a_cubic_score(monkeypatch):
    monkeypatch.setattr(work, "MOVE", 0.1)
    rng = np.random.default_rng(0)
    a, b, of_a, of_b = rng.normal(size=(3, 2)), rng.normal(size=4), rng.normal(size=(5, 3, 2)), np.zeros((5, 4))

    def scores(config, variables, batches, factor):
        cubes, squares = ((variables["params"][layer] ** power).sum() for layer, power in (("a", 3), ("b", 2)))
        return {"loss": cubes + variables["more"] * squares, "accuracy": factor * cubes}

    monkeypatch.setattr(work, "scores", scores)
    variables, along = ({"a": jnp.asarray(one), "b": jnp.asarray(other)} for one, other in ((a, b), (of_a, of_b)))
    changes = work.changes(CONFIG, {"params": variables, "more": 7.0}, along, 0.5)
    step = 0.1 * np.linalg.norm(a) * of_a.mean(0) / np.linalg.norm(of_a.mean(0))
    expected = (((a - step) ** 3).sum() - ((a + step) ** 3).sum()) / 2
    assert changes["loss"] == {"a": pytest.approx(expected, rel=1e-4), "b": 0}  # no gradient, no step
    assert changes["accuracy"]["a"] == pytest.approx(expected / 2, rel=1e-4)


def test_a_step_down_an_exact_gradient_goes_as_far_as_it_says(snn):
    """The loss, on the second half of the images, is a smooth function of the readout's weights."""
    first, second = (work.batched(CONFIG, start, 32, 16) for start in (0, 32))
    assert np.array_equal(np.concatenate([first.index, second.index]).ravel(), np.arange(64))
    own = work.batch_gradients(CONFIG, snn, second, FACTOR)
    changes = work.changes(CONFIG, snn, own, FACTOR)
    weights, gradient = snn["params"]["readout"]["kernel"], own["readout"]["kernel"].mean(0)
    expected = -work.MOVE * np.linalg.norm(weights) * np.linalg.norm(gradient)
    assert changes["loss"]["readout"] == pytest.approx(expected, rel=0.02)
    assert set(changes["accuracy"]) == set(snn["params"])


@pytest.fixture
def recorded(monkeypatch):
    """What gradients are asked for; the parts of a measurement say what they are given, and the net is "net"."""
    asked, along = [], {"dense0": {"kernel": jnp.ones((2, 3))}, "norm": {"scale": jnp.ones((2, 3))}}
    monkeypatch.setattr(work, "starting_snn", lambda run: "net")
    monkeypatch.setattr(work, "calibrated_scale", lambda run: 0.25)
    monkeypatch.setattr(work, "batched", lambda config, *which: which)
    monkeypatch.setattr(work, "batch_gradients", lambda *given: asked.append(given) or along)
    monkeypatch.setattr(work, "changes", lambda config, snn, gradients, factor: {"loss": (len(asked), snn, factor)})
    return asked


def test_steps_are_compared_for_both_surrogates_and_losses(recorded):
    """Changes are of the calibrated loss."""
    names = ["stdb, plain", "stdb, calibrated", "linear, plain", "linear, calibrated"]
    assert work.descent(RUN) == {name: {"loss": (n, "net", 0.25)} for n, name in enumerate(names, start=1)}
    asked = [(config.finetune.surrogate, *rest) for config, *rest in recorded]
    factors = (("stdb", 1.0), ("stdb", 0.25), ("linear", 1.0), ("linear", 0.25))
    assert asked == [(surrogate, "net", (0, 32, 16), factor) for surrogate, factor in factors]


def test_agreement_is_of_the_runs_own_surrogate_and_loss_and_batches(recorded):
    config = with_fields(CONFIG, {"finetune.logit_scale": 0.5, "finetune.beta": 1.0, "data.batch_size": 8})
    agreement = work.agreement(RUN._replace(config=config), "net")
    assert recorded == [(config, "net", (0, 32, 8), 0.5)]
    assert agreement == {"share": {"dense0": pytest.approx(1)}, "loss": (1, "net", 0.5)}
