"""The benchmark's problem, figures and tables, and a whole tiny run of the contestants that are at hand."""

import json

import numpy as np
import pytest

from experiments.benchmark import figures, tables
from experiments.benchmark.__main__ import Arguments, benchmark, check
from experiments.benchmark.problem import Problem, load_problem, neurons, operations, save_problem
from experiments.benchmark.roster import OURS, ROSTER, STEP_LOOP, installed_version
from experiments.benchmark.series import Record, run, take_turns
from experiments.benchmark.worker import Task
from tests.conftest import ROOT
from tests.test_commands import command


def problem(seed=0):
    """4x4 images, a convolution of 6, a pool, hidden 5 and 3 classes."""
    rng = np.random.default_rng(seed)
    shapes = {"conv0": (3, 3, 2, 6), "dense0": (24, 5), "readout": (5, 3)}
    kernels = {layer: rng.normal(0, 0.4, shape).astype(np.float32) for layer, shape in shapes.items()}
    images = rng.uniform(-1, 1, (2, 4, 4, 2)).astype(np.float32)
    return Problem((6, "A"), kernels, {"conv0": 0.4, "dense0": 0.4}, 0.9, images, np.array([0, 2], np.int32))


def test_operations_and_neurons_are_counted_by_hand():
    per_image = 2 * (16 * 9 * 2 * 6) + 3 * (24 * 5 + 5 * 3)  # two products of the first layer, three of the others
    assert operations(problem(), num_steps=7) == 2 * per_image * 2 * 7
    assert neurons(problem()) == 16 * 6 + 5


def test_a_problem_is_read_as_it_was_written(tmp_path):
    one = problem()
    save_problem(tmp_path / "problem.npz", one)
    other = load_problem(tmp_path / "problem.npz", 2)
    assert (other.stages, other.thresholds, other.leak) == (one.stages, one.thresholds, one.leak)
    for layer, kernel in one.kernels.items():
        np.testing.assert_array_equal(other.kernels[layer], kernel)
    np.testing.assert_array_equal(load_problem(tmp_path / "problem.npz", 1).images, one.images[:1])


@pytest.mark.torch
@pytest.mark.parametrize("name", [STEP_LOOP, "PyTorch step loop, tuned"])
def test_the_step_loops_are_the_equations(name):
    pytest.importorskip("torch")
    import torch

    from experiments.benchmark import step_loop, tuned_loop
    from experiments.benchmark.torch_loop import neurons_of, step_by_step
    from experiments.benchmark.torch_network import channels_first, ignore, synapses
    from tests.torch_reference import run_vgg

    one, steps = problem(), 12
    inputs = np.random.default_rng(1).choice([-1, 0, 1], (steps, *one.images.shape)).astype(np.float32)
    surrogate = ("stdb", step_loop.ALPHA, step_loop.BETA)
    expected = run_vgg(one.stages, one.kernels, one.thresholds, one.leak, surrogate, inputs, one.labels, {})
    layers = synapses(one, "cpu")
    neurons = neurons_of(one, (step_loop if name == STEP_LOOP else tuned_loop).fire)
    logits = step_by_step(layers, neurons, (channels_first(x, "cpu") for x in inputs), ignore)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(one.labels.astype(np.int64))).backward()
    np.testing.assert_allclose(logits.detach(), expected.logits[-1], rtol=1e-4, atol=1e-4)
    readout = layers["readout"][-1].weight.grad.T
    np.testing.assert_allclose(readout, expected.gradients["readout"], rtol=1e-3, atol=1e-5)
    kernel = layers["conv0"][-1].weight.grad.permute(2, 3, 1, 0)
    np.testing.assert_allclose(kernel, expected.gradients["conv0"], rtol=1e-3, atol=1e-5)
    assert np.abs(expected.gradients["conv0"]).max() > 0


def record(contestant, seconds, num_steps=10, peak=8e6, what="train", **found):
    turns = [{"first": 9.0, "seconds": [s], "peak_bytes": peak, "rates": {"conv0": 0.1}, **found} for s in seconds]
    return Record(what, "vgg5", 2, num_steps, contestant, turns, None if turns else "over 240 s")


def test_figures_by_hand():
    assert figures.seconds_of(record(OURS, [3.0, 1.0, 2.0])) == figures.Seconds(2.0, 1.0, 3.0, 9.0)
    patient = record(OURS, [1.0])._replace(found=[{"first": 70.0, "seconds": []}])
    assert figures.seconds_of(patient).median == 70.0
    short, long = (record(OURS, [1.0], steps, temporaries_bytes=b) for steps, b in ((10, 8e6), (30, 8e6 + 500)))
    assert figures.growth_in_bits(short, long, neurons=50) == 8 * 500 / (50 * 2 * 20)
    twice = record(STEP_LOOP, [1.0], rates={"conv0": 0.2})
    assert figures.largest_ratio_of_rates([short, twice]) == 2.0


def test_the_tables_show_every_contestant_and_who_could_not():
    ours = record(OURS, [0.5], temporaries_bytes=3e6)
    floor = record(OURS, [0.25], what="rate", operations_per_second=2e11)
    text = tables.markdown([floor, ours, record(STEP_LOOP, [1.0]), record("norse", [])], {"vgg5": 50}, ["spyx"])
    rows = {row.split("|")[4].strip(): row for row in text.splitlines() if row.startswith("| vgg5")}
    assert "| 2.00 " in rows[OURS]
    assert "| 50% " in rows[OURS]
    assert "over 240 s" in rows["norse"]
    assert "floor: plain products at 200 GFLOP/s" in rows
    assert "absent: spyx" in text


def task(**changes):
    values = Task("train", OURS, "nowhere.npz", "", 2, 4, "cpu", 0.1, 60.0, 2**40)
    return values._replace(**changes)


def test_a_worker_that_fails_says_why_and_is_not_repeated():
    (found,) = take_turns("vgg5", [task()], repeats=2, timeout=100, say=lambda line: None)
    assert found.found == []
    assert "nowhere.npz" in found.why_not


def test_a_worker_that_takes_too_much_memory_is_ended(tmp_path):
    save_problem(tmp_path / "problem.npz", problem())
    assert run(task(problem=str(tmp_path / "problem.npz"), most_bytes=10**6), timeout=100) == "over 0 GB"


@pytest.mark.slow
def test_a_whole_tiny_benchmark(tmp_path):
    names = [OURS, STEP_LOOP, "norse"]
    small = {"width": 0.125, "hidden": (32,), "balanced_net": "vgg5", "balanced_width": 0.0625}
    shapes = {"shapes": ("2x8",), "long_shapes": ("2x16",), "evaluation": ("2x8",), "balancing": ("2x12",)}
    arguments = Arguments(**small, **shapes, contestants=tuple(names), repeats=1, seconds=0.1, output=tmp_path)
    text = benchmark(arguments)
    found = json.loads((tmp_path / "benchmark.json").read_text())
    absent = [name for name in names if installed_version(name) is None]
    assert found["absent"] == absent
    assert not [record["why_not"] for record in found["records"] if record["why_not"]]
    shown = {(record["what"], record["contestant"]) for record in found["records"]}
    assert {("train", OURS), ("evaluate", OURS), ("balance", OURS), ("rate", OURS)} <= shown
    assert all(("train", name) in shown for name in names if name not in absent)
    for record in found["records"]:
        if record["what"] == "balance" and STEP_LOOP not in absent:
            (peer,) = (r for r in found["records"] if r["what"] == "balance" and r["contestant"] == STEP_LOOP)
            assert record["found"][0]["thresholds"] == pytest.approx(peer["found"][0]["thresholds"], rel=1e-6)
    assert (f"Not installed, so absent: {', '.join(absent)}" in text) == bool(absent)
    assert (tmp_path / "benchmark.md").read_text() == text
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"nets": ("resnet20",)}, "net 'resnet20' can't be measured: the peers know vgg5"),
        ({"contestants": ("tensorflow",)}, "no contestant 'tensorflow': choose from 'jsnn'"),
        ({"shapes": ("16",)}, "shape '16' must be a batch and a number of time steps, such as 16x100"),
        ({"evaluation": ("0x4",)}, "shape '0x4'"),
        ({"device": "abacus"}, "device must be auto, cpu or cuda, got abacus"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"leak": 1.5}, r"leak must be in \(0, 1\], got 1.5"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        check(Arguments(**changes))


def test_the_command_refuses_in_a_sentence():
    process = command("experiments.benchmark", "--nets", "resnet20")
    assert process.returncode == 2
    assert process.stderr.startswith("error: net 'resnet20' can't be measured")


def test_every_contestant_has_its_module():
    assert all((ROOT / "experiments" / "benchmark" / f"{entry.module}.py").is_file() for entry in ROSTER.values())
