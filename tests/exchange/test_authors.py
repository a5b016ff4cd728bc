"""The authors' checkpoints: the same logits and spikes as in PyTorch and in their units."""

from io import BytesIO

import jax
import numpy as np
import pytest

import jsnn
from jsnn.exchange import authors, read_torch_file

torch = pytest.importorskip("torch")

from tests.exchange.authors import SIDE, authors_vgg, loaded  # noqa: E402

nn = torch.nn
pytestmark = pytest.mark.torch
THRESHOLDS, STEPS = [0.25, 0.125, 0.125, 0.03125], 6


def test_the_authors_ann(tmp_path):
    module = authors_vgg()
    torch.save({"accuracy": 0.9, "epoch": 3, "state_dict": module.state_dict()}, tmp_path / "ann.pth")
    checkpoint = loaded(tmp_path / "ann.pth")
    assert checkpoint.num_steps is None
    assert set(checkpoint.variables) == {"params"}
    x = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 2)).astype(np.float32)
    with torch.no_grad():
        inner = module.module.eval()
        expected = inner.classifier(inner.features(torch.tensor(x.transpose(0, 3, 1, 2))).flatten(1)).numpy()
    np.testing.assert_allclose(checkpoint.ann.apply(checkpoint.variables, x), expected, rtol=1e-5, atol=1e-6)


def recorded(ann, variables, inputs):
    """The spikes of an SNN by layer."""
    snn = jsnn.spiking(ann.apply)
    return jax.jit(lambda *of: jsnn.record(snn, of[0], lambda time: of[1][time], num_steps=STEPS, chunk=STEPS))(
        variables, inputs
    )["spikes"]


def assert_same_spikes(spikes, expected, layers):
    for name in layers:
        assert np.mean(spikes[name] != expected[name]) < 1e-3, name  # sums in another order
        assert 0.02 < expected[name].mean() < 0.98, name


def test_the_authors_snn_spikes_as_in_their_units(tmp_path):
    from tests.network.torch_reference import run_vgg

    state = {"state_dict": authors_vgg().state_dict(), "thresholds": [2 * v for v in THRESHOLDS]}
    state |= {"scaling_threshold": 0.5, "timesteps": STEPS, "leak_mem": 0.75, "activation": "STDB"}
    torch.save(state, tmp_path / "snn.pth")
    ann, variables, num_steps = loaded(tmp_path / "snn.pth")
    assert num_steps == STEPS
    inputs = np.random.default_rng(0).choice([-1, 0, 1], (STEPS, 2, SIDE, SIDE, 2)).astype(np.float32)
    spikes = recorded(ann, variables, inputs)
    kernels = {name: np.asarray(layer["kernel"]) for name, layer in variables["params"].items()}
    thresholds = dict(zip(ann.spiking_layers, THRESHOLDS, strict=True))
    expected = run_vgg(ann.stages, kernels, thresholds, 0.75, ("linear", 0.3), inputs, np.zeros(2, int), {}).spikes
    assert_same_spikes(spikes, expected, ann.spiking_layers)


class AuthorsBlock(nn.Module):
    def __init__(self, into, out, stride):
        super().__init__()
        first = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.residual = nn.Sequential(first, nn.ReLU(), nn.Dropout(), nn.Conv2d(out, out, 3, 1, 1, bias=False))
        self.identity = nn.Sequential()
        if (into, stride) != (out, 1):
            self.identity = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False))

    def forward(self, x):
        return torch.relu(self.residual(x) + self.identity(x))


class AuthorsResNet(nn.Module):
    """Of their layers and names, with fewer channels: blocks of the first and the second stage."""

    def __init__(self):
        super().__init__()
        layers = []
        for into, end in ((2, nn.Dropout()), (4, nn.Dropout()), (4, nn.AvgPool2d(2))):
            layers += [nn.Conv2d(into, 4, 3, padding=1, bias=False), nn.ReLU(), end]
        self.pre_process = nn.Sequential(*layers)
        self.layer1 = nn.Sequential(AuthorsBlock(4, 4, 1))
        self.layer2 = nn.Sequential(AuthorsBlock(4, 6, 2), AuthorsBlock(6, 6, 1))
        self.layer3 = self.layer4 = nn.Sequential()
        self.classifier = nn.Sequential(nn.Linear(6 * 2 * 2, 3, bias=False))

    def forward(self, x):
        return self.classifier(self.layer2(self.layer1(self.pre_process(x))).flatten(1))


def authors_resnet():
    torch.manual_seed(2)
    module = AuthorsResNet()
    for name, weight in module.named_parameters():
        weight.data *= 4 if name.startswith("layer") else 2  # so that all spike
    return module


NAMES = {  # theirs -> ours
    **{f"pre_process.{3 * i}": f"conv{i}" for i in range(3)},
    **{f"{block}.residual.0": f"block{i}_conv0" for i, block in enumerate(("layer1.0", "layer2.0", "layer2.1"))},
    **{f"{block}.residual.3": f"block{i}_conv1" for i, block in enumerate(("layer1.0", "layer2.0", "layer2.1"))},
    "layer2.0.identity.0": "block1_shortcut",
}
OF_RESNET = {"conv0": 0.5, "conv1": 0.25, "conv2": 0.25}  # those of blocks are trained, as of DIET-SNN
OF_RESNET |= {"block0_conv0": 1, "block0_conv1": 0.25, "block1_conv0": 0.25, "block1_conv1": 0.5}
OF_RESNET |= {"block2_conv0": 0.5, "block2_conv1": 0.5}


def test_the_authors_resnet(tmp_path):
    module = authors_resnet()
    torch.save({"state_dict": module.state_dict()}, tmp_path / "ann.pth")
    checkpoint = loaded(tmp_path / "ann.pth")
    assert (checkpoint.ann.blocks, checkpoint.ann.channels) == ((1, 2, 0, 0), (4, 6, 256, 512))
    assert checkpoint.num_steps is None
    x = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 2)).astype(np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(checkpoint.ann.apply(checkpoint.variables, x), expected, rtol=1e-5, atol=1e-6)


def test_the_authors_spiking_resnet_spikes_as_in_their_units(tmp_path):
    """Also behind a block's threshold that is not 1, where main path and shortcut have different units."""
    from tests.network.torch_reference import run_resnet

    module = authors_resnet()
    thresholds = [value if name.startswith("block") else 2 * value for name, value in OF_RESNET.items()]
    state = {"state_dict": module.state_dict(), "thresholds": thresholds, "scaling_threshold": 0.5, "leak": 0.75}
    torch.save(state | {"timesteps": STEPS}, tmp_path / "snn.pth")
    ann, variables, _ = loaded(tmp_path / "snn.pth")
    inputs = np.random.default_rng(0).choice([-1, 0, 1], (STEPS, 2, SIDE, SIDE, 2)).astype(np.float32)
    spikes = recorded(ann, variables, inputs)
    weights = {name.removesuffix(".weight"): value.numpy() for name, value in module.state_dict().items()}
    kernels = {ours: weights[theirs].transpose(2, 3, 1, 0) for theirs, ours in NAMES.items()}
    kernels |= {"readout": np.asarray(variables["params"]["readout"]["kernel"])}
    expected = run_resnet(ann.blocks, kernels, OF_RESNET, 0.75, ("linear", 0.3), inputs, np.zeros(2, int), {}).spikes
    assert_same_spikes(spikes, expected, OF_RESNET)


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


def damaged_files():
    """Bytes by what is wrong with them, of each kind of error that PyTorch ends in."""
    old, new = BytesIO(), BytesIO()
    torch.save({"a": torch.ones(3)}, old, _use_new_zipfile_serialization=False)
    torch.save({"a": torch.ones(3)}, new)
    yield from (f"{letter}ello world, this is text\n".encode() for letter in "(Phc")
    yield from (old.getvalue()[:length] for length in range(0, len(old.getvalue()), 23))
    yield from (new.getvalue()[:length] for length in range(0, len(new.getvalue()), 97))
    for place in range(0, len(old.getvalue()), 5):
        yield old.getvalue()[:place] + b"\xff" + old.getvalue()[place + 1 :]


def refusal(path):
    """The ValueError of a file; None where it could be read."""
    try:
        read_torch_file(path)
    except ValueError as error:
        return error
    return None


def test_a_damaged_file_is_refused_whatever_pytorch_says(tmp_path):
    path, errors = tmp_path / "damaged.pth", []
    for contents in damaged_files():
        path.write_bytes(contents)
        errors.append(refusal(path))
    errors = [error for error in errors if error is not None]
    assert all("damaged" in str(error).removeprefix(str(path)) or "holds a" in str(error) for error in errors)
    causes = {type(error.__cause__).__name__ for error in errors}
    assert causes >= {"UnpicklingError", "EOFError", "RuntimeError", "IndexError", "KeyError", "UnicodeDecodeError"}
    with pytest.raises(FileNotFoundError):
        read_torch_file(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"thresholds": {"t0": 1.0}}, r"thresholds of a checkpoint must be .* got \{'t0': 1.0\}"),
        ({"thresholds": [None] * 4}, "thresholds of a checkpoint must be a number or a list of numbers"),
        ({"thresholds": ["a"] * 4}, "thresholds of a checkpoint must be a number or a list of numbers"),
        ({"thresholds": THRESHOLDS, "timesteps": -3}, "timesteps .* at least 1, got -3"),
        ({"thresholds": THRESHOLDS, "timesteps": float("nan")}, "timesteps .* at least 1, got nan"),
        ({"state_dict": [1]}, "has a list as its state_dict"),
        ({"state_dict": {3: torch.ones(1)}}, "holds 3: only the authors'"),
        ({"state_dict": {"module.features.0.weight": 1.0}}, "holds a number as module.features.0.weight"),
        ({"state_dict": {"module.features.0.weight": torch.tensor(1.0)}}, "holds a number as module.features.0.weight"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_in_a_sentence(tmp_path, monkeypatch, change, sentence):
    monkeypatch.setattr(authors, "from_torch", lambda *_: {})  # weights are not what is wrong
    torch.save({"state_dict": authors_vgg().state_dict(), **change}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=sentence):
        loaded(tmp_path / "other.pth")
