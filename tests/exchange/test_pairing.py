"""Weights from PyTorch among layers of the same shapes: names decide, or a mapping, and else nobody guesses."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jsnn
from tests.exchange.torch_weights import Function, X, assert_same_logits, flat, nn, output_of, settled, taken, torch

pytestmark = pytest.mark.torch
MAKE = {  # by name, where it is no layer from 6 to 6 units
    "stem": lambda: nn.Linear(288, 6),
    "norm": lambda: nn.LayerNorm(6, 1e-6),
    "encoder": lambda: nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(6, 6), nn.ReLU()))),
}


class Swapped(nn.Module):
    """Layers that run in one order and are made in another, the last one first where none is given."""

    def __init__(self, names, made=""):
        super().__init__()
        torch.manual_seed(0)
        self.names = names.split()
        for name in made.split() or self.names[::-1]:
            setattr(self, name, MAKE.get(name, lambda: nn.Linear(6, 6))())

    def forward(self, x):
        x = x.flatten(1)
        for name in self.names:
            x = torch.relu(getattr(self, name)(x))
        return x


class Layers(linen.Module):
    """The same in Flax, but that each is one layer."""

    names: str

    @linen.compact
    def __call__(self, x):
        x = flat(x)
        for name in self.names.split():
            x = linen.relu((linen.LayerNorm(name=name) if "orm" in name else linen.Dense(6, name=name))(x))
        return x


class Residual(nn.Module):
    """A shortcut that is like the convolution beside it, and made last."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.shortcut = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x):
        return (self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x)).flatten(1)


def residual(x):
    """The same, whose shortcut runs first."""
    conv1, conv2, shortcut = (linen.Conv(3, (3, 3), padding=1, name=n) for n in ("conv1", "conv2", "shortcut"))
    y = shortcut(x)
    return flat((y + conv2(linen.relu(conv1(x)))).transpose(0, 3, 1, 2))


def compiled(module):
    """With the names that torch.compile makes of a module's."""
    return nn.Sequential(OrderedDict(_orig_mod=module))


BODY_HEAD = Swapped("stem body head"), Layers("stem body head")


@pytest.mark.parametrize(
    ("module", "ann"),
    [
        BODY_HEAD,
        (Swapped("stem body_a head"), Layers("stem body_a Dense_7")),
        (Swapped("stem fc1 fc2"), Layers("stem Dense_0 Dense_1")),
        (nn.DataParallel(BODY_HEAD[0]), BODY_HEAD[1]),
        (compiled(nn.DataParallel(BODY_HEAD[0])), BODY_HEAD[1]),
        (Residual(), Function(residual)),
    ],
    ids=["all agree", "one agrees", "numbers", "several devices", "compiled", "shortcut first"],
)
def test_names_decide_among_layers_of_the_same_shapes(module, ann):
    assert_same_logits(module, ann, module.state_dict())
    assert_same_logits(module, ann, module)


def test_numbers_that_count_differently_do_not_agree_in_part():
    """Those of a Sequential, which counts what has no weights, too: encoder_2 is not encoder.2."""
    module = Swapped("stem encoder decoder", "stem decoder encoder")
    ann = Layers("stem encoder_0 encoder_1 encoder_2 decoder")
    sentence = r"encoder_0, .*, decoder of the Flax .* decoder, encoder.0, .* give a mapping"
    with pytest.raises(ValueError, match=sentence):
        taken(module, ann)
    mapping = {"decoder": "decoder", "encoder_1": "encoder.2", "encoder_2": "encoder.4"}
    assert_same_logits(module, ann, module, mapping=mapping)
    assert_same_logits(module, Layers("stem encoder_0 encoder_2 encoder_4 decoder"))


@pytest.mark.parametrize("made", ["stem head norm body", "stem body head norm", "norm stem head body"])
def test_a_norm_made_behind_another_layer_is_found_by_names_or_not_at_all(made):
    module = settled(Swapped("stem body norm head", made))
    assert_same_logits(module, Layers("stem body norm head"), module)
    with pytest.raises(ValueError, match=r"and not those of (body|head): let all names agree|no layer for body"):
        taken(module, Layers("stem body LayerNorm_0 head"))


def test_the_layer_that_is_missing_is_told_by_names():
    module = Swapped("stem body head")
    del module.body
    with pytest.raises(ValueError, match=r"no layer for body .* of the Flax net: the first that is left is head"):
        taken(module, BODY_HEAD[1])


UNNAMED = Swapped("stem body head"), Layers("stem Dense_0 Dense_1")
MISLEADING = Swapped("stem fc2 fc1"), Layers("stem fc2 other")


@pytest.mark.parametrize("pair", [UNNAMED, MISLEADING], ids=["no name", "names and numbers differ"])
def test_nobody_guesses_where_no_name_decides(pair):
    module, ann = pair
    with pytest.raises(ValueError, match=r"the layers .* of the same shapes, .* and no name tells .* give a mapping"):
        taken(module, ann)
    mapping = dict(zip(ann.names.split()[1:], module.names[1:], strict=True))
    variables = taken(module, ann, mapping=mapping)
    prefixed = {ours: f"module.{theirs}" for ours, theirs in mapping.items()}
    jax.tree.map(np.testing.assert_array_equal, variables, taken(nn.DataParallel(module), ann, mapping=prefixed))
    for ours, theirs in mapping.items():
        np.testing.assert_array_equal(variables["params"][ours]["kernel"], getattr(module, theirs).weight.detach().T)


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"Dense_2": "body"}, "the mapping names the Flax layer 'Dense_2' and the Flax net has stem, Dense_0, Dense_1"),
        ({"Dense_0": "tail"}, "the mapping names the PyTorch layer 'tail' and the PyTorch net has head, body, stem"),
        ({"Dense_0": "body", "Dense_1": "body"}, "the PyTorch layer 'body' twice"),
        ({"Dense_0": "stem"}, r"pairs Dense_0 \(kernel 6x6.* with stem \(kernel 288x6.* of other shapes"),
    ],
)
def test_a_mapping_of_what_is_not_there_is_refused(mapping, sentence):
    with pytest.raises(ValueError, match=sentence):
        taken(*UNNAMED, mapping=mapping)


def test_a_check_compares_with_what_pytorch_gives():
    output = output_of(BODY_HEAD[0])
    in_our_order = nn.Sequential(nn.Flatten(), MAKE["stem"](), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    wrong = torch.relu(output_of(in_our_order))
    taken(*BODY_HEAD, check=(X, output))
    sentence = r"differs from PyTorch's by up to .* look for layers that run in another order"
    with pytest.raises(ValueError, match=sentence):
        taken(in_our_order, Layers("stem 0 1"), check=(X, wrong + 0.01))
    taken(in_our_order, Layers("stem 0 1"), check=(X, wrong.numpy()))
    with pytest.raises(ValueError, match=r"output is \(4, 6\), that of PyTorch in check \(4, 5\): give it alike"):
        taken(*BODY_HEAD, check=(X, output[:, :5]))


def normed(epsilon):
    def apply(x):
        x = linen.BatchNorm(True, epsilon=epsilon)(linen.Conv(2, (3, 3), padding=1)(x))
        return linen.Dense(3)(flat(x))

    return Function(apply)


def test_the_epsilon_of_a_norm_is_asked_of_its_module():
    conv = nn.Conv2d(3, 2, 3, padding=1)
    module = settled(nn.Sequential(conv, nn.BatchNorm2d(2, eps=0.1), nn.Flatten(), nn.Linear(192, 3)))
    with pytest.raises(ValueError, match=r"BatchNorm_0 .* epsilon 1e-05, and 1 of the PyTorch one 0.1: .*epsilon=0.1"):
        taken(module, normed(1e-5))
    assert_same_logits(module, normed(0.1), module)
    with pytest.raises(ValueError, match=r"differs from PyTorch's by .* another epsilon"):  # a state_dict has none
        taken(module.state_dict(), normed(0.0999), check=(torch.tensor(X), output_of(module)))


def test_the_epsilon_of_plain_jax_is_known_though_it_was_broadcast():
    def apply(variables, x):
        norm = variables["norm"]
        factor = norm["scale"] * jax.lax.rsqrt(norm["var"] + jnp.full(288, 1e-5))
        return (flat(x) @ variables["fc"]["kernel"] - norm["mean"]) * factor + norm["bias"]

    module = settled(nn.Sequential(nn.Flatten(), nn.Linear(288, 288, bias=False), nn.BatchNorm1d(288, eps=1e-3)))
    norm = {name: jnp.zeros(288) for name in ("scale", "bias", "mean", "var")}
    with pytest.raises(ValueError, match=r"norm of the Flax net has the epsilon 1e-05, and 2 of the PyTorch one 0.001"):
        jsnn.from_torch(module, apply, {"fc": {"kernel": jnp.zeros((288, 288))}, "norm": norm}, X)


@pytest.mark.parametrize("kind", [nn.ConvTranspose2d, type("Upward", (nn.ConvTranspose2d,), {})])
def test_a_transposed_convolution_of_a_module_is_refused(kind):
    module = nn.Sequential(kind(3, 3, 3, padding=1), nn.Flatten())
    with pytest.raises(ValueError, match=f"0 is a {kind.__name__}: transposed convolutions have other kernels"):
        taken(module, linen.Conv(3, (3, 3), padding=1))


def test_a_sequential_is_in_the_order_of_its_numbers():
    """Ten and more of them, where text would put 10 before 2; from a file, too, that has sorted them so."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(288, 6), *(nn.Linear(6, 6) for _ in range(11)))
    state = module.state_dict()
    shuffled = {name: state[name] for name in sorted(state)}

    def deep(x):
        x = flat(x)
        for _ in range(12):
            x = linen.Dense(6)(x)
        return x

    assert_same_logits(module, Function(deep), shuffled)
    assert jax.tree.leaves(taken(module, Function(deep)))
