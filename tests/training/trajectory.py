"""Some steps of STDB and an evaluation on all devices, in float64: python -m tests.training.trajectory FILE."""

import sys

import jax
import numpy as np
import optax

from jsnn.data.datasets import Split
from jsnn.data.sources import resident_source
from jsnn.encoding import poisson
from jsnn.models import dropout_of
from jsnn.network.simulation import Presentation
from jsnn.training.evaluation import snn_evaluation
from jsnn.training.forward import snn_forward, summed
from jsnn.training.optimizers import optimizer
from jsnn.training.parallel import (
    evaluate_split,
    parallel_evaluation,
    parallel_train_step,
    replicate,
    split_over_devices,
)
from jsnn.training.step import init_state
from tests.networks import IMAGE_SHAPE, TINY_VGG, random_snn

NUM_STEPS, CHUNK, BATCH, SAMPLES = 6, 3, 8, 29  # the last batch of an evaluation has 5 samples
KEY = jax.random.key(0)


def trajectory() -> dict[str, np.ndarray]:
    """Losses of each step, params after the last, and the evaluation, with noise, dropout, crops and flips on."""
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (SAMPLES, *IMAGE_SHAPE), np.uint8), rng.integers(0, 3, SAMPLES).astype(np.int32))
    source = resident_source(split, crop_padding=2, flip=True)
    snn, variables = random_snn(TINY_VGG, seed=6, leak=0.95, dtype=np.float64)
    rule = optimizer("adam", optax.constant_schedule(1e-3), 5e-4)
    presentation = Presentation(snn, poisson, NUM_STEPS, CHUNK, dropout_of)
    step = parallel_train_step(source, snn_forward(presentation, summed), rule)
    state, resident = replicate((init_state(variables, rule), split))
    losses = []
    for epoch in (1, 2):
        for item in source.shuffled(BATCH, 0, epoch, 0):
            state, metrics = step(state, resident, split_over_devices(item), KEY)
            losses.append(metrics.loss)
    scores = evaluate_split(
        parallel_evaluation(snn_evaluation(presentation, source)), state.variables(), source, BATCH, KEY
    )
    trained = {"losses": np.array(jax.device_get(losses)), "scores": scores, "params": jax.device_get(state.params)}
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(trained)}


if __name__ == "__main__":
    with jax.enable_x64(True):
        np.savez(sys.argv[1], devices=jax.device_count(), **trajectory())
