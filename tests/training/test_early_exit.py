"""Early exit against a loop over samples and steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jsnn
from jsnn.data.sources import PADDING
from jsnn.encoding import poisson
from jsnn.training.early_exit import Exits, cheapest, exit_evaluation
from jsnn.training.evaluation import mean
from tests.networks import TINY_VGG, random_snn
from tests.training.tiny_split import KEY, SOURCE, SPLIT, STEPS

CONFIDENCES = (0.0, 0.35, 0.37, 0.4, 0.45, 0.5, 0.6, 1.0)
SNN, VARIABLES = random_snn(TINY_VGG.clone(stages=(4, "A")), seed=3, leak=0.95)
PRESENTATION = jsnn.Presentation(SNN, poisson, STEPS, 4)


def test_samples_stop_where_a_loop_stops_them():
    images = jnp.asarray(SPLIT.images / 127.5 - 1, jnp.float32)
    inputs, options = partial(poisson, images, KEY, jnp.arange(21)), {"num_steps": STEPS, "chunk": 4}
    totals = jax.jit(lambda: jsnn.simulate(SNN, VARIABLES, inputs, lambda observed: observed.total, **options))()
    hits, steps = np.zeros(len(CONFIDENCES)), np.zeros(len(CONFIDENCES))
    for place, confidence in enumerate(CONFIDENCES):
        for sample in range(21):
            for t in range(1, STEPS + 1):
                logits = np.asarray(totals)[t - 1, sample] / t
                sure = 1 / np.exp(logits - logits.max()).sum()
                if sure > np.float32(confidence) or t == STEPS:
                    decided = logits.max() > logits.min()
                    hits[place] += decided and logits.argmax() == SPLIT.labels[sample]
                    steps[place] += t
                    break
    evaluation = jsnn.parallel_evaluation(exit_evaluation(PRESENTATION, SOURCE, lambda _: 1.0, CONFIDENCES))
    actual = jsnn.evaluate_split(evaluation, VARIABLES, SOURCE, 8, KEY)
    assert actual.count == 21
    np.testing.assert_allclose(actual.accuracy * 21, hits, atol=1e-4)
    np.testing.assert_allclose(actual.steps * 21, steps, atol=1e-4)
    assert actual.steps[0] == 1
    assert actual.steps[-1] == STEPS
    assert len(set(steps)) > 3  # else confidences decide nothing here


def test_at_a_confidence_of_1_the_surest_does_not_stop():
    certain = exit_evaluation(PRESENTATION, SOURCE, lambda _: 1e4, (0.0, 0.999, 1.0))
    exits = mean(jax.jit(certain)(VARIABLES, SOURCE.resident, np.arange(8, dtype=np.int32), KEY))
    assert exits.steps[0] == 1
    assert exits.steps[1] < STEPS
    assert exits.steps[2] == STEPS


def test_padding_does_not_count():
    evaluate = jax.jit(exit_evaluation(PRESENTATION, SOURCE))
    some, padded = np.array([0, 4, 8, 2], np.int32), np.array([0, 4, 8, 2, PADDING, PADDING], np.int32)
    for one, other in zip(*(evaluate(VARIABLES, SOURCE.resident, item, KEY) for item in (some, padded)), strict=True):
        np.testing.assert_allclose(one, other)


def test_the_cheapest_is_the_least_confidence_that_costs_no_more():
    exits = mean(Exits(jnp.array(100.0), jnp.array([50.0, 88, 90, 91, 90.5]), jnp.array([100.0, 120, 150, 300, 400])))
    assert [cheapest(exits, cost) for cost in (1, 0.03, 0.01, 0.0)] == [0, 1, 2, 3]
