"""A split of random images, no multiple of the devices, with an ANN and an SNN for its training and evaluation."""

from functools import cache
from typing import Any

import jax
import numpy as np

from jsnn.data.datasets import Split
from jsnn.data.sources import resident_source
from jsnn.encoding import poisson
from jsnn.models import dropout_of
from jsnn.network.simulation import Presentation
from jsnn.training.forward import Forward, ann_forward, snn_forward, summed
from tests.networks import IMAGE_SHAPE, TINY_VGG, random_snn

STEPS = 6
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SPLIT = Split(RNG.integers(0, 256, (21, *IMAGE_SHAPE), np.uint8), RNG.integers(0, 3, 21).astype(np.int32))
SOURCE = resident_source(SPLIT, crop_padding=2, flip=True)


@cache
def snn() -> tuple[Any, Forward]:
    """Variables and forward pass, the same at each call, so that its programs are."""
    network, variables = random_snn(TINY_VGG, seed=6, leak=0.95)
    return variables, snn_forward(Presentation(network, poisson, STEPS, 3, dropout_of), summed)


@cache
def ann() -> tuple[Any, Forward]:
    """The same of the ANN with the SNN's weights."""
    return {"params": snn()[0]["params"]}, ann_forward(TINY_VGG.apply, dropout_of)
