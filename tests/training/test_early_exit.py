"""Early exit against a loop over samples and steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.data.datasets import Split
from jsnn.data.sources import PADDING, resident_source
from jsnn.encoding import poisson
from jsnn.network.simulation import Presentation, simulate
from jsnn.training.early_exit import Exits, cheapest, exit_evaluation
from jsnn.training.evaluation import mean
from jsnn.training.parallel import evaluate_split, parallel_evaluation
from tests.networks import IMAGE_SHAPE, TINY_VGG, random_snn

RNG = np.random.default_rng(0)
SPLIT = Split(RNG.integers(0, 256, (14, *IMAGE_SHAPE), np.uint8), RNG.integers(0, 3, 14).astype(np.int32))
SOURCE, KEY, STEPS = resident_source(SPLIT), jax.random.key(1), 6
CONFIDENCES = (0.0, 0.35, 0.37, 0.4, 0.45, 0.5, 0.6, 1.0)


def test_samples_stop_where_a_loop_stops_them():
    snn, variables = random_snn(TINY_VGG.clone(stages=(4, "A")), seed=3, leak=0.95)
    presentation = Presentation(snn, poisson, STEPS, 4)
    images = jnp.asarray(SPLIT.images / 127.5 - 1, jnp.float32)
    encode = lambda time: poisson(images, KEY, jnp.arange(14), time)  # noqa: E731
    run = partial(simulate, snn, variables, encode, lambda observed: observed.total, num_steps=STEPS, chunk=4)
    totals = jax.jit(run)()
    hits, steps = np.zeros(len(CONFIDENCES)), np.zeros(len(CONFIDENCES))
    for place, confidence in enumerate(CONFIDENCES):
        for sample in range(14):
            for t in range(1, STEPS + 1):
                logits = np.asarray(totals)[t - 1, sample] / t
                sure = 1 / np.exp(logits - logits.max()).sum()
                if sure > np.float32(confidence) or t == STEPS:
                    decided = logits.max() > logits.min()
                    hits[place] += decided and logits.argmax() == SPLIT.labels[sample]
                    steps[place] += t
                    break
    actual = evaluate_split(
        parallel_evaluation(exit_evaluation(presentation, SOURCE, lambda _: 1.0, CONFIDENCES)),
        variables,
        SOURCE,
        8,
        KEY,
        sums_of=Exits,
    )
    assert actual.count == 14
    np.testing.assert_allclose(actual.accuracy * 14, hits, atol=1e-4)
    np.testing.assert_allclose(actual.steps * 14, steps, atol=1e-4)
    assert actual.steps[0] == 1
    assert actual.steps[-1] == STEPS
    assert len(set(steps)) > 3  # else confidences decide nothing here


def test_at_a_confidence_of_1_the_surest_does_not_stop():
    snn, variables = random_snn(TINY_VGG.clone(stages=(4, "A")), seed=3, leak=0.95)
    certain = exit_evaluation(Presentation(snn, poisson, STEPS, 4), SOURCE, lambda _: 1e4, (0.0, 0.999, 1.0))
    exits = mean(jax.jit(certain)(variables, SOURCE.resident, np.arange(8, dtype=np.int32), KEY))
    assert exits.steps[0] == 1
    assert exits.steps[1] < STEPS
    assert exits.steps[2] == STEPS


def test_padding_does_not_count():
    snn, variables = random_snn(TINY_VGG.clone(stages=(4, "A")), seed=3, leak=0.95)
    evaluate = jax.jit(exit_evaluation(Presentation(snn, poisson, STEPS, 4), SOURCE))
    some, padded = np.array([0, 4, 8, 2], np.int32), np.array([0, 4, 8, 2, PADDING, PADDING], np.int32)
    for one, other in zip(*(evaluate(variables, SOURCE.resident, item, KEY) for item in (some, padded)), strict=True):
        np.testing.assert_allclose(one, other)


def test_the_cheapest_is_the_least_confidence_that_costs_no_more():
    exits = mean(Exits(jnp.array(100.0), jnp.array([50.0, 88, 90, 91, 90.5]), jnp.array([100.0, 120, 150, 300, 400])))
    assert [cheapest(exits, cost) for cost in (1, 0.03, 0.01, 0.0)] == [0, 1, 2, 3]
