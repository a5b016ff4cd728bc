"""Evaluation on some devices equals that on one, by any batch size that they divide, and of logits of any dtype."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn.conversion.scaling import scale_thresholds
from jsnn.data.sources import array_source
from jsnn.encoding import poisson
from jsnn.network.simulation import Presentation
from jsnn.training.evaluation import ann_evaluation, factor_sweep, mean, snn_evaluation
from jsnn.training.parallel import (
    check_batch_size,
    evaluate_split,
    fitting_batch_size,
    parallel_evaluation,
    parallel_train_step,
    replicate,
    split_over_devices,
)
from jsnn.training.step import init_state, train_step
from tests.networks import TINY_VGG, random_snn
from tests.training.tiny_split import KEY, SOURCE, SPLIT, STEPS, ann, snn


@cache
def evaluations():
    """An evaluation of all samples of a batch, on one device and on all."""
    present = snn_evaluation(Presentation(random_snn(TINY_VGG, seed=6, leak=0.95)[0], poisson, STEPS, 4), SOURCE)
    return jax.jit(present), parallel_evaluation(present)


@pytest.mark.parametrize("batch_size", [4, 8, 24])
def test_evaluation_does_not_depend_on_the_batch(batch_size):
    """21 samples over 4 devices: padding counts nowhere."""
    (present, parallel), (variables, _) = evaluations(), snn()
    at_once = jax.device_get(mean(present(variables, SPLIT, np.arange(21, dtype=np.int32), KEY)))
    parts = evaluate_split(parallel, variables, SOURCE, batch_size, KEY)
    chex.assert_trees_all_close(parts, at_once, rtol=1e-5)
    assert parts.count == 21
    assert parts.accuracy.shape == parts.loss.shape == (STEPS,)
    assert set(parts.spikes) == set(TINY_VGG.spiking_layers)


def test_two_devices_of_four_give_the_same():
    variables, forward = ann()
    two, evaluate = jax.devices()[:2], ann_evaluation(TINY_VGG.apply, SOURCE)
    parts = evaluate_split(parallel_evaluation(evaluate, two), variables, SOURCE, 6, KEY, devices=two)
    chex.assert_trees_all_close(parts, evaluate_split(parallel_evaluation(evaluate), variables, SOURCE, 8, KEY))
    item = np.arange(6, dtype=np.int32)
    placed, resident = replicate((init_state(variables, optax.sgd(0.1)), SPLIT), two)
    step = parallel_train_step(SOURCE, forward, optax.sgd(0.1), devices=two)
    after, metrics = step(placed, resident, split_over_devices(item, two), KEY)
    single, start = jax.jit(train_step(SOURCE, forward, optax.sgd(0.1))), init_state(variables, optax.sgd(0.1))
    alone, expected = single(start, SPLIT, item, KEY)
    chex.assert_trees_all_close(jax.device_get((after.params, metrics)), (alone.params, expected), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="equally many of each process, got 0 of 0 here"):
        split_over_devices(item, [])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=str)
def test_images_are_counted_alike_whatever_the_dtype_of_logits(dtype):
    """Four by four, a sum in bfloat16 would end at 1024."""
    source = array_source(np.ones((1200, 1), np.float32), np.zeros(1200, np.int32))
    certain = ann_evaluation(lambda _, x: jnp.concatenate([x, 0 * x], 1).astype(dtype), source)
    scores = evaluate_split(parallel_evaluation(certain), {}, source, 4, KEY)
    assert scores.accuracy[-1] == 1
    assert scores.loss[-1] == pytest.approx(np.log1p(np.exp(-1)), rel=1e-5)


def test_ann_evaluation_counts_by_hand():
    variables, _ = ann()
    scores = evaluate_split(
        parallel_evaluation(ann_evaluation(TINY_VGG.apply, SOURCE)), variables, SOURCE, batch_size=8, key=KEY
    )
    logits = jax.jit(TINY_VGG.apply)(variables, jnp.asarray(SPLIT.images / 127.5 - 1, jnp.float32))
    assert scores.accuracy[-1] == pytest.approx((np.argmax(logits, -1) == SPLIT.labels).mean())
    probabilities = jax.nn.softmax(logits)[np.arange(21), SPLIT.labels]
    assert scores.loss[-1] == pytest.approx(-np.log(probabilities).mean(), rel=1e-4)


def test_a_sweep_equals_one_evaluation_per_factor():
    network, variables = random_snn(TINY_VGG, seed=6, leak=0.95)
    sweep = factor_sweep(Presentation(network, poisson, STEPS, 4), SOURCE, (0.5, 1.0), (0.25, 1.0))
    swept = evaluate_split(parallel_evaluation(sweep), variables, SOURCE, 8, KEY)
    _, single = evaluations()
    for i, factor in enumerate((0.5, 1.0)):
        alone = evaluate_split(single, scale_thresholds(variables, factor), SOURCE, 8, KEY)
        chex.assert_trees_all_close(swept.accuracy[i], alone.accuracy)
        chex.assert_trees_all_close(swept.loss[i, :, 1], alone.loss, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [0, 6, 9])
def test_batches_that_do_not_divide_by_the_devices_are_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size {batch_size} can't be split evenly over 4 devices"):
        check_batch_size(batch_size, "batch_size")


@pytest.mark.parametrize(
    ("num_examples", "most", "expected"),
    [(143, 10**6, 144), (143, 256, 144), (143, 64, 64), (4, 8, 4), (1, 8, 4), (100, 10, 8), (100, 2, 4)],
)
def test_a_batch_is_no_larger_than_the_split(num_examples, most, expected):
    """On four devices."""
    assert fitting_batch_size(most, num_examples) == expected
