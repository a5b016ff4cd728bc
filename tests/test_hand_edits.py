"""Workdirs whose files someone edited, deleted, or copied from another run: what is wrong is named."""

import json
import shutil
from functools import partial

import pytest

from experiments import evaluate, hybrid, report
from experiments.runs.records import read_results, renew_results
from experiments.train_ann import train_ann
from tests.commands import TINY, outcome, run
from tests.test_bad_input import refused, state_of, undone

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
        ("hybrid", "finetune", "--finetune.beta", "0.5", "finetune.beta"),
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
    shutil.copytree(other / "ann", tmp_path / "run" / "ann")
    assert "seed is 5 there and 0 here" in refused(capsys, *TINY, "--workdir", str(tmp_path / "run"))


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


BAD_NOTES = [
    (lambda stages: stages["convert"]["results"]["converted"].update(scaling_factor="0.5"), "converted.scaling_factor"),
    (
        lambda stages: stages["convert"]["results"].update(converted=[]),
        "scaling_factor of convert is None",
    ),
    (
        lambda stages: stages["evaluate"]["results"]["ann"].update(accuracy=None),
        "ann.accuracy of evaluate is None",
    ),
    (lambda stages: stages["evaluate"]["results"]["hybrid"].update(accuracy=float("nan")), "results.hybrid.accuracy"),
    (lambda stages: stages["train_ann"].update(seconds="long"), "seconds of train_ann is 'long'"),
    (lambda stages: stages["train_ann"].pop("config"), "config of train_ann is None"),
    (lambda stages: stages.update(train={}), "is damaged at train"),
]


@pytest.mark.parametrize(("change", "sentence"), BAD_NOTES, ids=range(len(BAD_NOTES)))
def test_edited_notes_are_refused_by_name(change, sentence, tiny_copy, capsys):
    edit(tiny_copy / "stages.json", change)
    message = refused(capsys, "--workdir", str(tiny_copy))
    assert f"{tiny_copy}/stages.json is damaged" in message
    assert sentence in message


@pytest.mark.parametrize("text", [None, "", '{"ann": {'])
def test_lost_results_are_made_again(text, tiny, tiny_copy, tmp_path):
    path = tiny_copy / "results.json"
    for make in (lambda: report.report((tiny_copy,), tmp_path / "report"), lambda: run(hybrid.hybrid, tiny_copy)):
        path.unlink() if text is None else path.write_text(text)
        make()
        assert path.read_bytes() == (tiny / "results.json").read_bytes()


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
