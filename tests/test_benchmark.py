"""The benchmark's problem, figures and tables, and a whole tiny run of the contestants that are at hand."""

import json
import re
import runpy
import subprocess
from collections import defaultdict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

from experiments.benchmark import __main__ as main
from experiments.benchmark import chart, input_rate, worker
from experiments.benchmark import ours as our_net
from experiments.benchmark.__main__ import Arguments, benchmark, check, run, take_turns
from experiments.benchmark.problem import (
    ANN,
    FLOOR,
    LINEAR,
    OURS,
    ROSTER,
    STDB,
    STEP_LOOP,
    SURROGATES,
    Problem,
    load_problem,
    neurons,
    operations,
    package_of,
    save_problem,
)
from experiments.benchmark.report import markdown, medians
from experiments.benchmark.worker import Task
from jsnn.conversion import convert, from_paper_thresholds
from jsnn.data.datasets import Split
from jsnn.data.sources import resident_source
from jsnn.network.recording import record
from jsnn.network.simulation import Presentation
from jsnn.training.forward import snn_forward
from tests.conftest import ROOT

TUNED = "PyTorch step loop, tuned"


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
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("name", [STEP_LOOP, TUNED])
def test_the_step_loops_are_the_equations(name, surrogate):
    pytest.importorskip("torch")
    import torch

    from experiments.benchmark import step_loop
    from experiments.benchmark.step_loop import channels_first, step_by_step, synapses
    from tests.torch_reference import run_vgg

    one, steps = problem(), 12
    inputs = np.random.default_rng(1).choice([-1, 0, 1], (steps, *one.images.shape)).astype(np.float32)
    of_reference = {STDB: (STDB, step_loop.ALPHA, step_loop.BETA), LINEAR: (LINEAR, step_loop.GAMMA)}[surrogate]
    expected = run_vgg(one.stages, one.kernels, one.thresholds, one.leak, of_reference, inputs, one.labels, {})
    network = synapses(one, "cpu")
    fire = partial(step_loop.fire_of(surrogate, name == TUNED), leak=one.leak)
    fires = {layer: partial(fire, threshold=threshold) for layer, threshold in one.thresholds.items()}
    logits = sum(
        network["readout"](x) for x in step_by_step(network, fires, (channels_first(x, "cpu") for x in inputs))
    )
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(one.labels.astype(np.int64))).backward()
    np.testing.assert_allclose(logits.detach(), expected.logits[-1], rtol=1e-4, atol=1e-4)
    readout = network["readout"][-1].weight.grad.T
    np.testing.assert_allclose(readout, expected.gradients["readout"], rtol=1e-3, atol=1e-5)
    kernel = network["conv0"][-1].weight.grad.permute(2, 3, 1, 0)
    np.testing.assert_allclose(kernel, expected.gradients["conv0"], rtol=1e-3, atol=1e-5)
    assert np.abs(expected.gradients["conv0"]).max() > 0


@pytest.fixture(scope="module")
def prepared():
    """The problem of a narrow VGG5, with inputs of 12 steps."""
    problem = our_net.prepare("vgg5", 1 / 16, (16,), batch=2, leak=1.0)
    return problem._replace(inputs=our_net.inputs(problem, 12))


def test_weights_and_thresholds_are_rounded_so_that_sums_are_exact(prepared):
    for kernel in prepared.kernels.values():
        np.testing.assert_array_equal(kernel, np.rint(kernel / our_net.GRID) * our_net.GRID)
    mantissas, _ = np.frexp(list(prepared.thresholds.values()))
    np.testing.assert_array_equal(mantissas, 0.5)


@pytest.mark.torch
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("name", [STEP_LOOP, TUNED])
def test_jsnn_and_the_step_loops_spike_alike_and_train_alike(name, surrogate, prepared):
    """On the same inputs: all spikes and logits to the last bit, and the gradients to rounding."""
    pytest.importorskip("torch")
    import torch

    from experiments.benchmark import step_loop

    network, emitted = step_loop.synapses(prepared, "cpu"), defaultdict(list)
    fire = partial(step_loop.fire_of(surrogate, name == TUNED), leak=prepared.leak)
    fires = {layer: partial(fire, threshold=threshold) for layer, threshold in prepared.thresholds.items()}
    steps = (step_loop.channels_first(x.astype(np.float32), "cpu") for x in prepared.inputs)
    last = step_loop.step_by_step(network, fires, steps, lambda layer, spikes: emitted[layer].append(spikes.detach()))
    expected = sum(network["readout"](x) for x in last)
    torch.nn.functional.cross_entropy(expected, torch.from_numpy(prepared.labels.astype(np.int64))).backward()

    snn, weights = our_net._network(prepared._replace(surrogate=surrogate))
    variables = convert(snn, weights, from_paper_thresholds(prepared.thresholds), leak=prepared.leak)
    inputs = jnp.asarray(prepared.inputs, jnp.float32)

    def given(*arguments):
        return inputs.at[arguments[-1]].get(mode="fill", fill_value=0)

    what = Presentation(snn, given, num_steps=12, chunk=5)
    forward = snn_forward(what, our_net._paper_logits(prepared))

    @jax.jit
    def run(params):
        def loss(params):
            logits, _ = forward({**variables, "params": params}, prepared.images, jnp.arange(2), jax.random.key(0))
            return optax.softmax_cross_entropy_with_integer_labels(logits, prepared.labels).mean(), logits

        return jax.grad(loss, has_aux=True)(params)

    gradients, logits = run(variables["params"])
    spikes = record(snn, variables, given, num_steps=12)["spikes"]
    np.testing.assert_array_equal(logits, expected.detach())
    for layer, train in spikes.items():
        of_peer = torch.stack(emitted[layer])
        of_peer = of_peer.permute(0, 1, 3, 4, 2) if of_peer.ndim == 5 else of_peer
        np.testing.assert_array_equal(train, of_peer)
        assert 0.01 < train.mean() < 0.5
    for layer in gradients.keys() - {"dense0"}:  # which PyTorch flattens channels first
        gradient = network[layer][-1].weight.grad
        gradient = gradient.permute(2, 3, 1, 0) if gradient.ndim == 4 else gradient.T
        np.testing.assert_allclose(gradients[layer]["kernel"], gradient, rtol=1e-3, atol=1e-6)
        assert gradient.abs().max() > 1e-3


def records(contestant, seconds, num_steps=10, what="train", why_not=None, **measured):
    """One for each turn, and one for what ended them."""
    key = {"what": what, "net": "vgg5", "batch": 2, "num_steps": num_steps, "surrogate": STDB, "contestant": contestant}
    same = {"first": 9.0, "peak_bytes": 8e6, "rates": {"conv0": 0.1}, **measured}
    turns = [{**key, **same, "seconds": [second] if second else []} for second in seconds]
    return [*turns, {**key, "why_not": why_not}] if why_not else turns


def test_figures_by_hand():
    (row,) = medians(records(OURS, [3.0, 1.0, 2.0])).itertuples()
    assert (row.seconds, row.least, row.most, row.first, row.peak) == (2.0, 1.0, 3.0, 9.0, 8e6)
    (impatient,) = medians(records(OURS, [None], first=70.0)).itertuples()
    assert (impatient.seconds, impatient.least, impatient.most) == (70.0, 70.0, 70.0)
    (on_card,) = medians(records(OURS, [1.0], device_peak_bytes=3e6)).itertuples()
    assert on_card.peak == 3e6


def test_notes_by_hand():
    steps = {10: 8e6, 30: 8e6 + 625}
    lengths = [row for t in (30, 10) for row in records(OURS, [1.0], t, temporaries_bytes=steps[t], neurons=50)]
    bits = 8 * 625 / (50 * 2 * 20)
    assert f"they grow by {bits:.2f} bits per neuron and step at B=2 from T=10 to 30, stdb." in notes(*lengths)
    other = records(STEP_LOOP, [1.0], 30, rates={"conv0": 0.2})
    assert "mean of all layers: jsnn 0.100, PyTorch step loop 0.200; within a factor of 2.00" in notes(*lengths, *other)
    silent = records(STEP_LOOP, [1.0], 30, rates={"conv0": 0.0})
    assert "within a factor of inf" in notes(*lengths, *silent)


def notes(*measured):
    return markdown(medians(measured), [])


def test_the_tables_show_every_contestant_and_who_could_not():
    ours = records(OURS, [0.5], temporaries_bytes=3e6)
    floor = records(FLOOR, [0.25], rates=None, operations_per_second=2e11)
    peers = [*records(STEP_LOOP, [1.0]), *records("norse", [], why_not="over 240 s")]
    text = markdown(medians([*floor, *ours, *peers]), ["spyx"])
    rows = {row.split("|")[4].strip(): row for row in text.splitlines() if row.startswith("| vgg5")}
    assert list(rows) == ["floor: plain products at 200 GFLOP/s", OURS, STEP_LOOP, "norse"]
    assert "| 2.00 " in rows[OURS]
    assert "| 50% " in rows[OURS]
    assert "over 240 s" in rows["norse"]
    assert "temporaries of jsnn's compiled step: 3 MB at B=2, T=10, stdb" in text
    assert "absent: spyx" in text


def test_the_overview_has_a_column_for_each_shape_and_the_ann_in_each():
    ann = records(ANN, [0.2], 1, rates=None, peak_bytes=1e9)
    linear = [record | {"surrogate": LINEAR} for record in records(OURS, [0.6], peak_bytes=3e9)]
    slow = records(STEP_LOOP, [None], first=70.0, peak_bytes=2e9)
    text = markdown(medians([*ann, *records(OURS, [0.5], peak_bytes=2e9), *slow, *linear]), [])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.split("\n\n")[1].splitlines()]
    assert cells[0] == ["", "B=2, T=10, stdb", "B=2, T=10, linear"]
    assert cells[2] == [OURS, "0.50 (2.00 GB)", "0.60 (3.00 GB)"]
    assert cells[3] == [STEP_LOOP, "once 70.0 (2.00 GB)", "-"]
    assert cells[4] == [ANN, "0.20 (1.00 GB)", "0.20 (1.00 GB)"]
    (row,) = (line.split("|") for line in text.splitlines() if LINEAR in line and "0.600 (" in line)
    assert row[9].strip() == "3.0"  # in steps of the ANN


def test_the_picture_shows_no_time_of_a_first_call_alone():
    slow = [*records("spyx", [None], 4, first=70.0, peak_bytes=2e9), *records("spyx", [None], 16, first=90.0)]
    rows = medians([*records(OURS, [0.5], 4), *records(OURS, [2.0], 16), *slow])
    rows["gigabytes"] = rows.peak / 1e9
    for values, shown, steps in (("seconds", [0.5], [16]), ("gigabytes", [2.0, 0.008], [16, 16])):
        bars, lines = Figure().subplots(1, 2)
        chart._bars(bars, rows[rows.num_steps == 4], values)
        chart._lines(lines, rows[rows.num_steps == 16], values)
        assert [bar.get_width() for bar in bars.patches if bar.get_width() > 0] == shown
        assert [label.get_text() for label in bars.get_yticklabels()] == ["spyx", OURS]
        assert [step for line in lines.lines for step in line.get_xdata()] == steps


def test_the_table_of_balancing_compares_thresholds():
    ours = records(OURS, [1.0], what="balance", thresholds={"conv0": 1.0, "conv1": 3.0})
    loop = records(STEP_LOOP, [4.0], what="balance", thresholds={"conv0": 1.0, "conv1": 2.0})
    text = markdown(medians([*ours, *loop]), [])
    (row,) = (row for row in text.splitlines() if "jsnn, in one pass" in row)
    assert [cell.strip() for cell in row.split("|")[-3:-1]] == ["4.00", "5.0e-01"]


def task(**changes):
    values = Task("train", OURS, "cpu", 0.1, 60.0, 2**40, "vgg5", 2, 4, STDB, "nowhere")
    return values._replace(**changes)


def test_a_worker_that_fails_says_why_and_is_not_repeated():
    (record,) = take_turns([task()], repeats=2, timeout=100)
    assert "seconds" not in record
    assert "nowhere" in record["why_not"]


def test_a_worker_that_takes_too_much_memory_is_ended(tmp_path):
    save_problem(tmp_path / "problem.npz", problem())
    greedy = task(problem=str(tmp_path / "problem.npz"), most_bytes=10**6)
    assert run(greedy, timeout=100) == {"why_not": "over 0 GB"}


def test_a_worker_that_takes_too_long_is_ended():
    assert run(task(), timeout=0.01) == {"why_not": "over 0 s"}


def test_workers_ask_for_huge_pages(monkeypatch):
    environment = {}

    def recorded(command, env, **_):
        environment.update(env)
        return subprocess.CompletedProcess(command, 0, "{}", "")

    monkeypatch.setattr(main.subprocess, "run", recorded)
    monkeypatch.delenv("GLIBC_TUNABLES")  # the tests' own
    assert run(task(), timeout=1) == {}
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


OWN_PROCESS = {("machine", OURS), ("train", OURS), ("train", STEP_LOOP)}  # the rest is measured in this one


def measured(task, timeout):
    """What `run` returns; to start Python and to import the libraries takes longest."""
    if (task.what, task.contestant) in OWN_PROCESS:
        return run(task, timeout)
    return json.loads(json.dumps(getattr(worker, task.what)(task)))


@pytest.mark.slow
def test_a_whole_tiny_benchmark(tmp_path, monkeypatch):
    """Every kind of work by jsnn and the step loop; long, for compiling jsnn and importing PyTorch in own processes."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # nobody looks at the seconds
    monkeypatch.setattr(main, "run", measured)
    monkeypatch.setattr(worker, "_memory_before", lambda _: 0)  # which would watch this process
    names = [OURS, STEP_LOOP, "norse"]
    absent = [name for name in names if package_of(name) is None]
    small = {"width": 0.0625, "hidden": (), "balanced_net": "vgg5", "balanced_width": 0.0625}
    shapes = {"shapes": ("4x4-stdb",), "long_shapes": (), "evaluation": ("4x4",), "balancing": ("4x12",)}
    arguments = Arguments(**small, **shapes, contestants=tuple(names), repeats=1, seconds=0.0, output=tmp_path)
    text = benchmark(arguments)
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert written["absent"] == absent
    assert not [record["why_not"] for record in written["records"] if "why_not" in record]
    shown = {(record["what"], record["contestant"]): record for record in written["records"]}
    assert {("train", FLOOR), ("train", OURS), ("evaluate", OURS), ("balance", OURS)} <= shown.keys()
    assert all({("train", name), ("evaluate", name)} <= shown.keys() for name in names if name not in absent)
    assert min(shown["train", OURS][field] for field in ("compile", "peak_bytes", "temporaries_bytes", "neurons")) > 0
    if STEP_LOOP not in absent:
        assert shown["train", STEP_LOOP]["compile"] is None  # jax is not even imported
        ours, peer = shown["balance", OURS], shown["balance", STEP_LOOP]
        assert ours["thresholds"] == pytest.approx(peer["thresholds"], rel=1e-5)
    assert (f"Not installed, so absent: {', '.join(absent)}" in text) == bool(absent)
    assert (tmp_path / "benchmark.md").read_text() == text
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"nets": ("resnet20",)}, "net 'resnet20' can't be measured: the peers know vgg5"),
        ({"contestants": ("tensorflow",)}, "no contestant 'tensorflow': choose from 'jsnn'"),
        ({"shapes": ("16x4",)}, "'16x4' must be a batch, a number of time steps and a surrogate, such as 16x100-stdb"),
        ({"long_shapes": ("16x4-arctan",)}, "shape '16x4-arctan' must be"),
        ({"evaluation": ("0x4",)}, "shape '0x4'"),
        ({"device": "abacus"}, "device must be auto, cpu or cuda, got abacus"),
        ({"shapes": (), "long_shapes": ()}, "no training step is to be measured"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"leak": 1.5}, r"leak must be in \(0, 1\], got 1.5"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        check(Arguments(**changes))


def test_the_command_refuses_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark", "--nets", "resnet20"])
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(main.__file__, run_name="__main__")
    assert refused.value.code == 2
    assert capsys.readouterr().err.startswith("error: net 'resnet20' can't be measured")


def test_every_contestant_has_its_maker():
    for entry in ROSTER.values():
        module, maker = entry.make.split(".")
        text = (ROOT / "experiments" / "benchmark" / f"{module}.py").read_text()
        assert re.search(rf"^def {maker}\(\s*problem: Problem, _?num_steps: int, device: str", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dataset": "digits"}, "digits is read at once, not streamed"),
        ({"batch_size": 0}, "batch_size must be from 1 to 30, got 0"),
        ({"batch_size": 31}, "batch_size must be from 1 to 30, got 31"),
        ({"batches": 0}, "batches must be from 1"),
    ],
)
def test_a_stream_that_cannot_be_timed_is_refused(changes, sentence, monkeypatch):
    stream = resident_source(Split(np.zeros((30, 2, 2, 1), np.uint8), np.zeros(30, np.int32)))
    monkeypatch.setattr(input_rate, "streamed_source", lambda *_: stream)
    with pytest.raises(ValueError, match=sentence):
        input_rate.images_per_second(input_rate.Arguments(**changes))
