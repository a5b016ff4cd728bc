"""What a command does with a workdir: one that it can't use is refused and left alone; another run's is taken over."""

import shutil

import chex
import numpy as np
import optax
import pytest

from experiments.convert import convert_ann
from experiments.finetune import finetune
from experiments.hybrid import hybrid
from experiments.runs import command_line
from experiments.runs.stages import adopt
from experiments.runs.workdir import STAGES, open_run, read_record, read_results, write_record
from experiments.train_ann import train_ann
from jsnn.training.checkpoint import save
from jsnn.training.step import init_state
from tests.experiments.commands import TINY, arrays, metrics, outcome, refused, run, state_of, undone
from tests.networks import SMALL_VGG, random_snn


def of_another_network(workdir):
    undone(workdir, "evaluate")
    save(workdir / "ann", 61, init_state(random_snn(SMALL_VGG, 0, leak=1.0)[1], optax.adam(1e-3)), {})


def with_damaged_checkpoints(workdir):
    undone(workdir, *STAGES)
    for path in (workdir / "ann").rglob("metadata"):
        path.write_text("")


def without_a_checkpoint(workdir):
    undone(workdir, "evaluate")
    shutil.rmtree(workdir / "converted" / "0")


OTHER_VERSION = "results.json is damaged or of another version of jsnn"


@pytest.mark.parametrize(
    ("words", "change", "sentence"),
    [
        ([*TINY, "--finetune.leak", "0.9"], None, "to another config: finetune.leak is 0.99 there and 0.9"),
        ([], '{"config": {"data": {"unheard_of": 1}}}', f"{OTHER_VERSION} (config.data.unheard_of"),
        ([], "{", OTHER_VERSION),
        ([], "[1]", OTHER_VERSION),
        ([], '{"config": 1}', f"{OTHER_VERSION} (config"),
        ([], of_another_network, "/ann/61 holds another network: start in a new workdir"),
        ([], with_damaged_checkpoints, "/ann can be read: delete the folder to begin anew"),
        ([], without_a_checkpoint, "/converted holds no checkpoint"),
    ],
)
def test_a_workdir_that_cannot_be_used_is_refused_and_left_alone(words, change, sentence, tiny_copy, capsys):
    if callable(change):
        change(tiny_copy)
    elif change:
        (tiny_copy / "results.json").write_text(change)
    before = state_of(tiny_copy)
    assert sentence in refused(capsys, *words, "--workdir", str(tiny_copy))
    assert state_of(tiny_copy) == before


def test_folders_that_cannot_be_written_are_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere", "/dev/null/x"):
        assert refused(capsys, *TINY, "--workdir", str(workdir)).startswith("error: ")
    assert (tmp_path / "file").read_bytes() == b""
    (tmp_path / "run" / "ann.jsonl").mkdir(parents=True)
    assert "Is a directory" in refused(capsys, *TINY, "--workdir", str(tmp_path / "run"))


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tiny, tiny_copy, capsys):
    undone(tiny_copy, *STAGES)
    (tiny_copy / "ann" / "60" / "tree" / "_METADATA").unlink()
    assert run(hybrid, tiny_copy) == 0
    output = capsys.readouterr().out
    assert f"warning: the checkpoint {tiny_copy}/ann/60 is damaged: going on from the one before" in output
    assert "ann: going on in epoch 3 after step 40" in output
    assert outcome(tiny_copy) == outcome(tiny)
    np.testing.assert_equal(arrays(tiny_copy, "ann"), arrays(tiny, "ann"))


def test_a_run_that_takes_over_another_ends_as_if_it_had_done_all_itself(tiny, tmp_path, capsys):
    before = state_of(tiny)
    assert run(hybrid, tmp_path, *TINY, "--from-run", str(tiny)) == 0
    assert capsys.readouterr().out.count("taken over from") == 2
    chex.assert_trees_all_equal(outcome(tmp_path), outcome(tiny))
    assert read_results(tmp_path)["seconds"]["train_ann"] == read_results(tiny)["seconds"]["train_ann"]
    assert state_of(tiny) == before


def test_a_conversion_that_would_differ_is_not_taken_over(tiny, tmp_path, capsys):
    assert run(finetune, tmp_path, *TINY, "--scaling-factor", "0.4", "--from-run", str(tiny)) == 2
    captured = capsys.readouterr()
    assert captured.out.count("taken over from") == 1
    assert "has no finished convert" in captured.err
    assert set(read_record(tmp_path).stages) == {"train_ann"}
    assert [record["stage"] for record in metrics(tmp_path)] == ["ann"] * 3


def test_what_a_run_has_done_itself_stays_and_nothing_made_of_another_ann_comes(tiny, tiny_copy, tmp_path, capsys):
    """As of a run on another machine: its fields agree, its numbers do not."""
    record = read_record(tiny_copy)
    record.stages["train_ann"].results["ann"]["history"][-1]["loss"] += 1e-6
    write_record(tiny_copy, record)
    with open_run(record.config, tmp_path) as of_tiny:
        adopt(of_tiny, tiny, ("train_ann",))
        adopt(of_tiny, tiny_copy)
        assert "has done it otherwise, so that nothing made of it is taken over" in capsys.readouterr().out
        assert read_record(tmp_path).stages == {"train_ann": read_record(tiny).stages["train_ann"]}
        adopt(of_tiny, tiny)
    assert set(read_record(tmp_path).stages) == {"train_ann", "convert"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--seed 1", "is not the one that is asked for: seed is 0 there and 1 here"),
        ("--ann.lr 0.5", "is not the one that is asked for: ann.lr is"),
        ("--from-run nowhere", "nowhere holds no trained ANN to take over"),
    ],
)
def test_another_ann_is_refused(words, sentence, tiny, tmp_path, capsys):
    assert run(hybrid, tmp_path, *TINY, "--from-run", str(tiny), *words.split()) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "ann").exists()


def test_a_stage_takes_over_those_before_it(tiny, tmp_path, capsys):
    arguments = [*TINY, "--from-run", str(tiny), "--workdir", str(tmp_path)]
    assert command_line.main("train_ann", "", train_ann, arguments, ()) == 2
    assert "nothing to take over for train_ann" in capsys.readouterr().err
    assert command_line.main("convert", "", convert_ann, arguments, STAGES[:1]) == 0
    assert capsys.readouterr().out.count("taken over from") == 1
    assert read_results(tmp_path)["converted"] == read_record(tiny).stages["convert"].results["converted"]
