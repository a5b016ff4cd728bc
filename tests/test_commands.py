"""The command line: stages and their workdir, bad input, real data for a few steps."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from experiments import convert, evaluate, finetune, hybrid, train_ann
from experiments.config import check, from_json
from experiments.fields import Config, Data
from experiments.presets import PRESETS
from experiments.report import report
from experiments.runs import compilation, epochs, huge_pages, journal
from experiments.runs.command_line import Arguments, parse
from experiments.runs.fitting import check_fits
from experiments.runs.networks import presentation_of, snn_like
from experiments.runs.records import read_results, saved_config
from jsnn.conversion import from_paper_thresholds
from jsnn.network.bptt import Keys, present
from jsnn.training.checkpoint import restore
from jsnn.training.step import init_state
from tests.commands import SHORT, TINY, Killed, again, outcome, run, without_time
from tests.conftest import ROOT

PIPELINE = hybrid.hybrid


def test_a_run_leaves_what_it_should(tiny):
    results = json.loads((tiny / "results.json").read_text())
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
    assert results["seconds"].keys() == results["compile_seconds"].keys()
    assert min(results["compile_seconds"].values()) > 0
    assert {"jax", "flax"} <= set(results["environment"]["versions"])
    records = [json.loads(line) for line in (tiny / "metrics.jsonl").read_text().splitlines()]
    steps = [(record["stage"], record["step"]) for record in records]
    assert steps == [("ann", 1), ("ann", 2), ("ann", 3), ("hybrid", 1), ("hybrid", 2)]
    for name in ("accuracy_by_step.png", "training.png", "spikes.png"):
        assert (tiny / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((tiny / "config.json").read_text())["network"]["width"] == 0.0625


def test_stages_one_by_one_equal_the_pipeline(tiny, tmp_path):
    for stage in (train_ann.train_ann, convert.convert_ann, finetune.finetune, evaluate.evaluate):
        assert run(stage, tmp_path, *TINY) == 0
    assert outcome_of(tmp_path) == outcome_of(tiny)


def outcome_of(workdir):
    return without_time(read_results(workdir))


def test_a_finished_run_is_not_run_again(tiny_copy, capsys, monkeypatch):
    monkeypatch.setattr(epochs, "parallel_train_step", None)
    before = (tiny_copy / "results.json").read_bytes()
    assert run(PIPELINE, tiny_copy) == 0  # with the config of the workdir
    assert run(PIPELINE, tiny_copy, "--chunk", "3", "--eval-batch-size", "64") == 0  # which change no result
    assert capsys.readouterr().out.count("done before") == 8
    assert (tiny_copy / "results.json").read_bytes() == before


def test_an_interrupted_run_goes_on_and_ends_the_same(tiny, tmp_path, monkeypatch):
    save, saved = journal.save, []

    def save_twice(*arguments):
        save(*arguments)
        saved.append(arguments[1])
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(journal, "save", save_twice)
    with pytest.raises(KeyboardInterrupt):
        run(train_ann.train_ann, tmp_path, *TINY)
    assert run(train_ann.train_ann, tmp_path, *TINY) == 0
    assert saved == [20, 40, 60]
    one, other = (outcome(workdir)[1] for workdir in (tmp_path, tiny))
    assert one == other[:3]


def test_a_stage_can_be_repeated_and_undoes_what_follows(tiny, tiny_copy):
    assert run(partial(again, "convert", convert.convert_ann), tiny_copy) == 0
    assert set(read_results(tiny_copy)["seconds"]) == {"train_ann", "convert"}
    assert "hybrid" not in read_results(tiny_copy)
    assert not (tiny_copy / "hybrid").exists()
    assert (tiny_copy / "ann").exists()
    assert run(PIPELINE, tiny_copy) == 0
    assert outcome(tiny_copy) == outcome(tiny)


def command(module, *arguments):
    """A command in a process of its own, see `python`."""
    return python("-m", module, *arguments)


def python(*arguments):
    """A process of its own, its programs as users get them: it computes more than it compiles."""
    flags = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in flags}
    options = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 600, "check": False}
    return subprocess.run([sys.executable, *arguments], **options)


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


def test_bfloat16_goes_through_the_same_commands(tiny, tmp_path):
    assert run(PIPELINE, tmp_path, *TINY, *SHORT, "--precision", "bfloat16") == 0
    rounded, exact = read_results(tmp_path), read_results(tiny)
    assert rounded["converted"]["thresholds"] != exact["converted"]["thresholds"]
    first = [results["converted"]["thresholds"]["conv0"] for results in (rounded, exact)]
    assert first[0] == pytest.approx(first[1], rel=0.05)


def test_training_from_scratch_starts_from_other_weights(tiny, tmp_path):
    assert run(PIPELINE, tmp_path, *TINY, "--finetune.start", "scratch", "--from-run", str(tiny)) == 0
    results, converted = read_results(tmp_path), read_results(tiny)
    assert results["ann"]["accuracy"] == converted["ann"]["accuracy"]
    assert results["hybrid"]["accuracy_by_step"] != converted["hybrid"]["accuracy_by_step"]


def test_the_control_from_scratch_has_no_logits_to_calibrate(tiny):
    config = saved_config(tiny)
    scratch = with_finetune(config, start="scratch")
    assert finetune.logit_scale(hybrid.Run(scratch, tiny, None)) == 1.0
    scale = read_results(tiny)["converted"]["logit_scale"]
    assert finetune.logit_scale(hybrid.Run(config, tiny, None)) == scale
    assert finetune.logit_scale(hybrid.Run(with_finetune(config, logit_scale=0.1), tiny, None)) == 0.1


def test_a_fine_tune_has_the_papers_logits_calibrated_in_its_loss(tiny_copy, monkeypatch):
    """Sums over time, in units of the last layer's threshold, times the factor that the conversion found."""
    begun = []

    def begin(*arguments):
        begun.append(arguments)
        raise Killed

    monkeypatch.setattr(finetune, "validator", lambda *_: lambda _: 0.5)
    monkeypatch.setattr(finetune, "train", begin)
    opened = hybrid.Run(saved_config(tiny_copy), tiny_copy, None)
    with pytest.raises(Killed):
        finetune.finetune(opened)
    ((_, training, state),) = begun
    images = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)
    variables, index, key = state.variables(), jnp.arange(8), jax.random.key(0)
    logits = jax.jit(training.forward)(variables, images, index, key)[0].logits
    what = presentation_of(opened.config, opened.config.convert.num_steps)
    outcome = jax.jit(partial(present, what))(variables, images, index, Keys(*jax.random.split(key)))
    unit = variables["neurons"]["dense0"]["threshold"] / read_results(tiny_copy)["converted"]["logit_scale"]
    assert np.abs(logits).max() > 0
    np.testing.assert_allclose(logits, outcome.results.sum(0) / unit, rtol=1e-5)


def with_finetune(config, **fields):
    return dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, **fields))


def test_a_checkpoint_holds_everything_that_a_run_needs(tiny):
    parsed = parse("test", "", ["--workdir", str(tiny)])
    expected = json.loads((tiny / "config.json").read_text())
    assert from_json(expected) == parsed.config
    state = finetune.finetuned_snn(hybrid.Run(parsed.config, tiny, None))
    assert float(state["neurons"]["conv0"]["leak"]) == pytest.approx(0.99)
    of_paper = read_results(tiny)["converted"]["thresholds"]
    expected_thresholds = from_paper_thresholds({layer: 0.5 * v for layer, v in of_paper.items()})
    thresholds = {layer: float(values["threshold"]) for layer, values in state["neurons"].items()}
    assert thresholds == pytest.approx(expected_thresholds)
    record = restore(tiny / "hybrid", hybrid_state_like(parsed.config)).record
    assert record["config"] == expected


def hybrid_state_like(config):
    """The structure of the checkpoint of the fine-tuned net."""
    rule = finetune._rule(config)
    return jax.eval_shape(lambda: init_state(snn_like(config), rule))


def test_several_runs_side_by_side(tiny, tmp_path):
    text = report((tiny, tiny), tmp_path)
    rows = text.splitlines()
    assert len(rows) == 4
    accuracy = json.loads((tiny / "results.json").read_text())["ann"]["accuracy"]
    assert f"{accuracy:.2%}" in rows[2]
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="holds no finished run"):
        report((tmp_path,), tmp_path)


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


@pytest.mark.parametrize("stage", [convert.convert_ann, finetune.finetune, evaluate.evaluate])
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


@pytest.mark.slow
def test_the_default_command_reaches_what_the_readme_says(tmp_path):
    """`python -m experiments.hybrid`, from nothing to the report, on one device: a minute, as a user waits it.

    Then another process evaluates once more, by the programs that the first one kept.
    """
    options = ["--workdir", str(tmp_path / "run"), "--compilation-cache", str(tmp_path / "programs")]
    process = command("experiments.hybrid", *options)
    assert process.returncode == 0, process.stderr
    assert "| VGG5 x0.25, digits (QCFS, neurons trained) |" in process.stdout
    results = read_results(tmp_path / "run")
    ann, converted, tuned = results["ann"], results["converted"], results["hybrid"]
    assert ann["accuracy"] >= 0.97
    assert converted["accuracy_by_step_at_factor_1"][63] >= ann["accuracy"] - 0.01
    assert tuned["accuracy"] >= 0.96
    assert tuned["accuracy"] >= converted["accuracy"] - max(tuned["accuracy_std"], converted["accuracy_std"])
    process = python("-c", COUNTING_HITS, *options)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout.split()[-1]) > 0
    assert outcome_of(tmp_path / "run") == without_time(results)
