"""Workdirs whose files someone edited, deleted, or copied from another run: what is wrong is named."""

import json
import os
import shutil
from functools import partial

import pytest

from experiments import evaluate, hybrid, report
from experiments.runs.records import read_results, renew_results, saved_config
from experiments.train_ann import train_ann
from tests.experiments.commands import TINY, outcome, refused, run, state_of, undone

OTHER = [*TINY, "--seed", "5", "--ann.epochs", "1"]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The workdir of a run with another seed, up to its ANN."""
    workdir = tmp_path_factory.mktemp("other")
    assert run(train_ann, workdir, *OTHER) == 0
    return workdir


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_another_runs_ann_is_refused_where_it_is_read(other, tiny_copy, capsys):
    for stage in ("evaluate", "finetune", "convert"):
        undone(tiny_copy, stage)
    shutil.rmtree(tiny_copy / "ann")
    shutil.copytree(other / "ann", tiny_copy / "ann")
    sentence = f"ann in {tiny_copy}/ann was made by another config: seed is 5 there and 0 here"
    assert sentence in refused(capsys, "--workdir", str(tiny_copy))


@pytest.mark.parametrize(
    ("network", "stage", "option", "value", "field"),
    [
        ("converted", "convert", "--scaling-factor", "0.6", "scaling_factor"),
        pytest.param("hybrid", "finetune", "--finetune.beta", "0.5", "finetune.beta", marks=pytest.mark.slow),
    ],
)
def test_a_network_that_another_config_made_is_refused(
    network, stage, option, value, field, tiny, tiny_copy, tmp_path, capsys
):
    donor = tmp_path / "donor"
    assert run(partial(hybrid.up_to, stage), donor, *TINY, option, value, "--from-run", str(tiny)) == 0
    undone(tiny_copy)
    shutil.rmtree(tiny_copy / network)
    shutil.copytree(donor / network, tiny_copy / network)
    sentence = f"{network} in {tiny_copy}/{network} was made by another config: {field} is {value} there"
    assert sentence in refused(capsys, "--workdir", str(tiny_copy))


def test_an_interrupted_stage_does_not_go_on_from_another_runs_checkpoints(other, tmp_path, capsys):
    assert run(lambda run: None, tmp_path, *TINY) == 0
    shutil.copytree(other / "ann", tmp_path / "ann")
    sentence = f"ann in {tmp_path}/ann was made by another config: seed is 5 there and 0 here"
    assert sentence in refused(capsys, *TINY, "--workdir", str(tmp_path))


def test_another_runs_notes_are_refused(other, tiny_copy, capsys):
    shutil.copy(other / "stages.json", tiny_copy / "stages.json")
    sentence = "train_ann in {}/stages.json was made by another config: seed is 5 there and 0 here"
    assert sentence.format(tiny_copy) in refused(capsys, "--workdir", str(tiny_copy))


def test_without_its_config_a_folder_still_belongs_to_the_seed_that_filled_it(tiny_copy, capsys):
    (tiny_copy / "config.json").unlink()
    before = state_of(tiny_copy)
    sentence = "belongs to another config: seed is 0 there and 5 here"
    assert sentence in refused(capsys, *TINY, "--seed", "5", "--workdir", str(tiny_copy))
    assert state_of(tiny_copy) == before


def test_without_its_config_a_folder_goes_on_with_the_one_of_its_stages(tiny, tiny_copy):
    (tiny_copy / "config.json").unlink()
    undone(tiny_copy)
    assert run(hybrid.hybrid, tiny_copy) == 0
    assert outcome(tiny_copy) == outcome(tiny)
    assert (tiny_copy / "config.json").read_bytes() == (tiny / "config.json").read_bytes()


BAD_FIELDS = [
    (
        lambda config: config["finetune"].update(surrogate="foo"),
        "must be 'stdb' or 'linear', got 'foo'",
    ),
    (lambda config: config["network"].update(precision="float16"), "precision must be"),
    (lambda config: config["run"].update(on_nan="foo"), "on_nan must be"),
    (lambda config: config["convert"].update(balance="foo"), "balance must be"),
    (lambda config: config["ann"].pop("lr"), "the field ann.lr is missing"),
    (lambda config: config.pop("seed"), "the field seed is missing"),
    (lambda config: config.pop("ann"), "the field ann.epochs is missing"),
    (lambda config: config["ann"].update(epochs="3"), "ann.epochs must be at least 1 and at most 100000, got '3'"),
    (lambda config: config["ann"].update(epochs=3.5), "ann.epochs must be at least 1 and at most 100000, got 3.5"),
    (lambda config: config["ann"].update(epochs=True), "ann.epochs must be"),
    (lambda config: config["ann"].update(lr=None), "ann.lr must be above 0 and finite, got None"),
    (lambda config: config["ann"].update(lr=float("nan")), "ann.lr must be above 0 and finite, got nan"),
    (lambda config: config["data"].update(flip=1), "flip must be a valid boolean, got 1"),
    (lambda config: config["network"].update(hidden=16), "hidden must be at least 1"),
    (lambda config: config.update(ann=[1]), "groups of names and values"),
    (lambda config: config["run"].update(speed=9), "there is no field speed"),
]


@pytest.mark.parametrize(("change", "sentence"), BAD_FIELDS, ids=range(len(BAD_FIELDS)))
def test_an_edited_config_is_refused_by_field(change, sentence, tiny, tmp_path, capsys):
    shutil.copy(tiny / "config.json", tmp_path / "config.json")
    edit(tmp_path / "config.json", change)
    message = refused(capsys, "--workdir", str(tmp_path))
    assert f"{tmp_path}/config.json is not a config of this version of jsnn" in message
    assert sentence in message


def test_a_doubled_field_is_refused(tiny, tmp_path, capsys):
    text = (tiny / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"seed": 0,', '"seed": 0, "seed": 1,'))
    assert "the field seed is doubled" in refused(capsys, "--workdir", str(tmp_path))


def of(stage, network):
    return lambda stages: stages[stage]["results"][network]


def setting(place, **fields):
    return lambda stages: place(stages).update(fields)


BAD_NOTES = [
    (setting(of("convert", "converted"), scaling_factor="0.5"), "results.converted.scaling_factor of convert is '0.5'"),
    (setting(of("convert", "converted"), scaling_factor=-3), "results.converted.scaling_factor of convert is -3"),
    (setting(of("finetune", "hybrid"), kept="foo"), "results.hybrid.kept of finetune is 'foo'"),
    (lambda stages: of("finetune", "hybrid")(stages).pop("kept"), "results.hybrid.kept of finetune is missing"),
    (setting(of("evaluate", "ann"), accuracy=None), "results.ann.accuracy of evaluate is None"),
    (setting(of("evaluate", "ann"), accuracy=97.0), "results.ann.accuracy of evaluate is 97.0"),
    (setting(of("evaluate", "hybrid"), accuracy=float("nan")), "results.hybrid.accuracy of evaluate is nan"),
    (setting(of("evaluate", "hybrid"), accuracy_by_step=[0.5, "x"]), "results.hybrid.accuracy_by_step.1 of evaluate"),
    (lambda stages: stages["evaluate"]["results"].pop("spikes_per_neuron"), "spikes_per_neuron of evaluate is missing"),
    (lambda stages: stages["evaluate"]["results"].update(environment="x"), "results.environment of evaluate is 'x'"),
    (lambda stages: stages["convert"]["results"].update(converted=[]), "results.converted of convert is []"),
    (lambda stages: stages["train_ann"].update(seconds="long"), "seconds of train_ann is 'long'"),
    (lambda stages: stages["train_ann"].pop("config"), "config of train_ann is missing"),
    (lambda stages: stages.update(train={}), "there is no stage train"),
]


@pytest.mark.parametrize(("change", "sentence"), BAD_NOTES, ids=range(len(BAD_NOTES)))
def test_edited_notes_are_refused_by_name(change, sentence, tiny_copy, capsys):
    edit(tiny_copy / "stages.json", change)
    message = refused(capsys, "--workdir", str(tiny_copy))
    assert f"{tiny_copy}/stages.json is damaged or of an older version of jsnn" in message
    assert sentence in message


@pytest.mark.parametrize("text", [None, "", '{"ann": {'])
def test_lost_results_are_made_again(text, tiny, tiny_copy, tmp_path):
    path = tiny_copy / "results.json"
    path.unlink() if text is None else path.write_text(text)
    assert report.report((tiny_copy,), tmp_path) == report.report((tiny,), tmp_path)  # which only reads
    assert run(hybrid.hybrid, tiny_copy) == 0
    assert path.read_bytes() == (tiny / "results.json").read_bytes()


def test_results_that_were_kept_alone_are_read_or_named(tiny, tmp_path):
    shutil.copy(tiny / "results.json", tmp_path)
    assert report.report((tmp_path,), tmp_path) == report.report((tiny,), tmp_path)
    (tmp_path / "results.json").write_text('{"ann": {')
    with pytest.raises(ValueError, match=r"results\.json is damaged"):
        report.report((tmp_path,), tmp_path)


def test_a_stage_without_its_last_checkpoint_is_done_again(tiny, tiny_copy, capsys):
    """One of an earlier epoch is left, as of a folder that was copied while the run went on."""
    undone(tiny_copy)
    shutil.rmtree(tiny_copy / "hybrid" / "40")
    assert run(hybrid.hybrid, tiny_copy) == 0
    assert (
        f"warning: the last checkpoint in {tiny_copy}/hybrid is missing: finetune is to be done"
        in capsys.readouterr().out
    )
    assert outcome(tiny_copy) == outcome(tiny)


def test_a_folder_with_nothing_but_checkpoints_belongs_to_their_config(other, tmp_path, capsys):
    shutil.copytree(other / "ann", tmp_path / "run" / "ann")
    before = state_of(tmp_path)
    sentence = "belongs to another config: seed is 5 there and 0 here"
    assert sentence in refused(capsys, *TINY, "--workdir", str(tmp_path / "run"))
    assert state_of(tmp_path) == before


def test_a_path_that_is_no_text_is_taken(tmp_path):
    path = os.fsdecode(b"data-\xff")
    assert run(lambda run: None, tmp_path, *TINY, "--data-dir", path) == 0
    assert saved_config(tmp_path).run.data_dir == path
    assert run(lambda run: None, tmp_path) == 0


def test_results_say_which_data_were_evaluated(tiny_copy, tmp_path):
    undone(tiny_copy)
    elsewhere = str(tmp_path / "elsewhere")  # digits are read from nowhere
    assert run(evaluate.evaluate, tiny_copy, "--data-dir", elsewhere) == 0
    assert read_results(tiny_copy)["config"]["run"]["data_dir"] == elsewhere
    assert renew_results(tiny_copy) == json.loads((tiny_copy / "results.json").read_text())


def test_of_two_workdirs_the_last_is_meant_with_its_fields(tiny, tmp_path, capsys):
    one = tmp_path / "one"
    assert run(lambda run: None, one, *TINY, "--seed", "3") == 0
    assert run(lambda run: print(run.config.seed, run.directory), tiny, "--workdir", str(one)) == 0
    assert capsys.readouterr().out == f"0 {tiny}\n"
