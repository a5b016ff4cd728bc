"""The commands run a pipeline in a workdir, stage by stage, and leave there all that the next needs."""

import os
import subprocess
import sys

import pytest

from experiments import convert, evaluate, finetune, train_ann
from experiments.hybrid import hybrid
from experiments.report import report
from experiments.runs import loop
from experiments.runs.command_line import run_stage
from experiments.runs.workdir import read_record, read_results
from jsnn.conversion import from_paper_thresholds
from tests.conftest import ROOT
from tests.experiments.commands import SHORT, TINY, metrics, opened, outcome, run

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
    neurons = finetune.finetuned_snn(opened(tiny))["neurons"]
    assert float(neurons["conv0"]["leak"]) == pytest.approx(0.99)
    scaled = {layer: 0.5 * threshold for layer, threshold in results["converted"]["thresholds"].items()}
    thresholds = {layer: float(of_layer["threshold"]) for layer, of_layer in neurons.items()}
    assert thresholds == pytest.approx(from_paper_thresholds(scaled))


def test_stages_one_by_one_equal_the_pipeline(tiny, tmp_path):
    for stage in STAGES:
        assert run(stage, tmp_path, *TINY) == 0
    assert outcome(tmp_path) == outcome(tiny)


def test_a_finished_run_is_not_run_again(tiny_copy, capsys, monkeypatch):
    monkeypatch.setattr(loop, "_run_epoch", None)
    before = (tiny_copy / "results.json").read_bytes()
    assert run(hybrid, tiny_copy) == 0  # with the config of the workdir
    assert run(hybrid, tiny_copy, "--chunk", "3", "--eval-batch-size", "64") == 0  # which change no result
    assert capsys.readouterr().out.count("done before") == 8
    assert (tiny_copy / "results.json").read_bytes() == before


def test_a_stage_can_be_repeated_and_undoes_what_follows(tiny, tiny_copy, monkeypatch):
    monkeypatch.setattr("sys.argv", ["test", "--workdir", str(tiny_copy)])
    with pytest.raises(SystemExit, match=r"^0$"):
        run_stage("convert", "", convert.convert_ann)
    assert set(read_record(tiny_copy).stages) == {"train_ann", "convert"}
    assert [(tiny_copy / network).exists() for network in ("ann", "converted", "hybrid")] == [True, True, False]
    assert run(hybrid, tiny_copy) == 0
    assert outcome(tiny_copy) == outcome(tiny)


def test_bfloat16_goes_through_the_same_commands(tiny, tmp_path):
    assert run(hybrid, tmp_path, *TINY, *SHORT, "--precision", "bfloat16") == 0
    rounded, exact = read_results(tmp_path), read_results(tiny)
    assert rounded["converted"]["thresholds"] != exact["converted"]["thresholds"]
    first = [results["converted"]["thresholds"]["conv0"] for results in (rounded, exact)]
    assert first[0] == pytest.approx(first[1], rel=0.05)


def test_batch_norm_takes_no_parts_of_a_batch(tmp_path, capsys):
    assert run(train_ann.train_ann, tmp_path, *TINY, "--norm", "batch", "--accumulate", "2") == 2
    assert "accumulate 2 would give each part of a batch a batch norm of its own" in capsys.readouterr().err


def test_several_runs_side_by_side(tiny, tmp_path):
    rows = report((tiny, tiny), tmp_path).splitlines()
    assert len(rows) == 4
    assert f"{read_results(tiny)['ann']['accuracy']:.2%}" in rows[2]
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="holds no finished run"):
        report((tmp_path,), tmp_path)


def test_a_stage_before_its_turn_is_refused(tmp_path, capsys):
    for stage in STAGES[1:]:
        assert run(stage, tmp_path, *TINY) == 2
        assert "run `python -m experiments." in capsys.readouterr().err


@pytest.mark.slow
def test_the_default_command_reaches_what_the_readme_says(tmp_path):
    """From nothing to the report, on one device, its programs as users get them: it computes more than it compiles."""
    of_tests = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")  # see tests.conftest
    environment = {name: value for name, value in os.environ.items() if name not in of_tests}
    command = [sys.executable, "-m", "experiments.hybrid", "--workdir", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "| VGG5 x0.25, digits (QCFS, neurons trained) |" in process.stdout
    assert len(process.stdout.splitlines()) <= 40
    assert "ann 50%  epoch 50/100  loss " in process.stdout
    ann, converted, tuned = (read_results(tmp_path)[name] for name in ("ann", "converted", "hybrid"))
    assert ann["accuracy"] >= 0.97
    assert converted["accuracy_by_step_at_factor_1"][63] >= ann["accuracy"] - 0.01
    assert tuned["accuracy"] >= 0.96
    assert tuned["accuracy"] >= converted["accuracy"] - max(tuned["accuracy_std"], converted["accuracy_std"])
