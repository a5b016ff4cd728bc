"""Small random networks that tests share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jsnn
from jsnn.conversion import convert, from_paper_thresholds
from jsnn.models import VGG, ResNet

# Few layers, for compiling takes the time of a test: pools before a convolution and a dense layer, and both kinds of
# shortcuts.
SMALL_VGG = VGG(stages=(4, "A", 6, "A"), hidden=(12, 9), num_classes=3)
SMALL_RESNET = ResNet(blocks=(1, 1, 0, 0), channels=(4, 6, 6, 6), num_classes=3)
TINY_VGG = VGG(stages=(4, "A", 5), hidden=(9,), num_classes=3)  # where only the steps, devices or samples matter
TINY_RESNET = ResNet(blocks=(0, 1, 0, 0), channels=(4, 6, 6, 6), num_classes=3)  # with a convolution as its shortcut
IMAGE_SHAPE = (12, 8, 2)  # H != W, and even sizes where a stride of 2 meets them
ONE_IMAGE = jax.ShapeDtypeStruct((1, *IMAGE_SHAPE), jnp.float32)


def random_snn(ann: VGG | ResNet, seed: int, leak: float, surrogate=None, dtype=jnp.float32) -> tuple[jsnn.SNN, Any]:
    """An SNN that spikes in all layers: He-like weights, a threshold of its own in each layer.

    In a ResNet's block the first layer has the threshold 1 in the paper's units, and larger weights instead: with any
    other the shortcut would need a gain, which the paper does not have.
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(ann.init, jax.random.key(0), jnp.zeros((1, *IMAGE_SHAPE), dtype))["params"]

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(rng.normal(0, 1.4 / np.sqrt(np.prod(leaf.shape[:-1])), leaf.shape), dtype)

    params = {layer: jax.tree.map(draw, shapes[layer]) for layer in sorted(shapes)}
    thresholds = {layer: float(rng.uniform(0.25, 0.6)) for layer in ann.spiking_layers}
    for layer in thresholds:
        if layer.endswith("_conv0"):
            params[layer] = jax.tree.map(lambda leaf, v=thresholds[layer]: leaf / v, params[layer])
            thresholds[layer] = 1.0
    snn = jsnn.spiking(ann.apply, jsnn.lif(surrogate or jsnn.surrogate.stdb()))
    return snn, convert(snn, {"params": params}, from_paper_thresholds(thresholds), leak=leak)


def last_threshold(variables: Any, ann: VGG | ResNet) -> jax.Array:
    """The unit of the paper's logits."""
    return variables["neurons"][ann.spiking_layers[-1]]["threshold"]


def random_inputs(num_steps: int, batch: int, seed: int = 0, dtype=jnp.float32) -> jax.Array:
    """Signed spikes [T, B, H, W, C]."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.choice([-1, 0, 1], (num_steps, batch, *IMAGE_SHAPE), p=[0.2, 0.5, 0.3]), dtype)


def images(batch: int, dtype=jnp.float32) -> jax.Array:
    """Random images [B, H, W, C] in the range of those that networks are trained on."""
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (batch, *IMAGE_SHAPE)), dtype)
