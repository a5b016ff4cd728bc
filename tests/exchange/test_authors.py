"""The authors' checkpoints: the same logits and spikes as in PyTorch and in their units."""

import jax.numpy as jnp
import numpy as np
import pytest

import jsnn
from jsnn.exchange import read_torch_file
from tests.exchange.authors import SIDE, authors_resnet, authors_vgg, loaded, torch
from tests.network.torch_reference import run_resnet, run_vgg

pytestmark = pytest.mark.torch
THRESHOLDS, STEPS = [0.25, 0.125, 0.125, 0.03125], 6


NAMES = (
    "conv0 conv1 conv2 block0_conv0 block0_conv1 block1_conv0 block1_conv1 block1_shortcut block2_conv0 block2_conv1"
)
OF_RESNET = {"conv0": 0.5, "conv1": 0.25, "conv2": 0.25}  # those of blocks are trained, as of DIET-SNN
OF_RESNET |= {"block0_conv0": 1, "block0_conv1": 0.25, "block1_conv0": 0.25, "block1_conv1": 0.5}
OF_RESNET |= {"block2_conv0": 0.5, "block2_conv1": 0.5}


@pytest.mark.parametrize("make", [authors_vgg, authors_resnet])
def test_the_authors_ann_gives_the_same_logits(make, tmp_path):
    module = make().eval()
    torch.save({"accuracy": 0.9, "epoch": 3, "state_dict": module.state_dict()}, tmp_path / "ann.pth")
    ann, variables, num_steps = loaded(tmp_path / "ann.pth")
    assert (set(variables), num_steps) == ({"params"}, None)
    x = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 2)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(ann.apply(variables, x), expected, rtol=1e-5, atol=1e-6)


def assert_spikes_as_in_their_units(path, state, run, stages, thresholds, kernels):
    """A network of theirs and what it has become have the same spikes, of kernels or else those that it has become."""
    torch.save(state | {"scaling_threshold": 0.5, "timesteps": STEPS}, path)
    ann, variables, num_steps = loaded(path)
    assert num_steps == STEPS
    inputs = np.random.default_rng(0).choice([-1, 0, 1], (STEPS, 2, SIDE, SIDE, 2)).astype(np.float32)
    kernels = {name: np.asarray(layer["kernel"]) for name, layer in variables["params"].items()} | kernels
    expected = run(stages(ann), kernels, thresholds, 0.75, ("linear", 0.3), inputs, np.zeros(2, int), {}).spikes
    inputs = jnp.asarray(inputs)
    spikes = jsnn.record(jsnn.spiking(ann.apply), variables, lambda time: inputs[time], num_steps=STEPS)["spikes"]
    for name in thresholds:
        assert np.mean(spikes[name] != expected[name]) < 1e-3, name  # sums in another order
        assert 0.02 < expected[name].mean() < 0.98, name
    return ann


def test_the_authors_snn_spikes_as_in_their_units(tmp_path):
    state = {"state_dict": authors_vgg().state_dict(), "thresholds": [2 * v for v in THRESHOLDS]}
    state |= {"leak_mem": 0.75, "activation": "STDB"}
    thresholds = dict(zip(("conv0", "conv1", "conv2", "dense0"), THRESHOLDS, strict=True))
    assert_spikes_as_in_their_units(tmp_path / "snn.pth", state, run_vgg, lambda ann: ann.stages, thresholds, {})


def test_the_authors_spiking_resnet_spikes_as_in_their_units(tmp_path):
    """Also behind a block's threshold that is not 1, where main path and shortcut have different units."""
    weights = authors_resnet().state_dict()
    thresholds = [value if name.startswith("block") else 2 * value for name, value in OF_RESNET.items()]
    state = {"state_dict": weights, "thresholds": thresholds, "leak": 0.75}
    kernels = [weight.numpy().transpose(2, 3, 1, 0) for weight in weights.values() if weight.ndim == 4]
    kernels = dict(zip(NAMES.split(), kernels, strict=True))
    path = tmp_path / "snn.pth"
    ann = assert_spikes_as_in_their_units(path, state, run_resnet, lambda ann: ann.blocks, OF_RESNET, kernels)
    assert (ann.blocks, ann.channels) == ((1, 2, 0, 0), (4, 6, 256, 512))


def diet_state():
    """Layers count from 0 to 8 in features and from 9 on in the classifier; the dict's order is that of strings."""
    state = authors_vgg().state_dict()
    values = dict(zip((0, 3, 6, 9), THRESHOLDS, strict=True))
    state |= {f"module.threshold.t{place}": torch.tensor(values[place]) for place in (9, 0, 3, 6)}
    return state | {f"module.leak.l{place}": torch.tensor(1 - place / 100) for place in (9, 0, 3, 6)}


def check_diet(checkpoint):
    neurons = checkpoint.variables["neurons"]
    assert {name: float(layer["leak"]) for name, layer in neurons.items()} == pytest.approx(
        {"conv0": 1, "conv1": 0.97, "conv2": 0.94, "dense0": 0.91}
    )
    assert {name: float(layer["threshold"]) for name, layer in neurons.items()} == pytest.approx(
        dict(zip(checkpoint.ann.spiking_layers, np.cumprod(THRESHOLDS), strict=True))
    )
    assert checkpoint.num_steps == 5


def test_the_authors_diet_snn_has_trained_thresholds_and_leaks(tmp_path):
    torch.save({"state_dict": diet_state(), "timesteps": 5, "thresholds": [9.0] * 4}, tmp_path / "diet.pth")
    check_diet(loaded(tmp_path / "diet.pth"))


def test_a_checkpoint_saved_anew_as_safetensors_is_the_same(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file({**diet_state(), "timesteps": torch.tensor(5)}, tmp_path / "diet.safetensors")
    check_diet(loaded(tmp_path / "diet.safetensors"))
    names = [f"features.{place}.weight" for place in (10, 3, 0)]
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "names.safetensors")
    assert list(read_torch_file(tmp_path / "names.safetensors")) == names[::-1]
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is no file of safetensors, or damaged"):
        loaded(tmp_path / "broken.safetensors")
