"""What a command does with a workdir: one that it can't use is refused and left alone; another run's is taken over."""

import json
import shutil

import chex
import optax
import pytest

from experiments import train_ann
from experiments.convert import convert_ann
from experiments.finetune import finetune
from experiments.hybrid import hybrid
from experiments.runs import command_line, loop
from experiments.runs.stages import adopt
from experiments.runs.workdir import STAGES, open_run, read_record, read_results, write_record
from jsnn.training.checkpoint import save
from jsnn.training.step import init_state
from tests.experiments.commands import TINY, Killed, metrics, outcome, refused, run, state_of, undone
from tests.networks import SMALL_VGG, random_snn


def written(text):
    return lambda workdir: (workdir / "results.json").write_text(text)


def with_a_field(workdir):
    fields = json.loads((workdir / "results.json").read_text())
    fields["config"]["data"]["unheard_of"] = 1
    (workdir / "results.json").write_text(json.dumps(fields))


def of_another_network(workdir):
    undone(workdir, "evaluate")
    save(workdir / "ann", 60, init_state(random_snn(SMALL_VGG, 0, leak=1.0)[1], optax.adam(1e-3)), {})


def with_damaged_metrics(workdir):
    undone(workdir, "finetune", "evaluate")
    text = (workdir / "metrics.jsonl").read_text()
    (workdir / "metrics.jsonl").write_text(text.replace('{"stage": "ann", "step": 2', "\0\0\0"))


def with_damaged_checkpoints(workdir):
    undone(workdir, *STAGES)
    for path in (workdir / "ann").rglob("metadata"):
        path.write_text("")


def without_a_checkpoint(workdir):
    undone(workdir, "evaluate")
    shutil.rmtree(workdir / "converted" / "0")


@pytest.mark.parametrize(
    ("arguments", "change", "sentence"),
    [
        ([*TINY, "--finetune.leak", "0.9"], lambda _: None, "to another config: finetune.leak is 0.99 there and 0.9"),
        ([], with_a_field, "results.json is damaged or of another version of jsnn (config.data.unheard_of"),
        ([], written("{"), "results.json is damaged or of another version of jsnn"),
        ([], written("[1]"), "results.json is damaged or of another version of jsnn"),
        ([], written('{"config": 1}'), "results.json is damaged or of another version of jsnn (config"),
        ([], of_another_network, "/ann/60 holds another network: start in a new workdir"),
        ([], with_damaged_metrics, "metrics.jsonl is damaged"),
        ([], with_damaged_checkpoints, "/ann can be read: delete the folder to begin anew"),
        ([], without_a_checkpoint, "/converted holds no checkpoint"),
    ],
)
def test_a_workdir_that_cannot_be_used_is_refused_and_left_alone(arguments, change, sentence, tiny_copy, capsys):
    change(tiny_copy)
    before = state_of(tiny_copy)
    assert sentence in refused(capsys, *arguments, "--workdir", str(tiny_copy))
    assert state_of(tiny_copy) == before


def test_folders_that_cannot_be_written_are_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere", "/dev/null/x"):
        assert refused(capsys, *TINY, "--workdir", str(workdir)).startswith("error: ")
    assert (tmp_path / "file").read_bytes() == b""
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    assert "Is a directory" in refused(capsys, *TINY, "--workdir", str(tmp_path / "run"))


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tiny, tmp_path, monkeypatch, capsys):
    save_network, saved = loop.save_network, []

    def killed_at_the_fifth(*arguments):
        save_network(*arguments)
        saved.append(arguments[2])
        if len(saved) == 5:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_network", killed_at_the_fifth)
        with pytest.raises(Killed):
            run(hybrid, tmp_path, *TINY, "--checkpoint-steps", "7", "--keep-checkpoints", "3")
    for step in saved[-2:]:
        (tmp_path / "ann" / str(step) / "tree" / "_METADATA").unlink()
    assert run(hybrid, tmp_path, *TINY) == 0
    output = capsys.readouterr().out
    for step in saved[-2:]:
        assert f"warning: the checkpoint {tmp_path}/ann/{step} is damaged: going on from the one before" in output
    assert f"after step {saved[-3]}" in output
    assert outcome(tmp_path) == outcome(tiny)


def test_a_run_that_takes_over_another_ends_as_if_it_had_done_all_itself(tiny, tmp_path, capsys):
    before = state_of(tiny)
    assert run(hybrid, tmp_path, *TINY, "--from-run", str(tiny)) == 0
    assert capsys.readouterr().out.count("taken over from") == 2
    chex.assert_trees_all_equal(outcome(tmp_path), outcome(tiny))
    seconds = [read_results(workdir)["seconds"]["train_ann"] for workdir in (tmp_path, tiny)]
    assert seconds[0] == seconds[1]
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


def test_a_stage_takes_over_those_before_it(tiny, tmp_path, capsys):
    arguments = [*TINY, "--from-run", str(tiny), "--workdir", str(tmp_path)]
    assert command_line.main("train_ann", "", train_ann.train_ann, arguments, ()) == 2
    assert "nothing to take over for train_ann" in capsys.readouterr().err
    assert command_line.main("convert", "", convert_ann, arguments, STAGES[:1]) == 0
    assert capsys.readouterr().out.count("taken over from") == 1
    assert read_results(tmp_path)["converted"] == read_record(tiny).stages["convert"].results["converted"]
