"""Scores at every step from one pass, in memory that does not depend on the number of steps."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.datasets import Split
from jsnn.encoding import poisson
from jsnn.simulation import Presentation
from jsnn.sources import PADDING, resident_source
from jsnn.training.evaluation import factor_sweep, mean, snn_evaluation
from tests.networks import IMAGE_SHAPE, SMALL_RESNET, SMALL_VGG, TINY_VGG, random_snn

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SPLIT = Split(RNG.integers(0, 256, (9, *IMAGE_SHAPE), np.uint8), RNG.integers(0, 3, 9).astype(np.int32))
SOURCE = resident_source(SPLIT)
ITEM = np.array([0, 4, 8, 2, PADDING, PADDING], np.int32)
STEPS = 11
NET = TINY_VGG.clone(stages=(4, "A"))  # where only the number of steps matters


@cache
def evaluation(ann, num_steps, chunk):
    model, variables = random_snn(ann, seed=3, leak=0.95)
    return jax.jit(snn_evaluation(Presentation(model, poisson, num_steps, chunk), SOURCE)), variables


@cache
def plain_run(ann):
    """Logits and spikes of the samples in ITEM at every step, all steps at once."""
    model, variables = random_snn(ann, seed=3, leak=0.95)

    @jax.jit
    def run(variables):
        images = jnp.asarray(SPLIT.images[ITEM[:4]] / 127.5 - 1, jnp.float32)
        return model.apply(variables, poisson(images, KEY, ITEM[:4], jnp.arange(STEPS)), mutable=["spikes"])

    logits, seen = run(variables)
    return logits, {layer: np.asarray(exposed["spikes"]) for layer, exposed in seen["spikes"].items()}


@pytest.mark.parametrize("ann", [SMALL_VGG, SMALL_RESNET], ids=["vgg", "resnet"])
def test_scores_are_those_of_the_logits_and_spikes_at_every_step(ann):
    evaluate, variables = evaluation(ann, STEPS, chunk=4)
    scores = mean(evaluate(variables, SPLIT, ITEM, KEY))
    logits, spikes = plain_run(ann)
    labels = SPLIT.labels[ITEM[:4]]
    np.testing.assert_allclose(scores.accuracy, (logits.argmax(-1) == labels).mean(-1))
    losses = -jax.nn.log_softmax(logits)[:, np.arange(4), labels]
    np.testing.assert_allclose(scores.loss, losses.mean(-1), rtol=1e-4)
    for layer in ann.spiking_layers:
        expected = spikes[layer].reshape(STEPS, -1).mean(-1)
        np.testing.assert_allclose(scores.spikes[layer], expected, rtol=1e-5)
    assert scores.count == 4


def test_the_chunk_does_not_change_the_scores():
    (one, variables), (other, _) = (evaluation(SMALL_VGG, STEPS, chunk) for chunk in (1, 4))
    chex.assert_trees_all_close(one(variables, SPLIT, ITEM, KEY), other(variables, SPLIT, ITEM, KEY), rtol=1e-5)


def test_logit_scales_change_the_loss_and_no_decision():
    evaluate, variables = evaluation(SMALL_VGG, STEPS, chunk=4)
    expected = mean(evaluate(variables, SPLIT, ITEM, KEY))
    model, _ = random_snn(SMALL_VGG, seed=3, leak=0.95)
    sweep = factor_sweep(Presentation(model, poisson, STEPS, 4), SOURCE, (1.0,), (1.0, 0.25))
    scores = mean(jax.jit(sweep)(variables, SPLIT, ITEM, KEY))
    np.testing.assert_allclose(scores.accuracy[0], expected.accuracy)
    logits, _ = plain_run(SMALL_VGG)
    labels = SPLIT.labels[ITEM[:4]]
    losses = [-jax.nn.log_softmax(s * logits)[:, np.arange(4), labels].mean(-1) for s in (1.0, 0.25)]
    np.testing.assert_allclose(scores.loss[0].T, losses, rtol=1e-4)


@pytest.mark.usefixtures("optimized")
def test_memory_does_not_grow_with_the_number_of_steps():
    def temporaries(num_steps):
        evaluate, variables = evaluation(NET, num_steps, chunk=10)
        return evaluate.lower(variables, SPLIT, ITEM, KEY).compile().memory_analysis().temp_size_in_bytes

    short, long = temporaries(100), temporaries(2500)
    per_step = (long - short) / 2400
    assert short > 100_000
    assert per_step <= 16 * (2 + len(NET.spiking_layers))  # a few scores for each step, whatever the batch
