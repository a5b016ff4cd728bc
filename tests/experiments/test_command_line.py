"""The command line: its help, its presets, whose config it means, what it refuses, and the commands on the pages."""

import importlib
import re
import shlex
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

import pytest
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import hybrid
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import input_rate
from experiments.compile import __main__ as compile_command
from experiments.config import check
from experiments.fields import GROUPS, PREFIXED, Config, Data
from experiments.presets import PRESETS
from experiments.runs import command_line
from experiments.runs.command_line import Arguments, main, parse
from experiments.runs.data import check_fits
from experiments.study import __main__ as study
from jsnn.data.datasets import DATASETS, Info
from tests.conftest import ROOT
from tests.experiments.commands import finish, refused, start

FIELDS = [
    f"{group}.{field.name}" if group in PREFIXED else field.name
    for group in GROUPS[1:]
    for field in fields(getattr(Config(), group))
]


def option(name):
    return f"--{name.replace('_', '-')}"


def test_help_tells_of_every_field_and_preset(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        parse("python -m experiments.hybrid", hybrid.__doc__, ["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in ("seed", *FIELDS):
        assert re.search(rf"{option(field)}[ ,]", text), field
    assert text.count("(default:") >= len(FIELDS)
    for preset in PRESETS:
        assert f"{preset}:" in text


def test_help_is_there_where_the_workdir_is_of_another_version(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/digits").mkdir(parents=True)
    Path("runs/digits/results.json").write_text('{"old": 1}')
    with pytest.raises(SystemExit, match=r"^0$"):
        parse("test", "", ["--help"])


def test_without_a_preset_the_config_is_the_default_presets_or_the_data_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("test", "", []) == Arguments(PRESETS["digits"].config, Path("runs/digits"))
    assert parse("test", "", ["cifar10_cpu"]) == Arguments(PRESETS["cifar10_cpu"].config, Path("runs/cifar10_cpu"))
    assert parse("test", "", ["--dataset", "digits"]) == Arguments(Config(), Path("runs/digits"))
    for words in (["--dataset", "mnist"], ["--dataset=mnist"]):
        assert parse("test", "", words) == Arguments(Config(data=Data("mnist")), Path("runs/mnist"))
    assert parse("test", "", ["cifar10_cpu", *words]).config.network == PRESETS["cifar10_cpu"].config.network


def test_without_a_preset_the_config_is_the_workdirs(tiny):
    for words in (["--workdir", str(tiny)], [f"--workdir={tiny}"]):
        assert parse("test", "", words).config.network.width == 0.0625
    assert parse("test", "", [*words, "--seed", "3"]).config.seed == 3


@pytest.mark.parametrize(("description", "config"), PRESETS.values(), ids=PRESETS)
def test_presets_are_sound(description, config):
    assert description
    check(config)
    check_fits(config)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("cifar10_vgg5", "error: there is no preset cifar10_vgg5: choose one of digits, fashion_mnist_cpu"),
        ("--num-stepz 4", "--num-steps"),
        ("--num-steps", "--num-steps"),
        ("--num-steps 4.5", "Error parsing --num-steps"),
        ("--num-steps 4 --eval-steps 2", "error: eval_steps must be at least num_steps, 4, got 2."),
        ("--balance-steps 10000000", "error: balance_steps must be at least 1 and at most 100000, got 10000000."),
        ("--balance-images -5", "error: balance_images must be at least 1 and below 2^31, got -5."),
        ("--chunk 0", "error: chunk must be at least 1 and below 2^31, or auto, got 0."),
        ("--precision float16", "bfloat16"),
        ("--finetune.leak 0", "error: finetune.leak must be in (0, 1], got 0.0."),
        ("--finetune.leak nan", "error: finetune.leak must be in (0, 1], got nan."),
        ("--scaling-factor inf", "error: scaling_factor must be above 0 and finite, or auto, got inf."),
        ("--percentile 100.1", "error: percentile must be in (0, 100], got 100.1."),
        ("--batch-size 66", "error: batch_size 66 can't be split evenly over 4 devices: choose a multiple of 4."),
        ("--eval-batch-size 6", "error: eval_batch_size 6 can't be split evenly over 4 devices"),
        ("--eval-batch-size 1" + 19 * "0", "error: eval_batch_size must be at least 1 and below 2^31, got 1000"),
        ("--batch-size 4000", "error: a batch of 4000 is larger than the training split of 1294 images"),
        ("--architecture vgg16", "error: the image is too small for this model"),
        ("--balance stem", "error: balance stem is for ResNets"),
        ("--dataset cifar11", "cifar10"),
        ("--dataset cifar100 --data-dir nowhere", "`tfds build cifar100 --file_format=array_record"),
        ("--ann.lr 1e999", "error: ann.lr must be above 0 and finite, got inf."),
        (f"--ann.epochs {2**63}", f"error: ann.epochs must be at least 1 and at most 100000, got {2**63}."),
        ("--ann.weight-decay nan", "error: ann.weight_decay must be at least 0 and finite, got nan."),
        ("--conv-dropout 1", "error: conv_dropout must be in [0, 1), got 1.0."),
        ("--hidden 0", "error: hidden must be at least 1 and at most 65536 units each, got (0,)."),
        ("--width 64 --hidden 65536 65536", "error: training the network's weights takes 88 GB, of"),
        ("--width 1e9", "error: width must be above 0 and at most 64, got 1000000000.0."),
        ("--seed -1", "error: seed must be at least 0 and below 2^32, got -1."),
        ("--seed 4294967296", "error: seed must be at least 0 and below 2^32, got 4294967296."),
        ("--streams 0", "error: streams must be at least 1 and at most 1000, got 0."),
        ("--crop-padding 1000000000", "error: crop_padding must be at least 0 and at most 1024, got 1000000000."),
        ("--data-dir ''", "error: an argument is empty: name a value, or leave its option out."),
        ("--checkpoint-steps 0", "error: checkpoint_steps must be at least 1 and below 2^31, or None, got 0."),
        ("--checkpoint-minutes 0", "error: checkpoint_minutes must be above 0 and finite, got 0.0."),
        ("--process-id 1", "error: coordinator, num_processes and process_id go together, got"),
        ("--coordinator host:1 --num-processes 2 --process-id 2", "error: needed are host:port, a"),
        ("--coordinator host --num-processes 2 --process-id 0", "error: needed are host:port, a"),
        ("--recipe linear --finetune.by-channel", "error: by_channel is for parameters of neurons, of which none"),
        ("--recipe linear --finetune.by-channel --finetune.trained threshold", "sum of logits is in units of: use"),
        (
            "--recipe linear --finetune.residuals byte --finetune.surrogate stdb --finetune.trained weights leak",
            "trained is weights, leak: use residuals exact",
        ),
        ("--finetune.start scratch --finetune.trained", "error: start scratch has nothing but what is trained"),
        ("--finetune.start scratch --levels 4", "error: start scratch balances thresholds, and QCFS has its own"),
        ("--fold", "error: fold is for batch norm, of which the network has none: set norm batch"),
        ("--data-module nowhere", "error: data_module 'nowhere' can't be imported: "),
    ],
    ids=lambda words: words if words.startswith("--") else "",
)
def test_bad_input_is_refused_in_a_sentence(words, sentence, capsys, tmp_path):
    workdir = tmp_path / "run"
    assert sentence in refused(capsys, *shlex.split(words), "--workdir", str(workdir))
    assert not workdir.exists()


def test_a_refusal_is_the_status_of_the_process_and_has_its_traceback_on_demand(capsys):
    assert finish(start("--num-steps", "0")) == (2, "error: num_steps must be at least 1 and at most 100000, got 0.\n")
    assert main("test", "", hybrid.hybrid, ["--num-steps", "0", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


VALUES = "0 1 -1 3 0.5 nan inf -inf 1e999 1e-400 none None auto True vgg5 adam digits stdb {} [] () '' \"\" ü 💥 --"
OPTIONS = [*map(option, (*FIELDS, "seed", "workdir", "process_id", "no-flip"))]
words_of_options = st.sampled_from([*OPTIONS, *PRESETS]) | st.sampled_from(VALUES.split()) | st.text(max_size=8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(words_of_options, max_size=7))
def test_no_command_line_ends_in_a_traceback(arguments):
    """It is taken, or refused with status 2; --help ends with 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line, "open_run", lambda config, workdir: check(config) or nullcontext(workdir.name))
        patch.setattr(command_line, "set_compiler", lambda effort, folder: None)
        try:
            status = main("test", "", lambda run: None, arguments)
        except SystemExit as exit:
            status = exit.code
    assert status in (0, 2)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "experiments" / "README.md"]
STAGES = ("hybrid", "train_ann", "convert", "finetune", "evaluate")
SET_ELSEWHERE = {"DIR": "folder", "FILE": "file", "HOST:PORT": "host:1234"}
# Of tfds, ruff, sphinx-build, srun and gcloud; and --help of all.
OPTIONS_OF_OTHERS = {
    *"--file_format --check --keep-going --nodes --ntasks-per-node --gpus-per-node --requeue --signal".split(),
    *"--worker --command --help".split(),
}


def commands_on_pages():
    """(module, its words) of each line in a block of a shell that runs one of the commands."""
    blocks = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)]
    lines = re.findall(r"python -m experiments\.([\w.]+)([^\n\"#&]*)", "".join(blocks))
    found = sorted({(module, *(SET_ELSEWHERE.get(word, word) for word in shlex.split(rest))) for module, rest in lines})
    assert {module for module, *_ in found} >= {"hybrid", "report", "study", "compile", "benchmark"}
    return [(module, words) for module, *words in found]


@pytest.mark.parametrize(("module", "words"), commands_on_pages())
def test_a_command_on_a_page_is_taken(module, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS, "mine", Info((32, 32, 3), 4))  # of a module of the reader's own
    with pytest.raises(SystemExit, match=r"^0$") if words == ["--help"] else nullcontext():
        if module in STAGES:
            check(parse("test", "", words).config)
        elif module == "compile":
            monkeypatch.setattr("sys.argv", ["test", *words])
            monkeypatch.setattr(compile_command, "compile_preset", lambda preset, arguments: check(arguments.config))
            compile_command.main()
        else:
            is_package = (ROOT / "experiments" / module).is_dir()
            command = importlib.import_module(f"experiments.{module}{'.__main__' if is_package else ''}")
            tyro.cli(command.Arguments, args=words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_an_option_on_a_page_is_one_of_a_command(page):
    commands = (command_line, benchmark, input_rate, compile_command, study)
    names = [*FIELDS, *(field.name for command in commands for field in fields(command.Arguments))]
    known = {option(no + name) for name in names for no in ("", "no-")} | OPTIONS_OF_OTHERS
    assert {word.rstrip(".") for word in re.findall(r"(?<![\w-])--[a-z][\w.-]*", page.read_text())} <= known
