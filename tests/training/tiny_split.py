"""Random images, no multiple of the devices, and an ANN and an SNN that learn them; run as a program, in float64."""

import sys
from functools import cache
from typing import Any

import jax
import numpy as np
import optax

import jsnn
from jsnn.data import Split, resident_source
from jsnn.encoding import poisson
from jsnn.models import dropout_of
from jsnn.training.forward import Forward
from jsnn.training.optimizers import optimizer
from jsnn.training.parallel import replicate, split_over_devices
from tests.networks import IMAGE_SHAPE, TINY_VGG, random_snn

STEPS, BATCH = 6, 8
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SPLIT = Split(RNG.integers(0, 256, (21, *IMAGE_SHAPE), np.uint8), RNG.integers(0, 3, 21).astype(np.int32))
SOURCE = resident_source(SPLIT, crop_padding=2, flip=True)
RULE = optimizer("adam", optax.constant_schedule(1e-3), 5e-4)


@cache
def snn() -> tuple[Any, Forward]:
    """Variables and forward pass, the same at each call, so that its programs are."""
    network, variables = random_snn(TINY_VGG, seed=6, leak=0.95)
    return variables, jsnn.snn_forward(jsnn.Presentation(network, poisson, STEPS, 3, dropout_of), jsnn.summed)


@cache
def ann() -> tuple[Any, Forward]:
    """The same of the ANN with the SNN's weights."""
    return {"params": snn()[0]["params"]}, jsnn.ann_forward(TINY_VGG.apply, dropout_of)


def trajectory() -> dict[str, np.ndarray]:
    """Losses of six steps, params after the last, and the evaluation, with noise, dropout, crops and flips on."""
    network, variables = random_snn(TINY_VGG, seed=6, leak=0.95, dtype=np.float64)
    presentation = jsnn.Presentation(network, poisson, STEPS, 3, dropout_of)
    step = jsnn.parallel_train_step(SOURCE, jsnn.snn_forward(presentation, jsnn.summed), RULE)
    state, resident = replicate((jsnn.init_state(variables, RULE), SPLIT))
    losses = []
    for epoch in (1, 2, 3):
        for item in SOURCE.shuffled(BATCH, 0, epoch, 0):
            state, metrics = step(state, resident, split_over_devices(item), KEY)
            losses.append(metrics.loss)
    evaluation = jsnn.parallel_evaluation(jsnn.snn_evaluation(presentation, SOURCE))
    scores = jsnn.evaluate_split(evaluation, state.variables(), SOURCE, BATCH, KEY)  # the last batch has 5 samples
    trained = {"losses": np.array(jax.device_get(losses)), "scores": scores, "params": jax.device_get(state.params)}
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(trained)}


if __name__ == "__main__":
    with jax.enable_x64(True):
        np.savez(sys.argv[1], devices=jax.device_count(), **trajectory())
