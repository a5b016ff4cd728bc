"""Scores at every step, in memory that does not depend on their number, whatever the batch, chunk, devices or dtype."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsnn
from jsnn import Presentation, ann_evaluation, evaluate_split, parallel_evaluation, simulate, snn_evaluation
from jsnn.conversion import scale_paper_thresholds, scale_thresholds
from jsnn.data import Split, array_source, resident_source
from jsnn.data.sources import PADDING
from jsnn.encoding import poisson
from jsnn.training.evaluation import factor_sweep, mean, sum_over_time
from jsnn.training.loss import correct
from jsnn.training.parallel import fitting_batch_size
from tests.networks import IMAGE_SHAPE, SMALL_RESNET, SMALL_VGG, TINY_VGG, last_threshold, random_snn
from tests.training.tiny_split import KEY, RULE, SOURCE, SPLIT, STEPS, ann

ITEM = np.array([0, 4, 8, 2, PADDING, PADDING], np.int32)
NET = TINY_VGG.clone(stages=(4, "A"))  # where only the number of steps matters


@cache
def paper_unit(ann):
    """The unit of the paper's logits."""
    return lambda variables: 1 / last_threshold(variables, ann)


@cache
def evaluation(ann, num_steps=STEPS, chunk=4, unit=sum_over_time):
    snn, variables = random_snn(ann, seed=3, leak=0.95)
    return jax.jit(snn_evaluation(Presentation(snn, poisson, num_steps, chunk), SOURCE, unit)), variables


@cache
def plain_run(ann):
    """Sums of the results and spikes of the samples in ITEM at every step, all steps at once."""
    snn, variables = random_snn(ann, seed=3, leak=0.95)
    images = jnp.asarray(SPLIT.images[ITEM[:4]] / 127.5 - 1, jnp.float32)
    inputs = partial(poisson, images, KEY, ITEM[:4])
    shown = lambda observed: (observed.results.cumsum(0), observed.layers["spikes"])  # noqa: E731
    run = partial(simulate, snn, num_steps=STEPS, chunk=STEPS, collect=("spikes",))
    return jax.device_get(jax.jit(lambda variables: run(variables, inputs, shown))(variables))


def loss_at_every_step(logits):
    return -jax.nn.log_softmax(logits)[:, np.arange(4), SPLIT.labels[ITEM[:4]]].mean(-1)


@pytest.mark.parametrize("ann", [SMALL_VGG, SMALL_RESNET], ids=["vgg", "resnet"])
def test_scores_are_those_of_the_logits_and_spikes_at_every_step(ann):
    evaluate, variables = evaluation(ann, unit=paper_unit(ann))
    scores = mean(evaluate(variables, SPLIT, ITEM, KEY))
    sums, spikes = plain_run(ann)
    logits = sums / last_threshold(variables, ann)
    np.testing.assert_allclose(scores.accuracy, (logits.argmax(-1) == SPLIT.labels[ITEM[:4]]).mean(-1))
    np.testing.assert_allclose(scores.loss, loss_at_every_step(logits), rtol=1e-4)
    for layer in ann.spiking_layers:
        expected = spikes[layer].reshape(STEPS, -1).mean(-1)
        np.testing.assert_allclose(scores.spikes[layer], expected, rtol=1e-5)
    assert scores.count == 4


SCALED = partial(scale_paper_thresholds, order=SMALL_VGG.spiking_layers), paper_unit(SMALL_VGG)


@pytest.mark.parametrize(("options", "unit"), [((), sum_over_time), (SCALED, SCALED[1])])
def test_a_sweep_equals_one_evaluation_per_factor_and_scales_of_logits_change_no_decision(options, unit):
    evaluate, variables = evaluation(SMALL_VGG, unit=unit)
    presentation = Presentation(random_snn(SMALL_VGG, seed=3, leak=0.95)[0], poisson, STEPS, 4)
    sweep = jax.jit(factor_sweep(presentation, SOURCE, (1.0, 0.5), (1.0, 0.25), *options))
    scores = mean(sweep(variables, SPLIT, ITEM, KEY))
    for i, factor in enumerate((1.0, 0.5)):
        alone = mean(evaluate((options or [scale_thresholds])[0](variables, factor), SPLIT, ITEM, KEY))
        np.testing.assert_array_equal(scores.accuracy[i], alone.accuracy)
        np.testing.assert_allclose(scores.loss[i, :, 0], alone.loss, rtol=1e-5)
    losses = [loss_at_every_step(scale * unit(variables) * plain_run(SMALL_VGG)[0]) for scale in (1.0, 0.25)]
    np.testing.assert_allclose(scores.loss[0].T, losses, rtol=1e-4)
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


def test_scores_depend_neither_on_the_batch_nor_on_the_chunk():
    """21 samples over 4 devices: padding counts nowhere."""
    (at_once, variables), everything = evaluation(SMALL_VGG, chunk=1), np.arange(21, dtype=np.int32)
    expected = jax.device_get(mean(at_once(variables, SPLIT, everything, KEY)))
    evaluate = parallel_evaluation(evaluation(SMALL_VGG)[0])
    for batch_size in (4, 8, 24):
        scores = evaluate_split(evaluate, variables, SOURCE, batch_size, KEY)
        chex.assert_trees_all_close(scores, expected, rtol=1e-5)
    assert scores.count == 21
    assert scores.accuracy.shape == scores.loss.shape == (STEPS,)
    assert set(scores.spikes) == set(SMALL_VGG.spiking_layers)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=str)
def test_images_are_counted_alike_whatever_the_dtype_of_logits(dtype):
    """Four by four, a sum in bfloat16 would end at 1024."""
    source = array_source(np.ones((1200, 1), np.float32), np.zeros(1200, np.int32))
    certain = ann_evaluation(lambda _, x: jnp.concatenate([x, 0 * x], 1).astype(dtype), source)
    scores = evaluate_split(parallel_evaluation(certain), {}, source, 4, KEY)
    assert scores.accuracy[-1] == 1
    assert scores.loss[-1] == pytest.approx(np.log1p(np.exp(-1)), rel=1e-5)


def test_ann_evaluation_counts_by_hand_and_on_two_devices_of_four():
    (variables, _), evaluate, two = ann(), ann_evaluation(TINY_VGG.apply, SOURCE), jax.devices()[:2]
    scores = evaluate_split(parallel_evaluation(evaluate), variables, SOURCE, batch_size=8, key=KEY)
    logits = jax.jit(TINY_VGG.apply)(variables, jnp.asarray(SPLIT.images / 127.5 - 1, jnp.float32))
    assert scores.accuracy[-1] == pytest.approx((np.argmax(logits, -1) == SPLIT.labels).mean())
    probabilities = jax.nn.softmax(logits)[np.arange(21), SPLIT.labels]
    assert scores.loss[-1] == pytest.approx(-np.log(probabilities).mean(), rel=1e-4)
    of_two = evaluate_split(parallel_evaluation(evaluate, two), variables, SOURCE, 6, KEY, devices=two)
    chex.assert_trees_all_close(of_two, scores)


@pytest.mark.parametrize("shape", [(6,), (3, 6)])
def test_only_a_largest_logit_is_a_decision(shape):
    labels = jnp.zeros(shape[-1], jnp.int32)
    undecided = jnp.broadcast_to(jnp.array([0.0, 2.0, -3.0, 1e9, -0.0, 7.5])[:, None], (*shape, 4))
    assert not correct(undecided, labels).any()
    assert correct(undecided.at[..., 0].add(jnp.abs(undecided[..., 0]) + 1), labels).all()
    assert not correct(undecided.at[..., 1].add(jnp.abs(undecided[..., 1]) + 1), labels).any()


def test_a_dead_network_classifies_nothing():
    """A network whose thresholds no current reaches, with images of class 0."""
    snn, variables = random_snn(TINY_VGG, seed=0, leak=1.0)
    for values in variables["neurons"].values():
        values["threshold"] = jnp.full_like(values["threshold"], 1e9)
    source = resident_source(Split(np.full((8, *IMAGE_SHAPE), 200, np.uint8), np.zeros(8, np.int32)))
    presentation, sample = Presentation(snn, poisson, 3, 3), (source.resident, jnp.arange(8), KEY)
    scores = mean(jax.jit(snn_evaluation(presentation, source))(variables, *sample))
    assert not np.asarray(scores.accuracy).any()
    np.testing.assert_allclose(scores.loss, np.log(3), rtol=1e-6)
    step = jax.jit(jsnn.train_step(source, jsnn.snn_forward(presentation, jsnn.summed), RULE))
    assert float(step(jsnn.init_state(variables, RULE), *sample)[1].scores["accuracy"]) == 0
    nothing = {"params": jax.tree.map(jnp.zeros_like, variables["params"])}
    assert float(ann_evaluation(TINY_VGG.apply, source)(nothing, *sample).accuracy[0]) == 0


@pytest.mark.parametrize(
    ("num_examples", "most", "expected"),
    [(143, 10**6, 144), (143, 256, 144), (143, 64, 64), (4, 8, 4), (1, 8, 4), (100, 10, 8), (100, 2, 4)],
)
def test_a_batch_is_no_larger_than_the_split(num_examples, most, expected):
    """On four devices."""
    assert fitting_batch_size(most, num_examples) == expected
