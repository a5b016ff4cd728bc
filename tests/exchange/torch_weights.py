"""PyTorch networks on small images, and what of Flax gives the same as they do."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

import jsnn

torch.set_num_threads(1)  # small networks, see tests/network/torch_reference.py
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
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias)
    return module.eval()


def assert_same_results(module, apply, variables):
    with torch.no_grad():
        expected = module(torch.tensor(X.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(jax.jit(apply)(variables, X), expected, rtol=1e-5, atol=1e-5)
    assert np.std(expected) > 0.01


def assert_same_logits(module, ann, state_dict=None):
    variables = jsnn.from_torch(state_dict or module.state_dict(), ann.apply, shapes_of(ann), X)
    assert_same_results(module, ann.apply, variables)
    return variables


def flat(x):
    return x.reshape(len(x), -1)


def torch_conv(into=3):
    return nn.Conv2d(into, 2, 3, padding=1)
