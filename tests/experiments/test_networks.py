"""Networks of a run: scored by programs that splits share, started from the converted net or from scratch."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import finetune
from experiments.config import with_fields
from experiments.finetune import last_snn
from experiments.machine import this_machine
from experiments.networks import ann_function, logit_unit, presentation_of, random_key, stream_keys
from experiments.runs.data import evaluated_images, open_source
from experiments.runs.workdir import read_results
from experiments.scoring import score_ann, score_exits
from experiments.train_ann import trained_ann
from jsnn.data.augment import scale
from jsnn.data.datasets import TEST, TRAIN, VALIDATION
from jsnn.network.bptt import Keys, present
from jsnn.training.early_exit import exit_evaluation
from jsnn.training.evaluation import mean
from tests.experiments.commands import PIPELINE, TINY, Killed, opened, run


def test_splits_of_several_sizes_share_a_program_and_have_their_own_scores(tiny):
    config, ann = opened(tiny).config, trained_ann(opened(tiny))
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


def test_early_exits_are_those_of_the_split_alone(tiny):
    config, snn, factor = opened(tiny).config, last_snn(opened(tiny)), 0.7
    presentation, source = presentation_of(config, config.convert.num_steps), open_source(config, VALIDATION)
    evaluate = exit_evaluation(presentation, source, lambda v: presentation.num_steps * factor * logit_unit(config, v))
    index = np.arange(source.num_examples, dtype=np.int32)
    expected = mean(jax.jit(evaluate)(snn, source.resident, index, random_key(config, VALIDATION)))
    actual = score_exits(config, snn, VALIDATION, factor)
    np.testing.assert_allclose(actual.accuracy, expected.accuracy, atol=1e-6)
    np.testing.assert_allclose(actual.steps, expected.steps, atol=1e-6)


def test_a_constant_input_has_one_stream_the_first_of_any_number(tiny):
    """Nets are then scored once, for without noise all streams are the same."""
    config = opened(tiny).config
    keys = stream_keys(config, TEST, 5)
    (key,) = stream_keys(with_fields(config, {"convert.encoding": "constant"}), TEST, 5)
    assert len({*map(str, map(jax.random.key_data, keys))}) == 5
    chex.assert_trees_all_equal(jax.random.key_data(key), jax.random.key_data(keys[0]))


def test_training_from_scratch_starts_from_other_weights(tiny, tmp_path):
    assert run(PIPELINE, tmp_path, *TINY, "--finetune.start", "scratch", "--from-run", str(tiny)) == 0
    results, converted = read_results(tmp_path), read_results(tiny)
    assert results["ann"]["accuracy"] == converted["ann"]["accuracy"]
    assert results["hybrid"]["accuracy_by_step"] != converted["hybrid"]["accuracy_by_step"]


def test_the_control_from_scratch_has_no_logits_to_calibrate(tiny):
    run, scale = opened(tiny), read_results(tiny)["converted"]["logit_scale"]
    for fields, expected in (({}, scale), ({"start": "scratch"}, 1.0), ({"logit_scale": 0.1}, 0.1)):
        config = with_fields(run.config, {f"finetune.{name}": value for name, value in fields.items()})
        assert finetune.logit_scale(run._replace(config=config)) == expected


def test_a_fine_tune_has_the_papers_logits_calibrated_in_its_loss(tiny_copy, monkeypatch):
    """Sums over time, in units of the last layer's threshold, times the factor that the conversion found."""
    begun, run = [], opened(tiny_copy)

    def begin(*arguments):
        begun.append(arguments)
        raise Killed

    monkeypatch.setattr(finetune, "validator", lambda *_: lambda _: 0.5)
    monkeypatch.setattr(finetune, "train", begin)
    with pytest.raises(Killed):
        finetune.finetune(run)
    ((_, _, state),) = begun
    forward = finetune.forward_of(run.config, finetune.logit_scale(run), this_machine())
    images = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)
    variables, index, key = state.variables(), jnp.arange(8), jax.random.key(0)
    logits = jax.jit(forward)(variables, images, index, key)[0].logits
    what = presentation_of(run.config, run.config.convert.num_steps)
    outcome = jax.jit(partial(present, what))(variables, images, index, Keys(*jax.random.split(key)))
    unit = variables["neurons"]["dense0"]["threshold"] / read_results(tiny_copy)["converted"]["logit_scale"]
    assert np.abs(logits).max() > 0
    np.testing.assert_allclose(logits, outcome.results.sum(0) / unit, rtol=1e-5)
