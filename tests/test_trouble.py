"""What goes wrong in a run is told, costs nothing that was saved, and leaves nothing half done."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import convert, evaluate, finetune, train_ann
from experiments.config import with_fields
from experiments.fields import AUTO, Config, Runtime
from experiments.hybrid import hybrid
from experiments.runs import epochs, journal, records
from experiments.runs.networks import random_key, stream_keys
from experiments.runs.records import read_results, saved_config
from experiments.runs.scoring import images_for_choices, images_for_comparison
from experiments.runs.workdir import Run, open_run
from jsnn.folding import fold
from jsnn.training.checkpoint import is_intact, restore, save
from jsnn.training.evaluation import Evaluation
from jsnn.training.files import remove_folder
from jsnn.training.metrics import read
from tests.commands import TINY, Killed, again, arrays, outcome, run


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize(("keep", "new"), [(2, 3), (1, 3), (1, 2)])
def test_a_save_killed_at_any_call_of_the_system_leaves_an_intact_checkpoint(keep, new, tmp_path, monkeypatch):
    """Before and after each call that changes the disk, the old checkpoint or the new one is there, intact.

    The new one gets the next number, or replaces the only one that is kept.
    """
    trees = [{"x": jnp.arange(3) + step} for step in range(4)]
    before = tmp_path / "before"
    for step in (1, 2):
        save(before, step, trees[step], {"tree": step}, keep)
    calls = [(os, "fsync"), (os, "replace"), (os, "rename"), (shutil, "rmtree")]
    for point in range(200):
        folder, count = tmp_path / str(point), [0]
        shutil.copytree(before, folder)
        with monkeypatch.context() as patch:
            for module, name in calls:
                patch.setattr(module, name, partial(_killing, getattr(module, name), count, point))
            try:
                save(folder, new, trees[3], {"tree": 3}, keep)
            except Killed:
                pass
            else:
                break
        restored = restore(folder, trees[0])
        assert restored.step in (2, new)
        assert restored.record["tree"] in (2, 3)
        np.testing.assert_array_equal(restored.tree["x"], trees[restored.record["tree"]]["x"])
        save(folder, 4, trees[0], {}, keep)
        assert len(list(folder.iterdir())) == keep
    assert point > 2 * 12  # a seal, a record, a rename, what is not kept, each before and after


def _killing(call, count, point, *arguments, **options):
    """A call of the system at which the process dies, before it or after it."""
    count[0] += 1
    if point == 2 * count[0] - 2:
        raise Killed
    result = call(*arguments, **options)
    if point == 2 * count[0] - 1:
        raise Killed
    return result


def killed_at_save(number, workdir, monkeypatch, *arguments):
    """A run that is killed right after its so manieth save."""
    count = []

    def saving(*saved):
        save(*saved)
        count.append(saved)
        if len(count) == number:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(journal, "save", saving)
        with pytest.raises(Killed):
            run(hybrid, workdir, *TINY, *arguments)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tiny, tmp_path, monkeypatch, capsys):
    killed_at_save(5, tmp_path, monkeypatch, "--checkpoint-steps", "7", "--keep-checkpoints", "3")
    steps = sorted(int(path.name) for path in (tmp_path / "ann").iterdir())
    assert len(steps) == 3
    flip_a_bit(next((tmp_path / "ann" / str(steps[-1]) / "tree").rglob("d/*")))
    (tmp_path / "ann" / str(steps[-2]) / "SHA256SUMS").write_text("")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "ann", "st')
    assert run(hybrid, tmp_path, *TINY) == 0
    output = capsys.readouterr().out
    for step in steps[1:]:
        assert f"warning: the checkpoint {tmp_path}/ann/{step} is damaged" in output
    assert f"after step {steps[0]}" in output
    assert outcome(tmp_path) == outcome(tiny)


def test_where_no_checkpoint_is_intact_the_run_stops_and_touches_nothing(tmp_path, monkeypatch, capsys):
    killed_at_save(2, tmp_path, monkeypatch)
    for path in (tmp_path / "ann").iterdir():
        flip_a_bit(path / "record.json")
    (tmp_path / "lock").unlink()
    before = contents(tmp_path)
    assert run(hybrid, tmp_path, *TINY) == 2
    assert "is intact; damaged, or of an older version of jsnn, are" in capsys.readouterr().err
    (tmp_path / "lock").unlink()
    assert contents(tmp_path) == before


def test_what_a_finished_stage_left_is_made_again_where_it_is_damaged(tiny, tiny_copy, capsys):
    undo(tiny_copy, "evaluate")
    flip_a_bit(tiny_copy / "converted" / "0" / "record.json")
    (tiny_copy / "ann" / "60" / "record.json").unlink()
    assert run(hybrid, tiny_copy) == 0
    output = capsys.readouterr().out
    assert f"warning: the last checkpoint in {tiny_copy}/converted is damaged" in output
    assert f"warning: the checkpoint {tiny_copy}/ann/60 is damaged" in output
    assert is_intact(tiny_copy / "ann" / "60")
    assert outcome(tiny_copy) == outcome(tiny)


def made_before(checkpoint):
    """Lay a checkpoint out as when a network was a module of jsnn's, and its neurons the collection "neuron"."""
    tree, record = arrays(checkpoint), json.loads((checkpoint / "record.json").read_text())
    if "step" in tree:
        neuron = (tree.pop("fixed") or {}).get("neurons", {})
        tree |= {"params": tree["params"]["params"], "neuron": neuron}
    else:
        tree["neuron"] = tree.pop("neurons")
    save(checkpoint.parent, int(checkpoint.name), tree, record)


@pytest.mark.parametrize(
    ("checkpoint", "read"),
    [
        ("ann/60", train_ann.trained_ann),
        ("converted/0", convert.converted_snn),
        ("hybrid/40", finetune.last_snn),
    ],
)
def test_a_checkpoint_of_an_older_version_is_refused(checkpoint, read, tiny_copy):
    opened = Run(saved_config(tiny_copy), tiny_copy, None)
    read(opened)
    made_before(tiny_copy / checkpoint)
    assert is_intact(tiny_copy / checkpoint)
    sentence = f"the checkpoint {tiny_copy}/{checkpoint} .* is of an older version of jsnn: start in a new workdir"
    with pytest.raises(ValueError, match=sentence):
        read(opened)


@pytest.mark.parametrize("done", [(), ("train_ann",)])
def test_a_workdir_of_an_older_version_is_refused_and_left_alone(done, tiny_copy, capsys):
    for stage in ("evaluate", "finetune", "convert", "train_ann")[: 4 - len(done)]:
        undo(tiny_copy, stage)
    made_before(tiny_copy / "ann" / "60")
    before = contents(tiny_copy)
    assert run(hybrid, tiny_copy) == 2
    assert "is of an older version of jsnn: start in a new workdir." in capsys.readouterr().err
    assert contents(tiny_copy) == {**before, Path("lock"): (tiny_copy / "lock").read_bytes()}


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"convert": ', '{"convert": {}}', '{"convert": {"results": 1}}'])
def test_damaged_notes_are_named(tiny, tiny_copy, capsys, text):
    (tiny_copy / "stages.json").write_text(text)
    assert run(hybrid, tiny_copy) == 2
    assert f"{tiny_copy}/stages.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damaged", "needed", "name", "stage"),
    [
        ("ann/60", "train_ann", "convert", convert.convert_ann),
        ("converted/0", "convert", "finetune", finetune.finetune),
        ("hybrid/40", "finetune", "evaluate", evaluate.evaluate),
    ],
)
def test_a_stage_that_is_refused_has_undone_nothing(damaged, needed, name, stage, tiny, tiny_copy, capsys):
    flip_a_bit(tiny_copy / damaged / "record.json")
    before = contents(tiny_copy)
    assert run(partial(again, name, stage), tiny_copy) == 2
    assert f"has no finished {needed}" in capsys.readouterr().err
    assert contents(tiny_copy) == {**before, Path("lock"): (tiny_copy / "lock").read_bytes()}


def test_a_run_killed_between_its_two_notes_tells_its_results(tiny, tiny_copy, monkeypatch):
    undo(tiny_copy, "evaluate")
    write_json = records.write_json

    def killed(path, value):
        write_json(path, value)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(records, "write_json", killed)
        with pytest.raises(Killed):
            run(hybrid, tiny_copy)
    assert run(hybrid, tiny_copy) == 0
    assert outcome(tiny_copy) == outcome(tiny)


def undo(workdir, stage):
    """As if a stage had not been run."""
    stages = json.loads((workdir / "stages.json").read_text())
    (workdir / "stages.json").write_text(json.dumps({name: done for name, done in stages.items() if name != stage}))


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (OSError("cannot identify image file"), 2, "error: cannot identify image file"),
        (RuntimeError("a worker died"), 1, "error: RuntimeError, see --debug: a worker died"),
    ],
)
def test_a_run_goes_on_after_an_exception_in_the_input_pipeline(
    error, status, sentence, tiny, tmp_path, monkeypatch, capsys
):
    open_source = epochs.open_source

    def failing(*arguments):
        source = open_source(*arguments)

        def shuffled(batch_size, seed, epoch, start):
            for number, item in enumerate(source.shuffled(batch_size, seed, epoch, start), start):
                if (epoch, number) == (2, 13):
                    raise error
                yield item

        return source._replace(shuffled=shuffled)

    with monkeypatch.context() as patch:
        patch.setattr(epochs, "open_source", failing)
        assert run(hybrid, tmp_path, *TINY, "--checkpoint-steps", "3") == status
    assert capsys.readouterr().err == sentence + "\n"
    assert run(hybrid, tmp_path, *TINY) == 0
    assert outcome(tmp_path) == outcome(tiny)


def test_a_run_saves_after_so_many_steps_or_minutes():
    config = with_saves(checkpoint_steps=7, checkpoint_minutes=2)
    assert [epochs.should_save(config, steps, 0.0) for steps in (6, 7)] == [False, True]
    assert [epochs.should_save(config, 1, seconds) for seconds in (119, 120)] == [False, True]
    assert not epochs.should_save(with_saves(checkpoint_steps=None, checkpoint_minutes=2), 10**6, 119)


def with_saves(**fields):
    return Config(run=Runtime(**fields))


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


def worse(workdir, monkeypatch, accuracies, compared=(0.5, 0.5), **fields):
    """A run that is converted, whose fine-tune will have these validation accuracies before and after its epochs.

    Compared on other images, the converted and the fine-tuned net have two more. Fields of the fine-tune may differ.
    """
    undo(workdir, "evaluate")
    undo(workdir, "finetune")
    remove_folder(workdir / "hybrid")
    content = json.loads((workdir / "config.json").read_text())
    content["finetune"] |= {"epochs": len(accuracies) - 1, **fields}
    (workdir / "config.json").write_text(json.dumps(content))
    following, of_streams = iter(accuracies), iter([compared[0]] * 5 + [compared[1]] * 5)
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
    worse(tiny_copy, monkeypatch, [0.05, 1.0, 1.0], compared=(0.5, 0.25))  # the epochs' own noise decides nothing
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
