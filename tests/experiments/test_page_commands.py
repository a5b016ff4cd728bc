"""The commands and options on the pages are ones that the commands take."""

import importlib
import re
import shlex
from dataclasses import fields

import pytest
import tyro

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import input_rate
from experiments.compile import __main__ as compile_command
from experiments.config import check
from experiments.fields import GROUPS, PREFIXED, Config
from experiments.runs import command_line
from experiments.study import __main__ as study
from jsnn.data.datasets import DATASETS, Info
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "experiments" / "README.md"]
STAGES = ("hybrid", "train_ann", "convert", "finetune", "evaluate")
SET_ELSEWHERE = {"DIR": "folder", "FILE": "file", "HOST:PORT": "host:1234"}
# Of tfds, ruff, sphinx-build, srun and gcloud; and --help of all.
OPTIONS_OF_OTHERS = {
    *"--file_format --check --keep-going --nodes --ntasks-per-node --gpus-per-node --requeue --signal".split(),
    *"--worker --command --help".split(),
}


def commands():
    """(module, its words) of each line in a block of a shell that runs one of the commands."""
    blocks = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)]
    lines = re.findall(r"python -m experiments\.([\w.]+)([^\n\"#&]*)", "".join(blocks))
    return sorted({(module, *(SET_ELSEWHERE.get(word, word) for word in shlex.split(rest))) for module, rest in lines})


def test_there_are_commands_on_the_pages():
    assert {module for module, *_ in commands()} >= {"hybrid", "report", "study", "compile", "benchmark"}


def take(module, words, monkeypatch):
    """Have a command read its words, and do nothing."""
    if module in STAGES:
        check(command_line.parse("test", "", words).config)
    elif module == "compile":
        monkeypatch.setattr("sys.argv", ["test", *words])
        monkeypatch.setattr(compile_command, "compile_preset", lambda preset, arguments: check(arguments.config))
        compile_command.main()
    else:
        package = "" if (ROOT / "experiments" / module.replace(".", "/")).with_suffix(".py").exists() else ".__main__"
        tyro.cli(importlib.import_module(f"experiments.{module}{package}").Arguments, args=words)


@pytest.mark.parametrize(("module", "words"), [(module, words) for module, *words in commands()])
def test_a_command_on_a_page_is_taken(module, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS, "mine", Info((32, 32, 3), 4))  # of a module of the reader's own
    if words == ["--help"]:
        with pytest.raises(SystemExit) as exit:
            take(module, words, monkeypatch)
        assert exit.value.code == 0
    else:
        take(module, words, monkeypatch)


def options():
    """All options of the commands."""
    for group in GROUPS[1:]:
        for field in fields(getattr(Config(), group)):
            yield f"{group}.{field.name}" if group in PREFIXED else field.name
    for command in (command_line, benchmark, input_rate, compile_command, study):
        yield from (field.name for field in fields(command.Arguments))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_an_option_on_a_page_is_one_of_a_command(page):
    known = {f"--{no}{name}".replace("_", "-") for name in options() for no in ("", "no-")} | OPTIONS_OF_OTHERS
    assert {option.rstrip(".") for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*", page.read_text())} <= known
