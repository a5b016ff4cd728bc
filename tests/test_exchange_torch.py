"""Weights from PyTorch: the same logits; the authors' checkpoints: the same spikes; nothing unpickled runs."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jsnn
from jsnn.exchange import read_torch_file
from jsnn.models import VGG, ResNet

torch = pytest.importorskip("torch")
nn = torch.nn
torch.set_num_threads(1)  # small networks, see tests/torch_reference.py

pytestmark = pytest.mark.torch
IMAGE = (12, 8, 3)  # H != W
X = np.random.default_rng(0).normal(size=(4, *IMAGE)).astype(np.float32)


def shapes_of(ann, image=IMAGE):
    return jax.eval_shape(ann.init, jax.random.key(0), jnp.zeros((1, *image)))


def settled(module):
    """Averages and weights of batch norm as if it had been trained, in evaluation mode."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias)
    return module.eval()


def assert_same_logits(module, ann, state_dict=None):
    variables = jsnn.from_torch(state_dict or module.state_dict(), ann.apply, shapes_of(ann), X)
    with torch.no_grad():
        expected = module(torch.tensor(X.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(jax.jit(ann.apply)(variables, X), expected, rtol=1e-5, atol=1e-5)
    assert np.std(expected) > 0.01
    return variables


OUR_VGG = VGG(stages=(4, "A", 6), hidden=(9,), num_classes=3, norm="batch")


def torch_vgg():
    conv0 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)
    conv1 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2)
    dense0 = nn.Linear(6 * 4 * 6, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5)
    return settled(nn.Sequential(*conv0, *conv1, nn.Flatten(), *dense0, nn.Linear(9, 3, bias=False)))


class Block(nn.Module):
    """As in torchvision: the shortcut is made last."""

    def __init__(self, into, out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        shortcut = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.downsample = shortcut if (into, stride) != (out, 1) else nn.Sequential()

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.downsample(x))


def test_a_vgg_with_batch_norm_gives_the_same_logits():
    variables = assert_same_logits(torch_vgg(), OUR_VGG)
    assert set(variables) == {"params", "batch_stats"}


def test_a_resnet_gives_the_same_logits_though_its_shortcuts_are_made_last():
    def unit(into):
        return nn.Conv2d(into, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()

    blocks = Block(4, 4, 1), Block(4, 6, 2), Block(6, 6, 1)
    module = nn.Sequential(
        *unit(3), *unit(4), *unit(4), nn.AvgPool2d(2), *blocks, nn.Flatten(), nn.Linear(6 * 3 * 2, 3, bias=False)
    )
    assert_same_logits(settled(module), ResNet(blocks=(1, 2, 0, 0), channels=(4, 6, 6, 6), num_classes=3, norm="batch"))


class Own(linen.Module):
    """Layers whose names are not in the order in which they run, biases, groups, what can't spike, dense twice."""

    @linen.compact
    def __call__(self, x):
        x = linen.max_pool(linen.tanh(linen.Conv(4, (3, 3), padding=1, name="zebra")(x)), (2, 2), (2, 2))
        x = linen.Conv(4, (3, 3), padding=1, feature_group_count=2, name="ape")(x)
        x = linen.sigmoid(x.reshape(len(x), -1))
        return linen.Dense(3, name="a10")(linen.relu(linen.Dense(5, name="a2")(2 * x - 1)))


class Middle(nn.Module):
    def forward(self, x):
        return 2 * torch.sigmoid(x) - 1


def own_module():
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1, groups=2)),
        *(nn.Flatten(), Middle(), nn.Linear(96, 5), nn.ReLU(), nn.Linear(5, 3)),
    )


def test_a_network_of_ones_own_comes_in_as_tensors_arrays_and_from_several_devices():
    module = own_module()
    assert_same_logits(module, Own())
    state = {f"module.{name}": value.numpy() for name, value in module.state_dict().items()}
    variables = assert_same_logits(module, Own(), state)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("8.weight"), r"no layer for a2 \(.*96x5.* left is 6 \+ 8 \(.*bias 3\)"),
        (
            lambda state: state.update({"9.weight": torch.ones(2, 3)}),
            r"no layer for 9 \(kernel 3x2\) of the state",
        ),
        (lambda state: state.update({"3.weight": torch.ones(4, 4, 3, 3)}), r"ape \(.*3x3x2x4.*left is 3 \(.*3x3x4x4"),
        (lambda state: state["6.bias"].fill_(np.nan), "params/a2/bias holds NaN"),
    ],
)
def test_a_layer_that_one_side_lacks_is_named(change, sentence):
    state = own_module().state_dict()
    change(state)
    with pytest.raises(ValueError, match=sentence):
        jsnn.from_torch(state, Own().apply, shapes_of(Own()), X)


# The authors' checkpoints: a VGG5 of their channels on small images.
SIDE, HIDDEN, THRESHOLDS = 8, 10, [0.25, 0.125, 0.125, 0.03125]
STEPS, ONE = 6, torch.ones(1)


def authors_vgg():
    torch.manual_seed(1)
    module = nn.Module()
    layers = []
    for into, out, end in ((2, 64, nn.AvgPool2d(2)), (64, 128, nn.Dropout()), (128, 128, nn.AvgPool2d(2))):
        layers += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.ReLU(), end]
    module.features = nn.Sequential(*layers)
    module.classifier = nn.Sequential(
        nn.Linear(512, HIDDEN, bias=False), nn.ReLU(), nn.Dropout(), nn.Linear(HIDDEN, 3, bias=False)
    )
    return nn.DataParallel(module)


def loaded(path):
    return jsnn.load_authors_checkpoint(path, (SIDE, SIDE, 2))


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
    from tests.torch_reference import run_vgg

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
    from tests.torch_reference import run_resnet

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


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_what_would_run_code_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "executed"
    torch.save({"state_dict": authors_vgg().state_dict(), "activation": Malicious(trace)}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil.pth holds more than tensors .* by safetensors.torch.save_file"):
        loaded(tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    with pytest.raises(ValueError, match="is not opened"):
        loaded(tmp_path / "plain.pth")
    assert not trace.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)  # it would have been
    assert trace.exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.update(thresholds=[1.0] * 3), "3 thresholds and 3 leaks for the 4 spiking layers"),
        (lambda state: state.update(thresholds=[1.0, -1.0, 1.0, 1.0]), "threshold of conv1 must be above 0"),
        (lambda state: state.update(thresholds=[1.0] * 4, leak=1.5), r"leak of conv0 must be in \(0, 1\]"),
        (
            lambda state: state["state_dict"].update({"pre_process.0.weight": ONE}),
            "classifier of 2 layers: jsnn.models",
        ),
        (lambda state: state.update(state_dict={"fc.weight": ONE}), "holds fc.weight: only the authors' VGGs and"),
        (lambda state: state.update(state_dict={"features.0.weight": ONE}), "has no classifier: only the authors'"),
        (lambda state: state["state_dict"].update({"module.features.3.bias": torch.ones(128)}), r"3 \(.*bias 128\)"),
        (lambda state: state["state_dict"].pop("module.features.3.weight"), r"convolutions of \[64, 128\] channels"),
        (lambda state: state["state_dict"].update({"module.classifier.0.weight": torch.ones(9, 99)}), "dense0"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, change, sentence):
    state = {"state_dict": authors_vgg().state_dict()}
    change(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=sentence):
        loaded(tmp_path / "other.pth")


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save(torch.ones(2), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="holds a Tensor"):
        loaded(tmp_path / "tensor.pth")
