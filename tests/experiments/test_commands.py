"""The commands run a pipeline in a workdir, stage by stage, and leave there all that the next needs."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest

from experiments import convert, evaluate, finetune, hybrid, train_ann
from experiments.report import report
from experiments.runs import loop
from experiments.runs.command_line import parse
from experiments.runs.workdir import read_record, read_results
from jsnn.conversion import from_paper_thresholds
from tests.conftest import ROOT
from tests.experiments.commands import PIPELINE, SHORT, TINY, again, metrics, outcome, run, without_time

STAGES = (train_ann.train_ann, convert.convert_ann, finetune.finetune, evaluate.evaluate)


def test_a_run_leaves_what_it_should(tiny):
    results = read_results(tiny)
    assert results["converted"]["scaling_factor"] == 0.5
    layers = ["conv0", "conv1", "conv2", "dense0"]
    assert list(results["converted"]["thresholds"]) == layers
    for network in ("converted", "hybrid"):
        scores = results[network]
        assert len(scores["accuracy_by_step"]) == 6
        assert scores["accuracy"] == pytest.approx(scores["accuracy_by_step"][3])
        assert 0 <= scores["accuracy_std"] < 0.2
        assert list(results["spikes_per_neuron"][network]) == layers
        assert all(0 < spikes <= 4 for spikes in results["spikes_per_neuron"][network].values())
    assert results["converted"]["accuracy_by_step"] != results["converted"]["accuracy_by_step_at_factor_1"]
    assert 0 < results["ann"]["accuracy"] < 1
    assert results["hybrid"]["epochs"] == 2
    assert set(results["seconds"]) == {"train_ann", "convert", "finetune", "evaluate"}
    assert {"jax", "flax"} <= set(results["environment"]["versions"])
    steps = [(record["stage"], record["step"]) for record in metrics(tiny)]
    assert steps == [("ann", 1), ("ann", 2), ("ann", 3), ("hybrid", 1), ("hybrid", 2)]
    for name in ("accuracy_by_step.png", "training.png", "spikes.png"):
        assert (tiny / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((tiny / "results.json").read_text())["config"]["network"]["width"] == 0.0625


def test_stages_one_by_one_equal_the_pipeline(tiny, tmp_path):
    for stage in STAGES:
        assert run(stage, tmp_path, *TINY) == 0
    assert outcome(tmp_path) == outcome(tiny)


def test_a_finished_run_is_not_run_again(tiny_copy, capsys, monkeypatch):
    monkeypatch.setattr(loop, "_run_epoch", None)
    before = (tiny_copy / "results.json").read_bytes()
    assert run(PIPELINE, tiny_copy) == 0  # with the config of the workdir
    assert run(PIPELINE, tiny_copy, "--chunk", "3", "--eval-batch-size", "64") == 0  # which change no result
    assert capsys.readouterr().out.count("done before") == 8
    assert (tiny_copy / "results.json").read_bytes() == before


def test_a_stage_can_be_repeated_and_undoes_what_follows(tiny, tiny_copy):
    assert run(partial(again, "convert", convert.convert_ann), tiny_copy) == 0
    assert set(read_record(tiny_copy).stages) == {"train_ann", "convert"}
    assert [(tiny_copy / network).exists() for network in ("ann", "converted", "hybrid")] == [True, True, False]
    assert run(PIPELINE, tiny_copy) == 0
    assert outcome(tiny_copy) == outcome(tiny)


def test_bfloat16_goes_through_the_same_commands(tiny, tmp_path):
    assert run(PIPELINE, tmp_path, *TINY, *SHORT, "--precision", "bfloat16") == 0
    rounded, exact = read_results(tmp_path), read_results(tiny)
    assert rounded["converted"]["thresholds"] != exact["converted"]["thresholds"]
    first = [results["converted"]["thresholds"]["conv0"] for results in (rounded, exact)]
    assert first[0] == pytest.approx(first[1], rel=0.05)


def test_batch_norm_takes_no_parts_of_a_batch(tmp_path, capsys):
    assert run(train_ann.train_ann, tmp_path, *TINY, "--norm", "batch", "--accumulate", "2") == 2
    assert "accumulate 2 would give each part of a batch a batch norm of its own" in capsys.readouterr().err


def test_a_workdir_holds_everything_that_a_run_needs(tiny):
    config = parse("test", "", ["--workdir", str(tiny)]).config
    assert config == read_record(tiny).config
    state = finetune.finetuned_snn(hybrid.Run(config, tiny))
    assert float(state["neurons"]["conv0"]["leak"]) == pytest.approx(0.99)
    of_paper = read_results(tiny)["converted"]["thresholds"]
    expected_thresholds = from_paper_thresholds({layer: 0.5 * v for layer, v in of_paper.items()})
    thresholds = {layer: float(values["threshold"]) for layer, values in state["neurons"].items()}
    assert thresholds == pytest.approx(expected_thresholds)


def test_several_runs_side_by_side(tiny, tmp_path):
    text = report((tiny, tiny), tmp_path)
    rows = text.splitlines()
    assert len(rows) == 4
    assert f"{read_results(tiny)['ann']['accuracy']:.2%}" in rows[2]
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="holds no finished run"):
        report((tmp_path,), tmp_path)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_before_its_turn_is_refused(stage, tmp_path, capsys):
    assert run(stage, tmp_path, *TINY) == 2
    assert "run `python -m experiments." in capsys.readouterr().err


COUNTING_HITS = """
import sys, jax
from experiments import evaluate
from experiments.runs import command_line
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if "cache_hits" in event else None)
status = command_line.main("test", "", evaluate.evaluate, sys.argv[1:])
print("taken from the cache:", len(hits))
sys.exit(status)
"""


def python(*arguments):
    """A process of its own, its programs as users get them: it computes more than it compiles."""
    flags = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in flags}
    options = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 600, "check": False}
    return subprocess.run([sys.executable, *arguments], **options)


@pytest.mark.slow
def test_the_default_command_reaches_what_the_readme_says(tmp_path):
    """`python -m experiments.hybrid`, from nothing to the report, on one device, in at most 40 lines.

    Then another process evaluates once more, by the programs that the first one kept.
    """
    options = ["--workdir", str(tmp_path / "run"), "--compilation-cache", str(tmp_path / "programs")]
    process = python("-m", "experiments.hybrid", *options)
    assert process.returncode == 0, process.stderr
    assert "| VGG5 x0.25, digits (QCFS, neurons trained) |" in process.stdout
    assert len(process.stdout.splitlines()) <= 40
    assert "ann 50%  epoch 50/100  loss " in process.stdout
    results = read_results(tmp_path / "run")
    ann, converted, tuned = results["ann"], results["converted"], results["hybrid"]
    assert ann["accuracy"] >= 0.97
    assert converted["accuracy_by_step_at_factor_1"][63] >= ann["accuracy"] - 0.01
    assert tuned["accuracy"] >= 0.96
    assert tuned["accuracy"] >= converted["accuracy"] - max(tuned["accuracy_std"], converted["accuracy_std"])
    process = python("-c", COUNTING_HITS, *options)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout.split()[-1]) > 0
    assert without_time(read_results(tmp_path / "run")) == without_time(results)
