"""The study's measurements of a run's nets: silent neurons, accuracies, losses, conversions, gradients."""

from functools import partial
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.config import with_fields
from experiments.convert import converted_snn
from experiments.finetune import last_snn
from experiments.runs.networks import build_ann, build_snn, encoding_of, logit_unit, random_key, scaled
from experiments.runs.records import read_results
from experiments.runs.scoring import score_ann, score_snn
from experiments.runs.splits import open_source
from experiments.study import conversion, gradients, trials
from experiments.train_ann import trained_ann
from jsnn.data.augment import scale
from jsnn.data.datasets import TEST, VALIDATION
from jsnn.network.simulation import simulate
from jsnn.network.transformation import NEURONS
from jsnn.training import diagnostics
from tests.experiments.study.tiny_study import tiny_run

__all__ = ["tiny_run"]  # a fixture


def test_silent_neurons_are_those_without_a_spike(tiny_run, monkeypatch):
    monkeypatch.setattr(gradients, "IMAGES_FOR_SILENCE", 64)
    snn, config, index = last_snn(tiny_run), tiny_run.config, jnp.arange(64)
    shares = gradients.silent_neurons(config, snn)
    source = open_source(config, VALIDATION)
    inputs = partial(encoding_of(config), scale(source.take(source.resident, index).images))
    inputs = partial(inputs, random_key(config, VALIDATION), index)
    of_steps = {"num_steps": 4, "chunk": 4, "collect": ["spikes"]}
    run = partial(
        simulate, build_snn(config), inputs=inputs, observe=lambda observed: observed.layers["spikes"], **of_steps
    )
    spikes = jax.device_get(jax.jit(run)(snn))
    assert spikes.keys() == shares["never"].keys()
    for layer, train in spikes.items():
        assert shares["never"][layer] == pytest.approx((train.max(0) == 0).mean())
        had_fired = np.concatenate([np.zeros_like(train[:1]), np.maximum.accumulate(train)[:-1]])
        assert shares["no gradient"][layer] == pytest.approx((had_fired == 0).mean())


def test_accuracies_over_streams_are_those_of_the_logits(tiny_run):
    """Of all validation images at once, by streams that training has not chosen on."""
    config, source = tiny_run.config, open_source(tiny_run.config, VALIDATION)
    index = jnp.arange(source.num_examples)
    batch, key = source.take(source.resident, index), random_key(config, VALIDATION)
    factor = read_results(tiny_run.directory)["converted"]["scaling_factor"]
    nets = {"converted": scaled(config, converted_snn(tiny_run), factor), "hybrid": last_snn(tiny_run)}
    snn = build_snn(config)

    @jax.jit
    def accuracy(variables, noise):
        spikes = encoding_of(config)(scale(batch.images), noise, index, jnp.arange(config.convert.num_steps))
        results, _ = snn.apply(variables, snn.initial_state(variables, spikes[0]), spikes)
        return (results.sum(0).argmax(-1) == batch.labels).mean()

    measured = trials.over_streams(tiny_run)
    for net, variables in nets.items():
        noises = [jax.random.fold_in(key, stream) for stream in range(config.evaluate.streams)]
        assert measured[net] == pytest.approx([float(accuracy(variables, noise)) for noise in noises])


def test_losses_are_of_the_papers_logits(tiny_run):
    """Sums over time, in units of the last layer's threshold."""
    config, source, variables = tiny_run.config, open_source(tiny_run.config, VALIDATION), last_snn(tiny_run)
    batch, key, snn = source.take(source.resident, jnp.arange(64)), random_key(config, VALIDATION), build_snn(config)

    @jax.jit
    def loss(variables):
        spikes = encoding_of(config)(scale(batch.images), key, batch.index, jnp.arange(4))
        results, _ = snn.apply(variables, snn.initial_state(variables, spikes[0]), spikes)
        logits = results.sum(0) / variables[NEURONS]["dense0"]["threshold"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()

    scores = score_snn(config, variables, 4, VALIDATION, key, images=range(64))
    assert float(scores.loss[-1]) == pytest.approx(float(loss(variables)), rel=1e-5)


def test_a_conversion_is_measured_on_the_first_stream(tiny_run):
    snn, key = converted_snn(tiny_run), random_key(tiny_run.config, TEST)
    measured = conversion.on_test(tiny_run, snn, {"3": {"1": 0.5}}, None)["3"]
    expected = float(score_snn(tiny_run.config, snn, 3, TEST, jax.random.fold_in(key, 0)).accuracy[-1])
    assert measured == {"factor_1": expected, "factor": 1, "chosen": expected}


def test_the_factor_is_the_best_on_validation_and_the_largest_of_equals(tiny_run, monkeypatch):
    def score(config, snn, num_steps, split, key, images):
        assert images is None or images == range(64)
        return SimpleNamespace(accuracy=snn + np.arange(1, num_steps + 1))

    monkeypatch.setattr(conversion, "score_snn", score)
    monkeypatch.setattr(conversion, "scaled", lambda config, snn, factor: snn * factor)
    by_factor = {"0.4": 0.7, "0.55": 0.8, "0.7": 0.8, "1": 0.6}
    measured = conversion.on_test(tiny_run, 10, {"2": by_factor, "3": {"0.4": 0.9, "1": 0.1}}, None)
    assert measured == {
        "2": {"factor_1": 12, "factor": 0.7, "chosen": 9},
        "3": {"factor_1": 13, "factor": 0.4, "chosen": 7},
    }
    swept = conversion._sweep(tiny_run, 10, (2, 3), (0.5, 1.0), 64)
    assert swept == {"2": {"0.5": 7, "1": 12}, "3": {"0.5": 8, "1": 13}}


def test_the_anns_accuracy_on_the_first_images_is_that_of_its_logits(tiny_run):
    ann, source = trained_ann(tiny_run), open_source(tiny_run.config, TEST)
    batch = source.take(source.resident, jnp.arange(64))
    logits = jax.jit(build_ann(tiny_run.config).apply)(ann, scale(batch.images))
    assert score_ann(tiny_run.config, ann, TEST, range(64)) == pytest.approx(
        float((logits.argmax(-1) == batch.labels).mean())
    )


def test_some_images_of_a_split_are_scored_alone(tiny_run):
    config = tiny_run.config
    score = partial(score_snn, config, last_snn(tiny_run), 3, TEST, random_key(config, TEST))
    part, rest, everything, more = (score(images=images) for images in (range(65), range(65, 999), None, range(10**6)))
    assert [scores.count for scores in (part, rest, everything, more)] == [65, 295, 360, 360]
    of_parts = (65 * part.accuracy + 295 * rest.accuracy) / 360
    np.testing.assert_allclose(of_parts, everything.accuracy, rtol=1e-6)


@pytest.fixture
def few_images(tiny_run, monkeypatch):
    """The tiny run with another surrogate, loss and batches; 32 images in each half of the validation split."""
    monkeypatch.setattr(gradients, "IMAGES", 32)
    monkeypatch.setattr(gradients, "BATCH", 16)
    fields = {"finetune.logit_scale": 0.5, "finetune.beta": 1.0, "data.batch_size": 16}
    return tiny_run._replace(config=with_fields(tiny_run.config, fields))


def test_steps_are_compared_for_both_surrogates_and_losses(tiny_run, monkeypatch):
    """Changes are of the calibrated loss."""
    scale_of_run = read_results(tiny_run.directory)["converted"]["logit_scale"]
    monkeypatch.setattr(gradients, "starting_snn", lambda run: "net")
    monkeypatch.setattr(gradients, "batch_gradients", lambda config, *rest: (config.finetune.surrogate, *rest))
    monkeypatch.setattr(gradients, "changes", lambda config, *rest: rest)
    assert gradients.descent(tiny_run) == {
        f"{surrogate}, {kind}": ("net", (surrogate, "net", 256, factor), scale_of_run)
        for surrogate in ("stdb", "linear")
        for kind, factor in (("plain", 1.0), ("calibrated", scale_of_run))
    }


def test_gradients_are_of_one_half_of_the_images_and_changes_of_the_other(few_images, tiny_run):
    config, snn = few_images.config, last_snn(tiny_run)
    (presentation, first, key), (_, second, _) = (gradients.validation(config, start, 32, 16) for start in (0, 32))
    assert np.array_equal(jnp.concatenate([first.index, second.index]).ravel(), np.arange(64))
    factor = 0.5 * logit_unit(config, snn)
    own = diagnostics.batch_gradients(presentation, snn, first, key, factor)
    chex.assert_trees_all_equal(gradients.batch_gradients(config, snn, 16, 0.5), own)
    score = partial(diagnostics.mean_scores, presentation, batches=second, key=key, logit_scale=factor)
    expected = diagnostics.step_changes(score, snn, own, gradients.MOVE)
    changes = gradients.changes(config, snn, own, 0.5)
    chex.assert_trees_all_close(changes, expected._asdict())


def test_agreement_is_of_the_runs_own_surrogate_and_loss_and_batches(few_images, tiny_run):
    """The mean gradient is the same however the images are batched; that of another surrogate is another."""
    config, snn = few_images.config, last_snn(tiny_run)
    more_batches = few_images._replace(config=with_fields(config, {"data.batch_size": 4}))
    few, many = (gradients.agreement(run, snn) for run in (few_images, more_batches))
    own, other = (gradients.batch_gradients(one, snn, 16, 0.5) for one in (config, tiny_run.config))
    expected = gradients.changes(config, snn, own, 0.5)["loss"]
    assert few["loss"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert many["loss"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert all(0 < many["share"][layer] < share <= 1 for layer, share in few["share"].items())
    assert not np.allclose(own["conv0"]["kernel"].mean(0), other["conv0"]["kernel"].mean(0), rtol=1e-2)


def test_nets_before_and_after_the_fine_tune_are_told_apart(tiny_run, monkeypatch):
    for name, of in (("validated", lambda _: {}), ("starting_snn", lambda _: "start"), ("last_snn", lambda _: "last")):
        monkeypatch.setattr(trials, name, of)
    for name in ("silent_neurons", "agreement"):
        monkeypatch.setattr(trials, name, lambda _, snn: snn)
    nets = {"before": "start", "after": "last"}
    assert trials.diagnosed(tiny_run) == {"silence": nets, "agreement": nets}
