"""Scores at every step from one pass, in memory that does not depend on the number of steps."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.conversion import scale_paper_thresholds
from jsnn.data.datasets import Split
from jsnn.data.sources import PADDING, resident_source
from jsnn.encoding import poisson
from jsnn.network.simulation import Presentation, simulate
from jsnn.network.transformation import NEURONS
from jsnn.training.evaluation import ann_evaluation, factor_sweep, mean, snn_evaluation, sum_over_time
from jsnn.training.forward import snn_forward, summed
from jsnn.training.loss import correct
from jsnn.training.optimizers import optimizer
from jsnn.training.step import init_state, train_step
from tests.networks import IMAGE_SHAPE, SMALL_RESNET, SMALL_VGG, TINY_VGG, last_threshold, random_snn

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SPLIT = Split(RNG.integers(0, 256, (9, *IMAGE_SHAPE), np.uint8), RNG.integers(0, 3, 9).astype(np.int32))
SOURCE = resident_source(SPLIT)
ITEM = np.array([0, 4, 8, 2, PADDING, PADDING], np.int32)
STEPS = 11
NET = TINY_VGG.clone(stages=(4, "A"))  # where only the number of steps matters


def paper_unit(ann):
    """The unit of the paper's logits."""
    return lambda variables: 1 / last_threshold(variables, ann)


PAPERS = {ann: paper_unit(ann) for ann in (SMALL_VGG, SMALL_RESNET)}


@cache
def evaluation(ann, num_steps, chunk, unit=sum_over_time):
    snn, variables = random_snn(ann, seed=3, leak=0.95)
    return jax.jit(snn_evaluation(Presentation(snn, poisson, num_steps, chunk), SOURCE, unit)), variables


@cache
def plain_run(ann):
    """Sums of the results and spikes of the samples in ITEM at every step, all steps at once."""
    snn, variables = random_snn(ann, seed=3, leak=0.95)
    images = jnp.asarray(SPLIT.images[ITEM[:4]] / 127.5 - 1, jnp.float32)

    @jax.jit
    def run(variables):
        return simulate(
            snn,
            variables,
            lambda time: poisson(images, KEY, ITEM[:4], time),
            lambda observed: (observed.results.cumsum(0), observed.layers["spikes"]),
            num_steps=STEPS,
            chunk=STEPS,
            collect=("spikes",),
        )

    return jax.device_get(run(variables))


def loss_at_every_step(logits):
    return -jax.nn.log_softmax(logits)[:, np.arange(4), SPLIT.labels[ITEM[:4]]].mean(-1)


@pytest.mark.parametrize("ann", [SMALL_VGG, SMALL_RESNET], ids=["vgg", "resnet"])
def test_scores_are_those_of_the_logits_and_spikes_at_every_step(ann):
    evaluate, variables = evaluation(ann, STEPS, chunk=4, unit=PAPERS[ann])
    scores = mean(evaluate(variables, SPLIT, ITEM, KEY))
    sums, spikes = plain_run(ann)
    logits = sums / last_threshold(variables, ann)
    np.testing.assert_allclose(scores.accuracy, (logits.argmax(-1) == SPLIT.labels[ITEM[:4]]).mean(-1))
    np.testing.assert_allclose(scores.loss, loss_at_every_step(logits), rtol=1e-4)
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
    snn, _ = random_snn(SMALL_VGG, seed=3, leak=0.95)
    sweep = factor_sweep(Presentation(snn, poisson, STEPS, 4), SOURCE, (1.0,), (1.0, 0.25))
    scores = mean(jax.jit(sweep)(variables, SPLIT, ITEM, KEY))
    np.testing.assert_allclose(scores.accuracy[0], expected.accuracy)
    np.testing.assert_allclose(scores.loss[0, :, 0], expected.loss, rtol=1e-5)
    sums, _ = plain_run(SMALL_VGG)
    losses = [loss_at_every_step(scale * sums) for scale in (1.0, 0.25)]
    np.testing.assert_allclose(scores.loss[0].T, losses, rtol=1e-4)


def test_a_sweep_of_the_paper_s_factors_has_the_logits_in_the_unit_of_each():
    evaluate, variables = evaluation(SMALL_VGG, STEPS, chunk=4, unit=PAPERS[SMALL_VGG])
    snn, _ = random_snn(SMALL_VGG, seed=3, leak=0.95)
    factors, presentation = (1.0, 0.8), Presentation(snn, poisson, STEPS, 4)

    def scaled(variables, factor):
        return scale_paper_thresholds(variables, factor, SMALL_VGG.spiking_layers)

    sweep = factor_sweep(presentation, SOURCE, factors, (1.0,), scaled, PAPERS[SMALL_VGG])
    scores = jax.jit(sweep)(variables, SPLIT, ITEM, KEY)
    for i, factor in enumerate(factors):
        alone = evaluate(scaled(variables, factor), SPLIT, ITEM, KEY)
        np.testing.assert_allclose(scores.loss[i, :, 0], alone.loss, rtol=1e-5)
        np.testing.assert_array_equal(scores.accuracy[i], alone.accuracy)
    assert not np.allclose(scores.loss[0], scores.loss[1], rtol=0.01)


@pytest.mark.usefixtures("optimized")
def test_memory_does_not_grow_with_the_number_of_steps():
    def temporaries(num_steps):
        evaluate, variables = evaluation(NET, num_steps, chunk=10)
        return evaluate.lower(variables, SPLIT, ITEM, KEY).compile().memory_analysis().temp_size_in_bytes

    short, long = temporaries(100), temporaries(2500)
    per_step = (long - short) / 2400
    assert short > 100_000
    assert per_step <= 16 * (2 + len(NET.spiking_layers))  # a few scores for each step, whatever the batch


@pytest.mark.parametrize("shape", [(6,), (3, 6)])
def test_only_a_largest_logit_is_a_decision(shape):
    labels = jnp.zeros(shape[-1], jnp.int32)
    undecided = jnp.broadcast_to(jnp.array([0.0, 2.0, -3.0, 1e9, -0.0, 7.5])[:, None], (*shape, 4))
    assert not correct(undecided, labels).any()
    assert correct(undecided.at[..., 0].add(jnp.abs(undecided[..., 0]) + 1), labels).all()
    assert not correct(undecided.at[..., 1].add(jnp.abs(undecided[..., 1]) + 1), labels).any()


def dead():
    """A network whose thresholds no current reaches, with images of class 0."""
    snn, variables = random_snn(TINY_VGG, seed=0, leak=1.0)
    for values in variables[NEURONS].values():
        values["threshold"] = jnp.full_like(values["threshold"], 1e9)
    images = np.full((8, *IMAGE_SHAPE), 200, np.uint8)
    return Presentation(snn, poisson, 3, 3), variables, resident_source(Split(images, np.zeros(8, np.int32)))


def test_a_dead_network_classifies_nothing():
    presentation, variables, source = dead()
    evaluate = jax.jit(snn_evaluation(presentation, source))
    scores = mean(evaluate(variables, source.resident, jnp.arange(8), jax.random.key(0)))
    assert not np.asarray(scores.accuracy).any()
    np.testing.assert_allclose(scores.loss, np.log(3), rtol=1e-6)
    rule = optimizer("adam", lambda _: 1e-3, 0.0)
    step = jax.jit(train_step(source, snn_forward(presentation, summed), rule))
    _, metrics = step(init_state(variables, rule), source.resident, jnp.arange(8), jax.random.key(0))
    assert float(metrics.scores["accuracy"]) == 0
    nothing = {"params": jax.tree.map(jnp.zeros_like, variables["params"])}
    of_ann = ann_evaluation(TINY_VGG.apply, source)(nothing, source.resident, jnp.arange(8), jax.random.key(0))
    assert float(of_ann.accuracy[0]) == 0
