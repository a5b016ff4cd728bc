"""A fine-tune starts from the converted network or from scratch, and its loss has the paper's logits calibrated."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import finetune, hybrid
from experiments.runs.networks import presentation_of
from experiments.runs.records import read_results, saved_config
from jsnn.network.bptt import Keys, present
from tests.experiments.commands import PIPELINE, TINY, Killed, run


def test_training_from_scratch_starts_from_other_weights(tiny, tmp_path):
    assert run(PIPELINE, tmp_path, *TINY, "--finetune.start", "scratch", "--from-run", str(tiny)) == 0
    results, converted = read_results(tmp_path), read_results(tiny)
    assert results["ann"]["accuracy"] == converted["ann"]["accuracy"]
    assert results["hybrid"]["accuracy_by_step"] != converted["hybrid"]["accuracy_by_step"]


def test_the_control_from_scratch_has_no_logits_to_calibrate(tiny):
    config = saved_config(tiny)
    scratch = with_finetune(config, start="scratch")
    assert finetune.logit_scale(hybrid.Run(scratch, tiny, None)) == 1.0
    scale = read_results(tiny)["converted"]["logit_scale"]
    assert finetune.logit_scale(hybrid.Run(config, tiny, None)) == scale
    assert finetune.logit_scale(hybrid.Run(with_finetune(config, logit_scale=0.1), tiny, None)) == 0.1


def test_a_fine_tune_has_the_papers_logits_calibrated_in_its_loss(tiny_copy, monkeypatch):
    """Sums over time, in units of the last layer's threshold, times the factor that the conversion found."""
    begun = []

    def begin(*arguments):
        begun.append(arguments)
        raise Killed

    monkeypatch.setattr(finetune, "validator", lambda *_: lambda _: 0.5)
    monkeypatch.setattr(finetune, "train", begin)
    opened = hybrid.Run(saved_config(tiny_copy), tiny_copy, None)
    with pytest.raises(Killed):
        finetune.finetune(opened)
    ((_, training, state),) = begun
    images = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)
    variables, index, key = state.variables(), jnp.arange(8), jax.random.key(0)
    logits = jax.jit(training.forward)(variables, images, index, key)[0].logits
    what = presentation_of(opened.config, opened.config.convert.num_steps)
    outcome = jax.jit(partial(present, what))(variables, images, index, Keys(*jax.random.split(key)))
    unit = variables["neurons"]["dense0"]["threshold"] / read_results(tiny_copy)["converted"]["logit_scale"]
    assert np.abs(logits).max() > 0
    np.testing.assert_allclose(logits, outcome.results.sum(0) / unit, rtol=1e-5)


def with_finetune(config, **fields):
    return dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, **fields))
