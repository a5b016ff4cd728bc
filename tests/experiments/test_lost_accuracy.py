"""A fine-tune that loses accuracy warns, and hands back the converted net where a fair comparison prefers it."""

import json

import jax
import numpy as np
import pytest

from experiments import evaluate, finetune
from experiments.config import with_fields
from experiments.fields import AUTO
from experiments.runs.networks import random_key, stream_keys
from experiments.runs.records import read_results, saved_config
from experiments.runs.scoring import images_for_choices, images_for_comparison
from experiments.runs.workdir import open_run
from jsnn.folding import fold
from jsnn.training.evaluation import Evaluation
from jsnn.training.files import remove_folder
from tests.experiments.commands import run, undone


def worse(workdir, monkeypatch, accuracies, compared=(0.5, 0.5), **fields):
    """A run that is converted, whose fine-tune will have these validation accuracies before and after its epochs.

    Compared on other images, the converted and the fine-tuned net have two more. Fields of the fine-tune may differ.
    """
    undone(workdir, "evaluate")
    undone(workdir, "finetune")
    remove_folder(workdir / "hybrid")
    content = json.loads((workdir / "config.json").read_text())
    content["finetune"] |= {"epochs": len(accuracies) - 1, **fields}
    (workdir / "config.json").write_text(json.dumps(content))
    streams = content["finetune"]["comparison_streams"]
    following, of_streams = iter(accuracies), iter([compared[0]] * streams + [compared[1]] * streams)
    monkeypatch.setattr(finetune, "validator", lambda config, evaluate: lambda variables: next(following))

    def scored(*_, **options):
        return Evaluation(36, np.array([next(of_streams)]), np.zeros(1), {"conv0": np.ones(1)})

    monkeypatch.setattr(finetune, "score_snn", scored)


def test_a_diverging_fine_tune_is_warned_about_while_it_runs(tiny_copy, monkeypatch, capsys):
    worse(tiny_copy, monkeypatch, [0.5, 0.05, 0.05, 0.05, 0.05, 1.0])
    assert run(finetune.finetune, tiny_copy) == 0
    warning = "warning: for 3 epochs up to epoch 3 the validation accuracy of the fine-tuned net was below"
    assert capsys.readouterr().out.count(warning) == 1
    assert read_results(tiny_copy)["hybrid"]["kept"] == "fine-tuned"


def test_a_fine_tune_that_loses_accuracy_hands_back_the_converted_net(tiny_copy, monkeypatch, capsys):
    # the epochs' own noise decides nothing
    worse(tiny_copy, monkeypatch, [0.05, 1.0, 1.0], compared=(0.5, 0.25), comparison_streams=2)
    assert run(finetune.finetune, tiny_copy) == 0
    hybrid = read_results(tiny_copy)["hybrid"]
    assert hybrid["kept"] == "converted"
    assert hybrid["comparison"] == {"converted": 0.5, "fine-tuned": 0.25}
    sentence = "fine-tuning ended at 25.00% on validation images and noise that chose nothing, below the 50.00% of the"
    assert hybrid["warning"].startswith(sentence)
    assert "lower finetune.lr (0.001), or take the linear surrogate" in hybrid["warning"]
    assert capsys.readouterr().out.count(hybrid["warning"]) == 1
    assert run(evaluate.evaluate, tiny_copy) == 0
    results = read_results(tiny_copy)
    assert results["hybrid"]["accuracy_by_step"] == results["converted"]["accuracy_by_step"]
    assert results["spikes_per_neuron"]["hybrid"] == results["spikes_per_neuron"]["converted"]
    assert "converted net kept" in capsys.readouterr().out


def test_a_fine_tune_that_was_to_save_spikes_is_kept(tiny_copy, monkeypatch):
    worse(tiny_copy, monkeypatch, [0.5, 0.5], compared=(0.5, 0.25), rate_penalty=0.1)
    assert run(finetune.finetune, tiny_copy) == 0
    assert read_results(tiny_copy)["hybrid"]["kept"] == "fine-tuned"


def test_the_comparison_is_on_images_and_noise_that_chose_nothing(tiny, monkeypatch):
    """Both nets, five streams each, on the second half of the validation images, whose first half chose the factor."""
    asked, scored = [], finetune.score_snn

    def watched(config, variables, num_steps, split, key, *, images, **options):
        asked.append((num_steps, split, tuple(np.asarray(jax.random.key_data(key))), images))
        return scored(config, variables, num_steps, split, key, images=images, **options)

    monkeypatch.setattr(finetune, "score_snn", watched)
    with open_run(saved_config(tiny), tiny) as opened:
        kept = finetune._kept(opened, fold)
    assert {each[:2] for each in asked} == {(4, "validation")}
    assert [each[3] for each in asked] == [range(71, 143)] * 10
    assert images_for_choices(saved_config(tiny)) == range(71)
    streams = [each[2] for each in asked]
    assert streams[:5] == streams[5:]
    others = stream_keys(saved_config(tiny), "test", 5), [random_key(saved_config(tiny), "validation")]
    chosen_by = {tuple(np.asarray(jax.random.key_data(key))) for keys in others for key in keys}
    assert len({*streams}) == 5
    assert not chosen_by & {*streams}
    assert kept["comparison"] == read_results(tiny)["hybrid"]["comparison"]


@pytest.mark.parametrize(
    ("fields", "images"),
    [
        ({}, range(71, 143)),
        ({"convert.scaling_factor": 1.0}, range(71, 143)),
        ({"finetune.logit_scale": 1.0}, range(71, 143)),
        ({"convert.scaling_factor": 1.0, "finetune.logit_scale": 1.0}, range(143)),
    ],
)
def test_nets_are_compared_on_all_images_where_none_chose_anything(tiny, fields, images):
    choosing = {"convert.scaling_factor": AUTO, "finetune.logit_scale": AUTO}
    assert images_for_comparison(with_fields(saved_config(tiny), choosing | fields)) == images
