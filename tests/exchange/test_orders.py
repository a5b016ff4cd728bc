"""Weights from PyTorch behind flattened and transposed maps: in their order, or refused by operation and line."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen

import jsnn
from tests.exchange.torch_weights import Function, X, assert_same_logits, conv, flat, nn, settled, torch_conv

pytestmark = pytest.mark.torch


def batch_norm(x):
    return linen.BatchNorm(use_running_average=True)(x)


UNITS, MAP = 192, (2, 12, 8)  # of a flattened map of two channels
IMAGES = X, (0, 3, 1, 2)  # and their axes in PyTorch
GREY, SEQUENCES = (X[..., 0], (0, 1, 2)), (X[..., 0], (0, 2, 1))
ORDERS = {
    "norms": (
        [torch_conv(), nn.GroupNorm(2, 2, 1e-6), nn.Flatten(), nn.BatchNorm1d(UNITS), nn.LayerNorm(UNITS, 1e-6)],
        lambda x: linen.LayerNorm()(batch_norm(flat(linen.GroupNorm(2)(conv(x))))),
        *(UNITS, IMAGES),
    ),
    "channels first": ([torch_conv()], lambda x: conv(x).transpose(0, 3, 1, 2), UNITS, IMAGES),
    "back to a map": (
        [nn.Flatten(), nn.Linear(288, UNITS), nn.BatchNorm1d(UNITS), nn.Unflatten(1, MAP), torch_conv(2)],
        lambda x: conv(batch_norm(linen.Dense(UNITS)(flat(x))).reshape(-1, *MAP).transpose(0, 2, 3, 1)),
        *(UNITS, IMAGES),
    ),
    "standardised image": (
        [nn.LayerNorm((12, 8), 1e-6, elementwise_affine=False)],
        lambda x: jax.nn.standardize(x, (1, 2), epsilon=1e-6),
        *(96, GREY),
    ),
    "image with a channel": ([nn.Unflatten(1, (1, 12)), torch_conv(1)], lambda x: conv(x[..., None]), UNITS, GREY),
    "sequence": ([nn.Conv1d(8, 2, 3, padding=1)], lambda x: linen.Conv(2, (3,), padding=1)(x), 24, SEQUENCES),
    "sequence in groups": (
        [nn.GroupNorm(2, 8, 1e-6), nn.Conv1d(8, 2, 3, padding=1)],
        lambda x: linen.Conv(2, (3,), padding=1)(linen.GroupNorm(2)(x)),
        *(24, SEQUENCES),
    ),
}


@pytest.mark.parametrize(("layers", "function", "units", "inputs"), ORDERS.values(), ids=ORDERS)
def test_all_weights_behind_a_flattened_map_have_its_order(layers, function, units, inputs):
    """Of two axes, [B, H, W] are the same in PyTorch, [B, L, C] are [B, C, L]."""
    module = settled(nn.Sequential(*layers, nn.Flatten(), nn.Linear(units, 3)))
    assert_same_logits(module, Function(lambda x: linen.Dense(3)(flat(function(x)))), None, *inputs)


def added_to_its_product(x):
    x = flat(conv(x))
    return x + linen.Dense(UNITS)(x)


def repeated(x):
    return jnp.broadcast_to(conv(x).sum((1, 2, 3))[:, None], (len(x), UNITS))


def of_features(x):
    return linen.Dense(UNITS)(flat(x)).reshape(-1, 12, 8, 2)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: jnp.concatenate([flat(conv(x)), flat(x)], 1), "concatenate in .* a flattened or transposed"),
        (added_to_its_product, r"^add in .*test_orders.py:\d+\) .* and other features"),
        (lambda x: conv(of_features(x)), "conv_general_dilated in .*/Conv_0 .* made of features"),
        (lambda x: of_features(x).mean((1, 2)), "reduce_sum in .* elements together"),
        (lambda x: linen.GroupNorm(4)(flat(conv(x))), "reduce_sum in .*/GroupNorm_0 .* elements together"),
        (lambda x: x - x.mean(0), "reduce_sum in .* samples together"),
        (lambda x: x.transpose(1, 0, 2, 3), "transpose in .* moves samples"),
        (lambda x: linen.ConvTranspose(2, (2, 2), (2, 2), name="up")(x), "in Function/up .* transposed convolutions"),
        (lambda x: linen.ConvTranspose(2, (3, 3))(x), "/ConvTranspose_0 .* transposed convolutions"),
        (lambda x: linen.BatchNorm(True, axis=1)(conv(x).transpose(0, 3, 1, 2)), "sub in .* weights of 2 meet"),
        (lambda x: jsnn.accelerate(lambda _, y: y @ jnp.ones((UNITS, 3)))({}, flat(conv(x))), "derivative of its own"),
        (repeated, "dot_general in .*/Dense_0 .* are others"),
    ],
)
def test_features_in_an_order_that_is_not_known_are_refused(function, sentence):
    ann = Function(lambda x: linen.Dense(3)(flat(function(x))))
    shapes = jax.eval_shape(ann.init, jax.random.key(0), X)
    with pytest.raises(ValueError, match=sentence):
        jsnn.from_torch(torch_conv().state_dict(), ann.apply, shapes, X)
