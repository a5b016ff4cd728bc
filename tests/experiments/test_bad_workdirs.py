"""A workdir that a command cannot use or write is refused in one sentence and left alone."""

import json
import shutil

import optax
import pytest

from experiments import train_ann
from jsnn.training.checkpoint import save
from jsnn.training.step import init_state
from tests.experiments.commands import TINY, refused, run, state_of, undone
from tests.networks import SMALL_VGG, random_snn


def newer(workdir):
    fields = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps({**fields, "unheard_of": 1}))


def garbled(workdir):
    (workdir / "config.json").write_text("{")


def another_kind(workdir):
    (workdir / "config.json").write_text("[]")


def of_another_network(workdir):
    undone(workdir)
    state = init_state(random_snn(SMALL_VGG, 0, leak=1.0)[1], optax.adam(1e-3))
    save(workdir / "ann", 60, state, {"journal": {}})


def with_garbled_metrics(workdir):
    undone(workdir)
    undone(workdir, "finetune")
    text = (workdir / "metrics.jsonl").read_text()
    (workdir / "metrics.jsonl").write_text(text.replace('{"stage": "ann", "step": 2', "\0\0\0"))


@pytest.mark.parametrize(
    ("arguments", "change", "sentence"),
    [
        (
            [*TINY, "--finetune.leak", "0.9"],
            lambda workdir: None,
            "belongs to another config: finetune.leak is 0.99 there and 0.9 here",
        ),
        ([], newer, "config.json is not a config of this version of jsnn"),
        ([], garbled, "config.json is not a config of this version of jsnn"),
        ([], another_kind, "config.json is not a config of this version of jsnn"),
        ([], of_another_network, "/ann/60 holds another network than this configuration's"),
        ([], with_garbled_metrics, "line 2 of"),
    ],
)
def test_a_workdir_that_cannot_be_used_is_refused_and_left_alone(arguments, change, sentence, tiny, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(tiny, workdir)
    change(workdir)
    before = state_of(workdir)
    assert sentence in refused(capsys, *arguments, "--workdir", str(workdir))
    assert state_of(workdir) == before


def test_folders_that_cannot_be_written_are_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere", "/dev/null/x"):
        assert refused(capsys, *TINY, "--workdir", str(workdir)).startswith("error: ")
    assert (tmp_path / "file").read_bytes() == b""


def test_a_log_that_cannot_be_written_is_told(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").mkdir()
    assert "Is a directory" in refused(capsys, *TINY, "--workdir", str(tmp_path))
    (tmp_path / "metrics.jsonl").rmdir()
    assert run(train_ann.train_ann, tmp_path, *TINY) == 0
