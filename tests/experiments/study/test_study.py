"""The study's runs: which there are, with which fields, from whose ANN each starts, and the results that they keep."""

import shutil
from functools import partial

import pytest

from experiments.config import check, difference, with_fields
from experiments.presets import Preset
from experiments.runs.command_line import guarded, parse
from experiments.runs.stages import finish
from experiments.runs.workdir import read_results
from experiments.study import __main__ as study
from experiments.study import plan, results, work
from experiments.study.plan import STUDIES, Trial
from experiments.study.results import kept
from tests.experiments.commands import TINY
from tests.experiments.study.conftest import ENVIRONMENT


@pytest.mark.parametrize("preset", STUDIES)
def test_all_trials_are_valid_and_take_over_an_ann_that_is_trained_as_theirs(preset):
    """A run of hours that starts from another ANN is refused only when that one is trained."""
    planned = {trial.name: trial for of_question in STUDIES[preset].values() for trial in of_question}
    planned |= {plan.ANN.name: plan.ANN}
    configs = {name: plan.config_of_trial(preset, trial, 0) for name, trial in planned.items()}
    for name, config in configs.items():
        check(config)
        assert difference(configs[planned[name].ann], config, "ann") is None, name


def main(arguments):
    """The exit status of the study's command."""
    return guarded(partial(study.study, arguments))


@pytest.fixture
def tiny_study(monkeypatch):
    """A study of two trials and the conversion, of the tiny preset."""
    monkeypatch.setitem(plan.PRESETS, "tiny", Preset("", parse("test", "", TINY).config))
    monkeypatch.setattr(work, "SHORT", (8,))
    monkeypatch.setattr(work, "LONG", (16,))
    own = (
        Trial("everything", {}, work.tested, (0,)),
        Trial("leaky", {"finetune.leak": 0.5}, seeds=(0,)),
        Trial("conversion", {}, partial(work.conversion, 256), (0,)),
    )
    monkeypatch.setitem(study.STUDIES, "tiny", {"all": own})


def test_a_trial_runs_from_the_seeds_ann_and_only_where_nothing_is_kept(tiny_study, monkeypatch, tmp_path):
    """Which runs there are, from whose ANN and conversion each starts, and with which fields."""
    monkeypatch.setattr(results, "environment", lambda: ENVIRONMENT)
    runs, donors, numbers = [], [], {"validation_accuracy": 0.5, "epochs": 1, "history": []}
    numbers |= {"scaling_factor": 1.0, "logit_scale": 1.0, "thresholds": {}}

    def note(name, run):
        for stage, net in (("train_ann", "ann"), ("convert", "converted"))[: 1 if name == "ann" else 2]:
            finish(run, stage, 1.0, {net: numbers}, "")
            (run.directory / net).mkdir(exist_ok=True)
        runs.append((name, run.config))
        return read_results(run.directory)

    monkeypatch.setattr(study, "adopt", lambda run, donor: donors.append(donor.parts[-2]))
    monkeypatch.setattr(study, "ANN", plan.ANN._replace(work=partial(note, "ann")))
    fields = {"first": {"convert.num_steps": 3}, "other": {"convert.num_steps": 2}}
    fields["leaky"] = fields["first"] | {"finetune.leak": 0.5}
    own = [Trial(name, changed, partial(note, name), (0, 1)) for name, changed in fields.items()]
    monkeypatch.setitem(study.STUDIES, "tiny", {"why": own[:2], "how": own[2:]})
    arguments = study.Arguments("tiny", seeds=(1,), workdir=tmp_path / "runs", results=tmp_path / "results")
    assert main(arguments) == 0
    configs = dict(runs)
    assert [*configs] == ["ann", "first", "other", "leaky"]
    assert donors == ["ann", "ann", "first"]  # whose conversion is the same
    assert {config.seed for config in configs.values()} == {1}
    assert configs["leaky"].finetune.leak == 0.5
    assert configs["first"] == with_fields(configs["ann"], fields["first"])
    assert {*kept(arguments.results, "tiny")} == {(name, 1) for name in configs}
    assert main(arguments) == 0
    assert len(runs) == 4  # nothing runs twice
    shutil.rmtree(arguments.workdir)  # as in a fresh clone
    path = arguments.results / "tiny.jsonl"
    lines = [line.replace("null", "false") for line in path.read_text().splitlines() if '"leaky"' not in line]
    path.write_text("\n".join(lines) + "\n")  # marked, to be told from new ones
    assert main(arguments) == 0
    assert [name for name, _ in runs[4:]] == ["ann", "leaky"]
    assert [line for line in path.read_text().splitlines() if '"leaky"' not in line] == lines


@pytest.mark.slow
def test_a_study_keeps_results_and_runs_nothing_twice(tiny_study, tiny, tmp_path, capsys):
    arguments = study.Arguments("tiny", workdir=tmp_path / "runs", results=tmp_path / "results")
    assert main(arguments) == 0
    output, expected, own = capsys.readouterr().out, read_results(tiny), kept(arguments.results, "tiny")
    assert output.count("train_ann: validation") == 1
    assert output.count("convert: taken over") == 2
    everything, leaky, conversion = (own[name, 0] for name in ("everything", "leaky", "conversion"))
    assert everything["hybrid"]["accuracy"] == pytest.approx(expected["hybrid"]["accuracy"], rel=1e-5)
    assert len(everything["hybrid"]["history"]) == 2
    assert 0 < everything["input_rate"] < 1
    assert len(leaky["streams"]["hybrid"]) == leaky["config"]["evaluate"]["streams"]
    assert "accuracy" not in leaky["ann"]  # the test split was not looked at
    assert conversion["ann"]["accuracy"] == pytest.approx(expected["ann"]["accuracy"], rel=1e-5)
    test = conversion["percentiles"]["100"]
    assert set(test["validation"]) == set(test["test"]) == {"8", "16"}
    best = max(test["validation"]["8"].values())
    assert test["validation"]["8"][str(test["test"]["8"]["factor"])] == best
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""


def test_a_study_refuses_what_it_does_not_know(tiny_study, capsys):
    for arguments, sentence in (
        (study.Arguments("digits"), "there is no study of 'digits'"),
        (study.Arguments("tiny", questions=("why",)), "there is no question 'why', only all"),
        (study.Arguments("tiny", seeds=(7,)), "no trial has the seed 7, only 0"),
    ):
        assert main(arguments) == 2
        assert sentence in capsys.readouterr().err
