"""Whole networks against an independent PyTorch step loop: spikes, logits and gradients."""

from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.conversion import paper_thresholds
from jsnn.kernels import cpu_convolution, winograd
from jsnn.models import VGG, dropout_of
from jsnn.network.transformation import NEURONS
from jsnn.neurons.surrogate import linear, stdb
from tests.networks import DEEP_RESNET, DEEP_VGG, SMALL_RESNET, SMALL_VGG, random_inputs, random_snn, run_network

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(find_spec("torch") is None, reason="parity needs PyTorch: pip install torch"),
]

STEPS, BATCH = 10, 3
SURROGATES = {"stdb": (stdb(0.3, 0.05), ("stdb", 0.3, 0.05)), "linear": (linear(0.3), ("linear", 0.3))}


@partial(jax.jit, static_argnums=0)
def masks_of(ann, variables, inputs, key):
    """The dropout masks that the model draws for a key, by layer."""
    if key is None:
        return {}
    _, sown = ann.apply(variables, inputs[0], **dropout_of(jnp.arange(BATCH), key), mutable=["masks"])
    return {name.removesuffix("_dropout"): mask["mask"] for name, mask in sown["masks"].items()}


def theirs(ann, variables, surrogate, inputs, labels, masks):
    # Not above: PyTorch takes seconds to load, in every process that collects.
    from tests.network.torch_reference import run_resnet, run_vgg

    kernels = {layer: np.asarray(leaf["kernel"]) for layer, leaf in variables["params"].items()}
    ours = {layer: variables[NEURONS][layer]["threshold"] for layer in ann.spiking_layers}
    thresholds = {layer: float(threshold) for layer, threshold in paper_thresholds(ours).items()}
    leak = float(next(iter(variables[NEURONS].values()))["leak"])
    run, shape = (run_vgg, ann.stages) if isinstance(ann, VGG) else (run_resnet, ann.blocks)
    return run(shape, kernels, thresholds, leak, surrogate, np.asarray(inputs), labels, masks)


def assert_parity(ann, surrogate, dropout, chunk, dtype, leak):
    """An SNN does in chunks what PyTorch does step by step."""
    (jax_surrogate, torch_surrogate), tolerance = SURROGATES[surrogate], 1e-10 if dtype == jnp.float64 else 1e-4
    snn, variables = random_snn(ann, seed=11, leak=leak, surrogate=jax_surrogate, dtype=dtype)
    inputs, labels = random_inputs(STEPS, BATCH, dtype=dtype), np.arange(BATCH)
    key = jax.random.key(0) if dropout else None
    shown = run_network(ann, snn, chunk, variables, inputs, labels, key)
    masks = jax.device_get(masks_of(ann, {"params": variables["params"]}, inputs, key))
    expected = theirs(ann, variables, torch_surrogate, inputs, labels, masks)
    assert bool(masks) == dropout
    for layer in ann.spiking_layers:
        np.testing.assert_array_equal(shown.spikes[layer], expected.spikes[layer], err_msg=layer)
        assert 0.02 < expected.spikes[layer].mean() < 0.98, layer
    _assert_close(shown.logits, expected.logits, tolerance, "logits")
    _assert_close(shown.loss, expected.loss, tolerance, "loss")
    for layer, gradient in shown.gradients.items():
        assert gradient["kernel"].dtype == dtype
        _assert_close(gradient["kernel"], expected.gradients[layer], tolerance, layer)


def _assert_close(value, expected, tolerance, name):
    """Relative to the norm of the whole array."""
    error, norm = np.linalg.norm(np.asarray(value) - expected), np.linalg.norm(expected)
    assert norm > 0, name
    assert error <= tolerance * norm, f"{name}: {error / norm:.1e}"


# Any two of network, surrogate and dropout meet in one of those in double precision.
CASES = [
    (DEEP_VGG, "stdb", True, 5, jnp.float64),
    (SMALL_VGG, "linear", False, 1, jnp.float64),
    (SMALL_RESNET, "stdb", False, 10, jnp.float64),
    (DEEP_RESNET, "linear", True, 4, jnp.float64),
    (SMALL_RESNET, "stdb", True, 1, jnp.float32),
]
IDS = [f"{type(ann).__name__} {surrogate} {dtype.__name__}" for ann, surrogate, _, _, dtype in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_spikes_logits_and_gradients_are_those_of_pytorch(case):
    with jax.enable_x64(jnp.float64 in case):
        for leak in (1.0, 0.9):
            assert_parity(*case, leak)


def test_winograds_convolutions_give_what_pytorch_gives(float64, monkeypatch):
    calls, convolve = [], winograd.convolve
    monkeypatch.setattr(cpu_convolution, "CHANNELS_FOR_WINOGRAD", 1)  # networks for tests are narrow
    monkeypatch.setattr(winograd, "convolve", lambda *arguments: calls.append(arguments) or convolve(*arguments))
    jax.clear_caches()
    try:
        assert_parity(SMALL_VGG, "stdb", True, 5, jnp.float64, leak=0.9)
    finally:
        jax.clear_caches()
    assert calls
