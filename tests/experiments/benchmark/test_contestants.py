"""The benchmark's problem, and its contestants, who compute the same: the equations, all spikes, the gradients."""

import re
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.benchmark import ours as our_net
from experiments.benchmark.problem import neurons, operations
from experiments.benchmark.roster import LINEAR, ROSTER, STDB, SURROGATES
from jsnn.conversion import convert, from_paper_thresholds
from jsnn.network.recording import record
from jsnn.network.simulation import Presentation
from tests.conftest import ROOT
from tests.experiments.benchmark.benchmark_problem import problem


def test_operations_and_neurons_are_counted_by_hand():
    per_image = 2 * (16 * 9 * 2 * 6) + 3 * (24 * 5 + 5 * 3)  # two products of the first layer, three of the others
    assert operations(problem(), num_steps=7) == 2 * per_image * 2 * 7
    assert neurons(problem()) == 16 * 6 + 5


def spikes_and_gradients(problem, tuned, inputs):
    """Of a step loop on inputs [T, B, H, W, C]: logits, each layer's spikes [T, B, ...], and gradients of kernels."""
    import torch

    from experiments.benchmark import step_loop

    network, emitted = step_loop.synapses(problem, "cpu"), defaultdict(list)
    steps = (step_loop.channels_first(x.astype(np.float32), "cpu") for x in inputs)
    for layer, x in step_loop.step_by_step(network, step_loop.neurons(problem, tuned), steps):
        emitted[layer].append(x)
    logits = sum(emitted.pop("readout"))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(problem.labels.astype(np.int64))).backward()
    spikes = {layer: np.moveaxis(torch.stack(steps).detach().numpy(), 2, -1) for layer, steps in emitted.items()}
    gradients = {layer: part[-1].weight.grad.numpy() for layer, part in network.items()}
    return logits.detach().numpy(), spikes, {layer: np.moveaxis(g, (0, 1), (-1, -2)) for layer, g in gradients.items()}


@pytest.mark.torch
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("tuned", [False, True])
def test_the_step_loops_are_the_equations(tuned, surrogate):
    pytest.importorskip("torch")
    from experiments.benchmark.step_loop import ALPHA, BETA, GAMMA
    from tests.network.torch_reference import run_vgg

    one = problem()._replace(surrogate=surrogate)
    inputs = np.random.default_rng(1).choice([-1, 0, 1], (12, *one.images.shape)).astype(np.float32)
    of_reference = {STDB: (STDB, ALPHA, BETA), LINEAR: (LINEAR, GAMMA)}[surrogate]
    expected = run_vgg(one.stages, one.kernels, one.thresholds, one.leak, of_reference, inputs, one.labels, {})
    logits, _, gradients = spikes_and_gradients(one, tuned, inputs)
    np.testing.assert_allclose(logits, expected.logits[-1], rtol=1e-4, atol=1e-4)
    for layer in ("readout", "conv0"):
        np.testing.assert_allclose(gradients[layer], expected.gradients[layer], rtol=1e-3, atol=1e-5)
    assert np.abs(expected.gradients["conv0"]).max() > 0


@pytest.fixture(scope="module")
def prepared():
    """The problem of a narrow VGG5, with inputs of 12 steps."""
    problem, rng = our_net.prepare("vgg5", 1 / 16, (16,), batch=2, leak=1.0), np.random.default_rng(0)
    fired = rng.random((12, *problem.images.shape)) < np.abs(problem.images)
    return problem._replace(inputs=(np.sign(problem.images) * fired).astype(np.int8))


def test_weights_and_thresholds_are_rounded_so_that_sums_are_exact(prepared):
    for kernel in prepared.kernels.values():
        np.testing.assert_array_equal(kernel, np.rint(kernel / our_net.GRID) * our_net.GRID)
    mantissas, _ = np.frexp(list(prepared.thresholds.values()))
    np.testing.assert_array_equal(mantissas, 0.5)


def of_jsnn(problem):
    """jsnn's network, its variables, and an encoding that gives the problem's inputs."""
    inputs, (snn, weights) = jnp.asarray(problem.inputs, jnp.float32), our_net.network(problem)
    variables = convert(snn, weights, from_paper_thresholds(problem.thresholds), leak=problem.leak)
    return snn, variables, lambda *arguments: inputs.at[arguments[-1]].get(mode="fill", fill_value=0)


@pytest.fixture(scope="module")
def spikes(prepared):
    """jsnn's, the same with either surrogate."""
    return record(*of_jsnn(prepared), num_steps=12)["spikes"]


@pytest.mark.torch
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_jsnn_and_the_step_loops_spike_alike_and_train_alike(surrogate, prepared, spikes):
    """On the same inputs: all spikes and logits to the last bit, and the gradients to rounding."""
    pytest.importorskip("torch")
    one = prepared._replace(surrogate=surrogate)
    snn, variables, given = of_jsnn(one)
    thresholds = from_paper_thresholds(one.thresholds)
    forward = our_net.forward_of(Presentation(snn, given, num_steps=12, chunk=5), thresholds, "exact")

    def loss(params):
        logits, _ = forward({**variables, "params": params}, one.images, jnp.arange(2), jax.random.key(0))
        return optax.softmax_cross_entropy_with_integer_labels(logits, one.labels).mean(), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    for tuned in (False, True):
        expected, of_peer, of_its = spikes_and_gradients(one, tuned, one.inputs)
        np.testing.assert_array_equal(logits, expected)
        for layer, train in spikes.items():
            np.testing.assert_array_equal(train, of_peer[layer])
            assert 0.01 < train.mean() < 0.5
        for layer in gradients.keys() - {"dense0"}:  # which PyTorch flattens channels first
            np.testing.assert_allclose(gradients[layer]["kernel"], of_its[layer], rtol=1e-3, atol=1e-6)
            assert np.abs(of_its[layer]).max() > 1e-3


def test_every_contestant_has_its_maker():
    for entry in ROSTER.values():
        module, maker = entry.make.split(".")
        text = (ROOT / "experiments" / "benchmark" / f"{module}.py").read_text()
        assert re.search(rf"^def {maker}\(\s*problem: Problem, _?num_steps: int, _?device: str", text, re.MULTILINE)
