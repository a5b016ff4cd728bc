"""What the runs of the study measure of their nets: accuracies by stream, on some images, and of conversions."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.networks import build_ann, build_snn, presentation_of, random_key, scaled
from experiments.runs.data import open_source
from experiments.scoring import score_ann, score_snn
from experiments.study import work
from jsnn.data.augment import scale
from jsnn.data.datasets import TEST, VALIDATION
from jsnn.network.transformation import NEURONS
from tests.experiments.study.tiny_study import CONFIG, RUN, random_nets

SNN, STEPS = build_snn(CONFIG), CONFIG.convert.num_steps


def batch_of(split, count):
    """The first images of a split."""
    source = open_source(CONFIG, split)
    return source.take(source.resident, jnp.arange(count))


@jax.jit
def logits_of(variables, batch, key):
    """The SNN's logits of images, by its own function at all steps at once."""
    spikes = presentation_of(CONFIG, STEPS).encode(scale(batch.images), key, batch.index, jnp.arange(STEPS))
    results, _ = SNN.apply(variables, SNN.initial_state(variables, spikes[0]), spikes)
    return results.sum(0) / variables[NEURONS]["dense0"]["threshold"]


def test_accuracies_over_streams_are_those_of_the_logits(monkeypatch):
    """Of all validation images at once, by streams that training has not chosen on."""
    _, snn = random_nets()
    nets = {"converted": snn, "hybrid": scaled(CONFIG, snn, 2.0)}
    monkeypatch.setattr(work, "as_far_as", lambda stage, run: {"stage": stage})
    monkeypatch.setattr(work, "scaled_snn", lambda run: nets["converted"])
    monkeypatch.setattr(work, "last_snn", lambda run: nets["hybrid"])
    measured = work.validated(RUN)
    assert measured["stage"] == "finetune"
    batch, key = batch_of(VALIDATION, open_source(CONFIG, VALIDATION).num_examples), random_key(CONFIG, VALIDATION)
    for net, variables in nets.items():
        logits = [logits_of(variables, batch, jax.random.fold_in(key, n)) for n in range(CONFIG.evaluate.streams)]
        expected = [float((each.argmax(-1) == batch.labels).mean()) for each in logits]
        assert measured["streams"][net] == pytest.approx(expected)


def test_some_images_of_a_split_are_scored_alone_by_the_papers_logits():
    """These are sums over time, in units of the last layer's threshold."""
    ann, snn = random_nets()
    key, size = random_key(CONFIG, VALIDATION), open_source(CONFIG, VALIDATION).num_examples
    score = partial(score_snn, CONFIG, snn, STEPS, VALIDATION, key)
    part, rest, everything, more = (score(images=images) for images in (range(65), range(65, 999), None, range(10**6)))
    assert [scores.count for scores in (part, rest, everything, more)] == [65, size - 65, size, size]
    of_parts = (65 * part.accuracy + (size - 65) * rest.accuracy) / size
    np.testing.assert_allclose(of_parts, everything.accuracy, rtol=1e-6)
    batch = batch_of(VALIDATION, size)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits_of(snn, batch, key), batch.labels)
    assert float(everything.loss[-1]) == pytest.approx(float(losses.mean()), rel=1e-5)
    first = batch_of(TEST, 64)
    logits = jax.jit(build_ann(CONFIG).apply)(ann, scale(first.images))
    expected = float((logits.argmax(-1) == first.labels).mean())
    assert score_ann(CONFIG, ann, TEST, range(64)) == pytest.approx(expected)


def test_the_factor_is_the_best_on_validation_and_the_largest_of_equals(monkeypatch):
    """On test images, of the first stream, it is measured beside factor 1."""
    curves = {0.4: [0.0, 0.7, 0.9], 0.55: [0.0, 0.8, 0.2], 0.7: [0.0, 0.8, 0.3], 1.0: [0.0, 0.6, 0.1]}
    keys = {VALIDATION: random_key(CONFIG, VALIDATION), TEST: jax.random.fold_in(random_key(CONFIG, TEST), 0)}

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


def test_nets_before_and_after_the_fine_tune_are_told_apart(monkeypatch):
    for name, of in (("validated", lambda _: {}), ("starting_snn", lambda _: "start"), ("last_snn", lambda _: "last")):
        monkeypatch.setattr(work, name, of)
    for name in ("silent_neurons", "agreement"):
        monkeypatch.setattr(work, name, lambda _, snn: snn)
    nets = {"before": "start", "after": "last"}
    assert work.diagnosed(RUN) == {"silence": nets, "agreement": nets}
