"""Programs that splits share score each of them as if it were alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import with_fields
from experiments.finetune import last_snn
from experiments.runs import compilation
from experiments.runs.networks import ann_function, logit_unit, presentation_of, random_key, stream_keys
from experiments.runs.records import saved_config
from experiments.runs.scoring import score_ann, score_exits
from experiments.runs.splits import evaluated_images, open_source
from experiments.runs.workdir import Run
from experiments.train_ann import trained_ann
from jsnn.data.augment import scale
from jsnn.data.datasets import TEST, TRAIN, VALIDATION
from jsnn.training.early_exit import exit_evaluation
from jsnn.training.evaluation import mean


@pytest.fixture
def run(tiny):
    return Run(saved_config(tiny), tiny, None)


def test_splits_of_several_sizes_share_a_program_and_have_their_own_scores(run):
    config, ann = run.config, trained_ann(run)
    sizes = {split: open_source(config, split).num_examples for split in (VALIDATION, TEST)}
    assert sizes[VALIDATION] < sizes[TEST] == evaluated_images(config)
    assert len(open_source(config, TRAIN).resident.labels) == open_source(config, TRAIN).num_examples
    for split, size in sizes.items():
        images, labels = open_source(config, split).resident
        logits = ann_function(config)(ann, scale(jnp.asarray(images)[:size]))
        expected = (logits.argmax(-1) == jnp.asarray(labels)[:size]).mean()
        assert score_ann(config, ann, split) == pytest.approx(float(expected))
    validation, test = (open_source(config, split).resident for split in sizes)
    chex.assert_trees_all_equal_shapes_and_dtypes(validation, test)  # else the program would be compiled for each


def test_early_exits_are_those_of_the_split_alone(run):
    config, snn, factor = run.config, last_snn(run), 0.7
    presentation, source = presentation_of(config, config.convert.num_steps), open_source(config, VALIDATION)
    evaluate = exit_evaluation(presentation, source, lambda v: presentation.num_steps * factor * logit_unit(config, v))
    index = np.arange(source.num_examples, dtype=np.int32)
    expected = mean(jax.jit(evaluate)(snn, source.resident, index, random_key(config, VALIDATION)))
    actual = score_exits(config, snn, VALIDATION, factor)
    np.testing.assert_allclose(actual.accuracy, expected.accuracy, atol=1e-6)
    np.testing.assert_allclose(actual.steps, expected.steps, atol=1e-6)


def test_less_effort_is_asked_for_once_and_the_users_flags_have_the_last_word(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
    compilation.take_effort("full")
    assert compilation.os.environ["XLA_FLAGS"] == "--xla_backend_optimization_level=3"
    for _ in range(2):
        compilation.take_effort("less")
        assert compilation.os.environ["XLA_FLAGS"] == f"{compilation.LESS_EFFORT} --xla_backend_optimization_level=3"


def test_a_constant_input_has_one_stream_the_first_of_any_number(run):
    """Nets are then scored once, for without noise all streams are the same."""
    keys = stream_keys(run.config, TEST, 5)
    (key,) = stream_keys(with_fields(run.config, {"convert.encoding": "constant"}), TEST, 5)
    assert len({*map(str, map(jax.random.key_data, keys))}) == 5
    chex.assert_trees_all_equal(jax.random.key_data(key), jax.random.key_data(keys[0]))
