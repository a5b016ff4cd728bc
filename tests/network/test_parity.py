"""Whole networks against an independent PyTorch step loop: spikes, logits and gradients."""

from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn.conversion import paper_thresholds
from jsnn.kernels import cpu_convolution, winograd
from jsnn.models import VGG, ResNet, dropout_of
from jsnn.network import simulate
from jsnn.neurons.surrogate import linear, stdb
from tests.networks import SMALL_RESNET, SMALL_VGG, TINY_VGG, last_threshold, random_inputs, random_snn

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(find_spec("torch") is None, reason="parity needs PyTorch: pip install torch"),
]

STEPS, BATCH = 10, 3
LABELS = np.arange(BATCH)
SURROGATES = {"stdb": (stdb(0.3, 0.05), ("stdb", 0.3, 0.05)), "linear": (linear(0.3), ("linear", 0.3))}
# With two convolutions, or blocks, in a row.
DEEP_VGG = VGG(stages=(4, "A", 6, 5, "A"), hidden=(12, 9), num_classes=3)
DEEP_RESNET = ResNet(blocks=(1, 2, 0, 0), channels=(4, 6, 6, 6), num_classes=3)


@partial(jax.jit, static_argnums=(0, 1, 2))
def ours(ann, snn, chunk, variables, inputs, key):
    """The spikes by layer, the paper's logits, the loss of the last step and its gradients; the dropout's masks."""
    noise = {} if key is None else dropout_of(jnp.arange(BATCH), key)
    sown = {} if key is None else ann.apply({"params": variables["params"]}, inputs[0], **noise, mutable=["masks"])[1]
    masks = {name.removesuffix("_dropout"): mask["mask"] for name, mask in sown.get("masks", {}).items()}

    def objective(params):
        total, spikes = simulate(
            snn,
            {**variables, "params": params},
            lambda time: inputs.at[time].get(mode="fill", fill_value=0),
            lambda seen: (seen.total, seen.layers["spikes"]),
            num_steps=STEPS,
            chunk=chunk,
            collect=("spikes",),
            **noise,
        )
        logits = total / last_threshold(variables, ann)
        return optax.softmax_cross_entropy_with_integer_labels(logits[-1], LABELS).mean(), (logits, spikes)

    (loss, (logits, spikes)), gradients = jax.value_and_grad(objective, has_aux=True)(variables["params"])
    return (spikes, logits, loss, gradients), masks


def theirs(ann, variables, surrogate, inputs, masks):
    # Not above: PyTorch takes seconds to load, in every process that collects.
    from tests.network.torch_reference import run_resnet, run_vgg

    kernels = {layer: np.asarray(leaf["kernel"]) for layer, leaf in variables["params"].items()}
    neurons = variables["neurons"]
    thresholds = paper_thresholds({layer: neurons[layer]["threshold"] for layer in ann.spiking_layers})
    leak = float(neurons[ann.spiking_layers[0]]["leak"])
    run, shape = (run_vgg, ann.stages) if isinstance(ann, VGG) else (run_resnet, ann.blocks)
    return run(shape, kernels, thresholds, leak, surrogate, np.asarray(inputs), LABELS, masks)


def assert_parity(ann, surrogate, dropout, chunk, dtype, leak):
    """An SNN does in chunks what PyTorch does step by step."""
    (jax_surrogate, torch_surrogate), tolerance = SURROGATES[surrogate], 1e-10 if dtype == jnp.float64 else 1e-4
    snn, variables = random_snn(ann, seed=11, leak=leak, surrogate=jax_surrogate, dtype=dtype)
    inputs, key = random_inputs(STEPS, BATCH, dtype=dtype), jax.random.key(0) if dropout else None
    (spikes, logits, loss, gradients), masks = jax.device_get(ours(ann, snn, chunk, variables, inputs, key))
    expected = theirs(ann, variables, torch_surrogate, inputs, masks)
    assert bool(masks) == dropout
    for layer in ann.spiking_layers:
        np.testing.assert_array_equal(spikes[layer], expected.spikes[layer], err_msg=layer)
        assert 0.02 < expected.spikes[layer].mean() < 0.98, layer
    _assert_close(logits, expected.logits, tolerance, "logits")
    _assert_close(loss, expected.loss, tolerance, "loss")
    for layer, gradient in gradients.items():
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
        assert_parity(TINY_VGG, "stdb", True, 5, jnp.float64, leak=0.9)
    finally:
        jax.clear_caches()
    assert calls
