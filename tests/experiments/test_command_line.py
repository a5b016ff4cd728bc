"""The command line: its help, its presets, whose config it means, and its options for the machine."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from experiments import hybrid
from experiments.config import check
from experiments.fields import Config, Data
from experiments.presets import PRESETS
from experiments.runs import compilation, huge_pages
from experiments.runs.command_line import Arguments, parse
from experiments.runs.fitting import check_fits
from tests.experiments.commands import TINY, run


def test_compiled_programs_are_kept_on_demand(tmp_path, monkeypatch):
    settings = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        compilation.keep_programs(str(tmp_path / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # what is compiled here takes no half second
        reset_cache()
        jax.jit(lambda x: x @ x + 1)(np.ones((3, 3))).block_until_ready()
        assert list((tmp_path / "programs").iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset_cache()


def test_the_command_keeps_programs_where_it_is_told(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(compilation, "keep_programs", kept.append)
    assert run(lambda run: None, tmp_path / "run", *TINY, "--compilation-cache", "somewhere") == 0
    assert kept == ["somewhere"]


@pytest.mark.slow
def test_a_run_passes_on_the_advice_and_what_is_refused_does_not(tiny, monkeypatch, capsys):
    monkeypatch.setattr(huge_pages, "advice", lambda: "the advice")
    assert run(lambda run: None, tiny) == 0
    assert capsys.readouterr().out == "the advice\n"
    assert run(lambda run: None, tiny, "--num-steps", "0") == 2
    assert "advice" not in capsys.readouterr().out


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
    Path("runs/digits/config.json").write_text('{"old": 1}')
    with pytest.raises(SystemExit) as exit:
        parse("test", "", ["--help"])
    assert exit.value.code == 0
    with pytest.raises(ValueError, match="is not a config of this version of jsnn"):
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
