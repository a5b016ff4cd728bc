"""Numbers that are not finite, layers that are silent, and a fine-tune that loses accuracy: a run says what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import evaluate, finetune, train_ann
from experiments.config import with_fields
from experiments.fields import AUTO
from experiments.hybrid import hybrid
from experiments.networks import random_key, stream_keys
from experiments.runs.workdir import read_results, write_record
from experiments.scoring import images_for_choices, images_for_comparison
from jsnn.training.evaluation import Evaluation
from tests.experiments.commands import TINY, metrics, opened, run, undone


def test_numbers_that_are_not_finite_stop_the_run_and_nothing_but_skipping_does_too(tmp_path, capsys):
    assert run(train_ann.train_ann, tmp_path, *TINY, "--ann.lr", "1e30") == 1
    assert capsys.readouterr().err == (
        "error: in step 2 of epoch 1 of ann the loss is nan, the gradient of readout too: lower ann.lr (1e+30), "
        "or skip such steps by --on-nan=skip; what was saved is kept.\n"
    )
    assert metrics(tmp_path) == []
    assert run(train_ann.train_ann, tmp_path, *TINY, "--ann.lr", "1e30", "--on-nan", "skip") == 1
    captured = capsys.readouterr()
    assert "error: all 20 steps of epoch 2 of ann were skipped: lower ann.lr" in captured.err
    assert captured.out.count("skipped") == 19 + 20
    assert all(np.isfinite(record["loss"]) for record in metrics(tmp_path))


def test_a_bad_step_can_be_skipped_and_is_counted(monkeypatch, tmp_path, capsys):
    """One training image's logits are NaN, so that one step of each epoch is bad."""
    ann_forward = train_ann.ann_forward

    def sick(apply, noise):
        forward = ann_forward(apply, noise)

        def logits(variables, images, index, key):
            outputs, changed = forward(variables, images, index, key)
            return jnp.where((index == 5)[:, None], jnp.nan, outputs), changed

        return logits

    monkeypatch.setattr(train_ann, "ann_forward", sick)
    monkeypatch.setattr(train_ann, "_step", train_ann._step.__wrapped__)
    assert run(train_ann.train_ann, tmp_path, *TINY) == 1
    assert "the loss is nan" in capsys.readouterr().err
    assert run(train_ann.train_ann, tmp_path, *TINY, "--on-nan", "skip") == 0
    assert read_results(tmp_path)["ann"]["skipped_steps"] == 3
    assert [record["skipped_steps"] for record in metrics(tmp_path)] == [1, 1, 1]
    assert all(np.isfinite(record["loss"]) for record in metrics(tmp_path))
    assert capsys.readouterr().out.count("skipped") == 3


@pytest.mark.slow
def test_a_run_whose_layers_fall_silent_says_so(tiny, tmp_path, capsys):
    fields = ["--scaling-factor", "50", "--finetune.epochs", "1", "--from-run", str(tiny)]
    assert run(hybrid, tmp_path, *TINY, *fields) == 0
    output, results = capsys.readouterr().out, read_results(tmp_path)
    for network in ("converted", "fine-tuned"):
        assert f"warning: the {network} net is dead: no neuron of conv0, conv1, conv2, dense0 spikes for any" in output
    assert results["converted"]["accuracy"] == results["hybrid"]["accuracy"] == 0


def worse(workdir, monkeypatch, compared, **fields):
    """A converted run whose nets, converted and fine-tuned, have these accuracies where it counts, others before."""
    record = undone(workdir, "finetune", "evaluate")
    config = with_fields(record.config, {f"finetune.{name}": value for name, value in fields.items()})
    write_record(workdir, record.model_copy(update={"config": config}))
    validated, of_streams = iter([0.05, 1.0, 1.0]), iter(np.repeat(compared, config.finetune.comparison_streams))
    monkeypatch.setattr(finetune, "validator", lambda *_: lambda _: next(validated))
    scores = Evaluation(36, None, np.zeros(1), {"conv0": np.ones(1)})
    monkeypatch.setattr(finetune, "score_snn", lambda *_: scores._replace(accuracy=np.array([next(of_streams)])))


def test_a_fine_tune_that_loses_accuracy_hands_back_the_converted_net(tiny_copy, monkeypatch, capsys):
    worse(tiny_copy, monkeypatch, compared=(0.5, 0.25), comparison_streams=2, epochs=2, lr=2e-3)
    (tiny_copy / "hybrid").rename(tiny_copy / "old")
    assert run(finetune.finetune, tiny_copy) == 0
    tuned = read_results(tiny_copy)["hybrid"]
    assert tuned["kept"] == "converted"
    assert tuned["comparison"] == {"converted": 0.5, "fine-tuned": 0.25}
    sentence = "fine-tuning ended at 25.00% on validation images and noise that chose nothing, below the 50.00% of the"
    assert tuned["warning"].startswith(sentence)
    assert "lower finetune.lr (0.002), or take the linear surrogate" in tuned["warning"]
    assert capsys.readouterr().out.count(tuned["warning"]) == 1
    assert run(evaluate.evaluate, tiny_copy) == 0
    results = read_results(tiny_copy)
    assert results["hybrid"]["accuracy_by_step"] == results["converted"]["accuracy_by_step"]
    assert results["spikes_per_neuron"]["hybrid"] == results["spikes_per_neuron"]["converted"]
    assert "converted net kept" in capsys.readouterr().out


def test_a_fine_tune_that_was_to_save_spikes_is_kept(tiny_copy, monkeypatch):
    worse(tiny_copy, monkeypatch, compared=(0.5, 0.25), rate_penalty=0.1)
    assert "kept" not in finetune._kept(opened(tiny_copy))


def test_the_comparison_is_on_images_and_noise_that_chose_nothing(tiny, monkeypatch):
    """Both nets, five streams each, on the second half of the validation images, whose first half chose the factor."""
    asked, scored, run = [], finetune.score_snn, opened(tiny)

    def watched(config, variables, num_steps, split, key, images):
        asked.append((num_steps, split, images, str(jax.random.key_data(key))))
        return scored(config, variables, num_steps, split, key, images)

    monkeypatch.setattr(finetune, "score_snn", watched)
    kept = finetune._kept(run)
    assert [each[:3] for each in asked] == [(4, "validation", range(71, 143))] * 10
    assert images_for_choices(run.config) == range(71)
    streams = [each[3] for each in asked]
    assert streams[:5] == streams[5:]
    others = [*stream_keys(run.config, "test", 5), random_key(run.config, "validation")]
    assert len({*streams, *(str(jax.random.key_data(key)) for key in others)}) == 5 + 6
    assert kept["comparison"] == read_results(tiny)["hybrid"]["comparison"]


def test_nets_are_compared_on_all_images_where_none_chose_anything(tiny):
    config = opened(tiny).config
    for factor, logit_scale, first in ((AUTO, AUTO, 71), (1.0, AUTO, 71), (AUTO, 1.0, 71), (1.0, 1.0, 0)):
        fields = {"convert.scaling_factor": factor, "finetune.logit_scale": logit_scale}
        assert images_for_comparison(with_fields(config, fields)) == range(first, 143)
