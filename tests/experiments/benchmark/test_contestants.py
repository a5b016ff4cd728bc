"""The benchmark's problem, and its contestants, who compute the same: the equations, all spikes, the gradients."""

import re
from collections import defaultdict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.benchmark import ours as our_net
from experiments.benchmark.problem import (
    LINEAR,
    ROSTER,
    STDB,
    STEP_LOOP,
    SURROGATES,
    load_problem,
    neurons,
    operations,
    save_problem,
)
from jsnn.conversion import convert, from_paper_thresholds
from jsnn.network.recording import record
from jsnn.network.simulation import Presentation
from jsnn.training.forward import snn_forward
from tests.conftest import ROOT
from tests.experiments.benchmark.benchmark_problem import problem

TUNED = "PyTorch step loop, tuned"


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
    from tests.network.torch_reference import run_vgg

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


def test_every_contestant_has_its_maker():
    for entry in ROSTER.values():
        module, maker = entry.make.split(".")
        text = (ROOT / "experiments" / "benchmark" / f"{module}.py").read_text()
        assert re.search(rf"^def {maker}\(\s*problem: Problem, _?num_steps: int, device: str", text, re.MULTILINE)
