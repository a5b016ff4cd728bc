"""Numbers that are not finite stop a run, or its bad steps are skipped and counted."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train_ann
from experiments.runs.records import read_results
from jsnn.training.metrics import read
from tests.experiments.commands import TINY, run


def test_numbers_that_are_not_finite_stop_the_run(tmp_path, capsys):
    assert run(train_ann.train_ann, tmp_path, *TINY, "--ann.lr", "1e30") == 1
    assert capsys.readouterr().err == (
        "error: in step 2 of epoch 1 of ann the loss is nan, the gradient of readout too: lower ann.lr (1e+30), "
        "or skip such steps by --on-nan=skip; what was saved is kept.\n"
    )
    assert read(tmp_path / "metrics.jsonl") == []


def test_a_run_that_only_skips_stops_too(tmp_path, capsys):
    assert run(train_ann.train_ann, tmp_path, *TINY, "--ann.lr", "1e30", "--on-nan", "skip") == 1
    captured = capsys.readouterr()
    assert "error: all 20 steps of epoch 2 of ann were skipped: lower ann.lr" in captured.err
    assert captured.out.count("skipped") == 19 + 20
    assert all(np.isfinite(record["loss"]) for record in read(tmp_path / "metrics.jsonl"))


@pytest.fixture
def sick_sample(monkeypatch):
    """One training image whose logits are NaN, so that one step of an epoch is bad."""
    ann_forward = train_ann.ann_forward

    def sick(apply, noise):
        forward = ann_forward(apply, noise)

        def logits(variables, images, index, key):
            outputs, changed = forward(variables, images, index, key)
            return jnp.where((index == 5)[:, None], jnp.nan, outputs), changed

        return logits

    monkeypatch.setattr(train_ann, "ann_forward", sick)


def test_a_bad_step_can_be_skipped_and_is_counted(sick_sample, tmp_path, capsys):
    assert run(train_ann.train_ann, tmp_path, *TINY) == 1
    assert "the loss is nan" in capsys.readouterr().err
    assert run(train_ann.train_ann, tmp_path, *TINY, "--on-nan", "skip") == 0
    assert read_results(tmp_path)["ann"]["skipped_steps"] == 3
    assert [record["skipped_steps"] for record in read(tmp_path / "metrics.jsonl")] == [1, 1, 1]
    assert all(np.isfinite(record["loss"]) for record in read(tmp_path / "metrics.jsonl"))
    assert capsys.readouterr().out.count("skipped") == 3
