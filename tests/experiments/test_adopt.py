"""A run that takes over the ANN, and the conversion, of another one."""

import dataclasses
import json
import shutil

import chex
import pytest

from experiments.config import ADDED, difference
from experiments.convert import convert_ann
from experiments.fields import GROUPS, Config
from experiments.finetune import finetune
from experiments.hybrid import hybrid
from experiments.report import report
from experiments.runs import adopt, command_line
from experiments.runs.records import STAGES, read_results, saved_config
from experiments.runs.workdir import open_run
from experiments.train_ann import train_ann
from jsnn.training.metrics import read
from tests.experiments.commands import TINY, outcome, run, undone


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_ends_as_if_it_had_done_all_itself(tiny, tmp_path, capsys):
    before = files(tiny)
    assert run(hybrid, tmp_path, *TINY, "--from-run", str(tiny)) == 0
    assert capsys.readouterr().out.count("taken over from") == 2
    chex.assert_trees_all_equal(outcome(tmp_path), outcome(tiny))
    seconds = [read_results(workdir)["seconds"]["train_ann"] for workdir in (tmp_path, tiny)]
    assert seconds[0] == seconds[1]
    assert files(tiny) == before


def test_a_conversion_that_would_differ_is_not_taken_over(tiny, tmp_path, capsys):
    assert run(finetune, tmp_path, *TINY, "--scaling-factor", "0.4", "--from-run", str(tiny)) == 2
    captured = capsys.readouterr()
    assert captured.out.count("taken over from") == 1
    assert "has no finished convert" in captured.err
    assert set(read_results(tmp_path)["seconds"]) == {"train_ann"}
    assert [record["stage"] for record in read(tmp_path / "metrics.jsonl")] == ["ann"] * 3


def test_a_run_of_an_older_version_is_taken_over_and_reported(tiny_copy, tmp_path, capsys):
    stages = json.loads((tiny_copy / "stages.json").read_text())
    for done in stages.values():
        for group, names in ADDED.items():
            for name in names:
                del done["config"][group][name]
        done["results"].pop("early_exit", None)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "stages.json").write_text(json.dumps(stages))
    for network in ("ann", "converted"):
        shutil.copytree(tiny_copy / network, tmp_path / "old" / network)
    assert "| VGG5 x0.0625, digits |" in report((tmp_path / "old",), tmp_path / "report")
    assert run(convert_ann, tmp_path / "new", *TINY, "--from-run", str(tmp_path / "old")) == 0
    assert capsys.readouterr().out.count("taken over from") == 2


def test_what_a_run_has_done_itself_stays(tiny, tmp_path):
    assert run(train_ann, tmp_path, *TINY) == 0
    path = tmp_path / "stages.json"
    stages = json.loads(path.read_text())
    stages["train_ann"]["seconds"] = 1234.0
    path.write_text(json.dumps(stages))
    assert run(hybrid, tmp_path, *TINY, "--from-run", str(tiny)) == 0
    assert read_results(tmp_path)["seconds"]["train_ann"] == 1234.0


def test_the_conversion_of_an_ann_that_came_out_otherwise_is_not_taken_over(tiny, tiny_copy, tmp_path, capsys):
    """As of a run on another machine: its fields agree, its numbers do not."""
    with open_run(saved_config(tiny), tmp_path) as opened:
        adopt.adopt(opened, tiny, ("train_ann",))
        notes = json.loads((tiny_copy / "stages.json").read_text())
        notes["train_ann"]["results"]["ann"]["history"][-1]["loss"] += 1e-6
        (tiny_copy / "stages.json").write_text(json.dumps(notes))
        adopt.adopt(opened, tiny_copy)
        assert "came out otherwise, so that nothing made of it is taken over" in capsys.readouterr().out
        assert set(read_results(tmp_path)["seconds"]) == {"train_ann"}
        adopt.adopt(opened, tiny)
    assert set(read_results(tmp_path)["seconds"]) == {"train_ann", "convert"}


def test_an_ann_in_place_of_a_lost_one_undoes_what_was_made_of_that(tiny, tiny_copy, tmp_path, capsys):
    donor = tmp_path / "donor"
    shutil.copytree(tiny, donor)
    notes = json.loads((donor / "stages.json").read_text())
    notes["train_ann"]["results"]["ann"]["history"][-1]["loss"] += 1e-6
    (donor / "stages.json").write_text(json.dumps(notes))
    undone(tiny_copy)
    shutil.rmtree(tiny_copy / "ann")
    with open_run(saved_config(tiny), tiny_copy) as opened:
        adopt.adopt(opened, donor)
    assert "train_ann: came out otherwise than before, so that all behind it is made again" in capsys.readouterr().out
    assert set(read_results(tiny_copy)["seconds"]) == {"train_ann", "convert"}  # of the donor, both
    assert not (tiny_copy / "hybrid").exists()


def test_a_stage_takes_over_those_before_it(monkeypatch, tiny, tmp_path, capsys):
    taken_over = {}
    monkeypatch.setattr(
        command_line, "run_command", lambda *arguments: taken_over.update({arguments[0]: arguments[-1]})
    )
    for stage in STAGES:
        command_line.run_stage(stage, "", lambda run: None)
    both = ("train_ann", "convert")
    assert taken_over == {"train_ann": (), "convert": ("train_ann",), "finetune": both, "evaluate": both}
    arguments = [*TINY, "--from-run", str(tiny), "--workdir", str(tmp_path)]
    assert command_line.main("train_ann", "", train_ann, arguments, taken_over["train_ann"]) == 2
    assert "nothing to take over for train_ann" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (["--seed", "1"], "is not the one that is asked for: seed is 0 there and 1 here"),
        (["--ann.lr", "0.5"], "is not the one that is asked for: ann.lr is"),
        (["--from-run", "nowhere"], "nowhere holds no trained ANN to take over"),
    ],
)
def test_another_ann_is_refused(fields, sentence, tiny, tmp_path, capsys):
    assert run(hybrid, tmp_path, *TINY, "--from-run", str(tiny), *fields) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "ann").exists()


@pytest.mark.parametrize(
    "spoil", [lambda last: (last / "record.json").write_text("{}"), shutil.rmtree], ids=["damaged", "deleted"]
)
def test_a_checkpoint_that_is_not_the_last_is_refused(spoil, tiny, tmp_path, capsys):
    donor, workdir = tmp_path / "donor", tmp_path / "run"
    shutil.copytree(tiny, donor)
    spoil(donor / "ann" / "60")
    assert run(hybrid, workdir, *TINY, "--from-run", str(donor)) == 2
    assert "ann is damaged or missing: run its stage again" in capsys.readouterr().err
    assert not (workdir / "ann").exists()


def test_the_first_process_alone_reads_the_donor(tiny, tmp_path, monkeypatch):
    allowed = []

    def on_first_process(work):
        allowed.append(True)
        try:
            return work()
        finally:
            allowed.pop()

    def guarded(read):
        def guard(folder, *rest):
            assert allowed or not folder.is_relative_to(tiny), f"{read.__name__} reads the donor in all processes"
            return read(folder, *rest)

        return guard

    monkeypatch.setattr(adopt, "on_first_process", on_first_process)
    monkeypatch.setattr(adopt, "read_stages", guarded(adopt.read_stages))
    monkeypatch.setattr(adopt.shutil, "copytree", guarded(shutil.copytree))
    with open_run(saved_config(tiny), tmp_path) as opened:
        adopt.adopt(opened, tiny)
    assert set(read_results(tmp_path)["seconds"]) == {"train_ann", "convert"}


def test_a_stage_depends_on_its_own_group_and_those_above_it():
    """A field that matters to a conversion but stands below it would let a wrong one be taken over."""
    assert GROUPS == ("seed", "data", "network", "ann", "convert", "finetune", "evaluate", "run")
    base = Config()
    changed = dataclasses.replace(base, convert=dataclasses.replace(base.convert, num_steps=7))
    assert difference(base, changed, "ann") is None
    assert difference(base, changed, "convert") == "num_steps is 100 there and 7 here"
    elsewhere = dataclasses.replace(base, run=dataclasses.replace(base.run, workers=3))
    assert difference(base, elsewhere) is None
    assert difference(base, elsewhere, "run") == "workers is 0 there and 3 here"
