"""PyTorch networks on small images, and what of Flax gives the same as they do."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
from flax import linen

import jsnn

torch = pytest.importorskip("torch")
nn = torch.nn
torch.set_num_threads(1)  # small networks, see tests/network/torch_reference.py
NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm
CHANNELS_FIRST = (0, 3, 1, 2)
X = np.random.default_rng(0).normal(size=(4, 12, 8, 3)).astype(np.float32)  # H != W


def taken(module, ann, x=X, **options):
    """What a Flax network takes of a module, or of its state_dict."""
    return jsnn.from_torch(module, ann.apply, jax.eval_shape(ann.init, jax.random.key(0), x), x, **options)


def settled(module):
    """Averages and weights of batch norm as if it had been trained, in evaluation mode."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
        if isinstance(part, NORMS) and part.weight is not None:
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias)
    return module.eval()


def output_of(module, x=X, axes=CHANNELS_FIRST):
    with torch.no_grad():
        return module(torch.tensor(x.transpose(axes)))


def assert_same_results(module, apply, variables, x=X, axes=CHANNELS_FIRST):
    expected = output_of(module, x, axes).numpy()
    np.testing.assert_allclose(jax.jit(apply)(variables, x), expected, rtol=1e-5, atol=1e-5)
    assert np.std(expected) > 0.01


def assert_same_logits(module, ann, given=None, x=X, axes=CHANNELS_FIRST, **options):
    """Of a Flax network with what it takes, which is the module's state_dict unless given."""
    variables = taken(given or module.state_dict(), ann, x, **options)
    assert_same_results(module, ann.apply, variables, x, axes)
    return variables


def flat(x):
    return x.reshape(len(x), -1)


class Function(linen.Module):
    """Layers made where a function calls them."""

    function: Callable

    @linen.compact
    def __call__(self, x):
        return self.function(x)


def conv(x):
    return linen.Conv(2, (3, 3), padding=1)(x)


def torch_conv(into=3):
    return nn.Conv2d(into, 2, 3, padding=1)
