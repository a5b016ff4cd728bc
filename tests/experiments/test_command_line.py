"""The command line: its help, its presets, whose config it means, and its options for the machine."""

import dataclasses
import re
from pathlib import Path

import pytest

from experiments import hybrid
from experiments.config import check
from experiments.fields import Config, Data
from experiments.presets import PRESETS
from experiments.runs.command_line import Arguments, parse
from experiments.runs.data import check_fits


def test_help_tells_of_every_field_and_preset(capsys):
    with pytest.raises(SystemExit) as exit:
        parse("python -m experiments.hybrid", hybrid.__doc__, ["--help"])
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    fields = [field for group in dataclasses.asdict(Config()).values() if isinstance(group, dict) for field in group]
    for field in fields:
        assert re.search(rf"--((ann|finetune)\.)?{field.replace('_', '-')}[ ,]", text), field
    assert text.count("(default:") >= len(fields)
    for preset in PRESETS:
        assert f"{preset}:" in text


def test_help_is_there_where_the_workdir_is_of_another_version(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("runs/digits").mkdir(parents=True)
    Path("runs/digits/results.json").write_text('{"old": 1}')
    with pytest.raises(SystemExit) as exit:
        parse("test", "", ["--help"])
    assert exit.value.code == 0
    with pytest.raises(ValueError, match="is damaged or of another version of jsnn"):
        parse("test", "", [])


def test_the_bare_command_is_the_default_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("test", "", []) == Arguments(PRESETS["digits"].config, Path("runs/digits"))
    assert parse("test", "", ["cifar10_cpu"]) == Arguments(PRESETS["cifar10_cpu"].config, Path("runs/cifar10_cpu"))


@pytest.mark.parametrize("option", [["--dataset", "mnist"], ["--dataset=mnist"]])
def test_a_data_set_without_a_preset_gets_the_fields_own_defaults(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("test", "", option) == Arguments(Config(data=Data("mnist")), Path("runs/mnist"))
    assert parse("test", "", ["--dataset", "digits"]) == Arguments(Config(), Path("runs/digits"))
    assert parse("test", "", ["cifar10_cpu", *option]).config.network == PRESETS["cifar10_cpu"].config.network


@pytest.mark.parametrize("option", [["--workdir"], ["--workdir="]])
def test_without_a_preset_the_config_is_the_workdirs(tiny, option):
    options = [*option, str(tiny)] if option == ["--workdir"] else [option[0] + str(tiny)]
    assert parse("test", "", options).config.network.width == 0.0625
    assert parse("test", "", [*options, "--seed", "3"]).config.seed == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_sound(preset):
    description, config = PRESETS[preset]
    assert description
    check(config)
    check_fits(config)
