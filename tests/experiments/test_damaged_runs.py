"""Damaged or outdated checkpoints and notes of a run are made again or named, and the rest stays as it is."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from experiments import convert, evaluate, finetune, train_ann
from experiments.hybrid import hybrid
from experiments.runs import journal, stages
from experiments.runs.records import saved_config
from experiments.runs.workdir import Run, open_run
from jsnn.training.checkpoint import is_intact, save
from tests.experiments.commands import TINY, Killed, again, arrays, outcome, run, undone


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


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


def killed(*_):
    raise Killed


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
    undone(tiny_copy, "evaluate")
    flip_a_bit(tiny_copy / "converted" / "0" / "record.json")
    (tiny_copy / "ann" / "60" / "record.json").unlink()
    assert run(hybrid, tiny_copy) == 0
    output = capsys.readouterr().out
    assert f"warning: the last checkpoint in {tiny_copy}/converted is damaged" in output
    assert f"warning: the checkpoint {tiny_copy}/ann/60 is damaged" in output
    assert is_intact(tiny_copy / "ann" / "60")
    assert outcome(tiny_copy) == outcome(tiny)


def test_what_was_made_of_a_lost_network_is_made_again_where_that_comes_out_otherwise(
    tiny, tiny_copy, monkeypatch, capsys
):
    """As where the first one was trained on another machine, and be the second training interrupted at its end."""
    undone(tiny_copy, "evaluate")
    shutil.rmtree(tiny_copy / "ann")
    notes = json.loads((tiny_copy / "stages.json").read_text())
    notes["train_ann"]["results"]["ann"]["history"][-1]["loss"] += 1e-6
    notes["finetune"]["results"]["hybrid"]["history"][-1]["loss"] += 1
    (tiny_copy / "stages.json").write_text(json.dumps(notes))
    with monkeypatch.context() as patch:
        patch.setattr(train_ann, "finish", killed)  # behind the checkpoint that the notes of the first one speak of
        with pytest.raises(Killed):
            run(hybrid, tiny_copy)
    assert (tiny_copy / "ann" / "60").exists()
    (tiny_copy / "lock").unlink()
    capsys.readouterr()
    assert run(hybrid, tiny_copy) == 0
    output = capsys.readouterr().out
    assert "train_ann: came out otherwise than before, so that all behind it is made again" in output
    assert "done before" not in output
    assert outcome(tiny_copy) == outcome(tiny)


def test_a_stage_that_is_reopened_leaves_no_network_to_go_on_from(tiny_copy, monkeypatch):
    """Be it killed before it is noted that the stages are undone."""
    monkeypatch.setattr(stages, "write_stages", killed)
    with open_run(saved_config(tiny_copy), tiny_copy) as opened, pytest.raises(Killed):
        stages.reopen(opened, "convert")
    assert [(tiny_copy / network).exists() for network in ("ann", "converted", "hybrid")] == [True, False, False]


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
        undone(tiny_copy, stage)
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
