"""Question c: where surrogate gradients lead, layer by layer, whether batches agree, and which neurons have none.

Spikes have no gradient to compare a surrogate's with, but the slope along it can be measured: weights are moved a
little with and against it, and the spiking network is run on both sides. Between batches noise averages out. What they
agree on does not, and carries the weights along step by step, whether the loss falls on the way or not.

Gradients come from the first half of the validation split, the slopes along them from the second.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.config import with_fields
from experiments.convert import calibrated_scale
from experiments.fields import Config
from experiments.finetune import logit_scale, starting_snn
from experiments.networks import logit_unit, presentation_of, random_key
from experiments.runs.data import open_source
from experiments.runs.workdir import Results, Run
from jsnn.data.augment import scale
from jsnn.data.datasets import VALIDATION
from jsnn.data.sources import Batch
from jsnn.network.simulation import Observer, simulate_images
from jsnn.network.transformation import Variables
from jsnn.training.loss import correct, cross_entropies

IMAGES, IMAGES_FOR_SILENCE = 2048, 1024  # in each half of the validation split; the first ones of it
BATCH = 256
MOVE = 0.02  # of the norm of the layer's weights


def descent(run: Run) -> Results:
    """Gradient -> `changes` of the net that fine-tuning starts with by steps along it; their loss is the calibrated."""
    snn, calibrated, results = starting_snn(run), calibrated_scale(run), {}
    for name in ("stdb", "linear"):
        config = with_fields(run.config, {"finetune.surrogate": name})
        for kind, factor in (("plain", 1.0), ("calibrated", calibrated)):
            gradients = batch_gradients(config, snn, images(config, 0, IMAGES, BATCH), factor)
            results[f"{name}, {kind}"] = changes(run.config, snn, gradients, calibrated)
    return results


def agreement(run: Run, snn: Variables) -> Results:
    """By layer the "share" on which batches agree on gradients of a net, and the change of the "loss" by a step along.

    Batches are of the run's size, gradients by its surrogate, of its loss [nats].
    """
    config, factor = run.config, logit_scale(run)
    gradients = batch_gradients(config, snn, images(config, 0, IMAGES, config.data.batch_size), factor)
    kernels = {layer: of_layer["kernel"] for layer, of_layer in gradients.items() if "kernel" in of_layer}
    shares = {layer: float(agreed_share(kernel)) for layer, kernel in kernels.items()}
    return {"share": shares, "loss": changes(config, snn, gradients, factor)["loss"]}


def agreed_share(gradients: jax.Array) -> jax.Array:
    """How far batches agree on the gradient of some weights, of their gradients [N, ...].

        mean over weights of |mean over n of g[n]| / sqrt(mean over n of g[n]^2)

    It is 1 where all batches agree, about 0.8 / sqrt(N) where each is only noise, and 0 where no weight has a gradient.
    Weights that have none in any batch do not count.
    """
    root_mean_square = jnp.sqrt((gradients**2).mean(0))
    ratios = jnp.abs(gradients.mean(0)) / jnp.where(root_mean_square > 0, root_mean_square, 1)
    return ratios.sum() / jnp.maximum((root_mean_square > 0).sum(), 1)


def changes(config: Config, snn: Variables, gradients: Any, factor: float) -> Results:
    """Changes of "loss", of logits times a factor, and "accuracy" on the second half by a step downhill, by layer."""
    batches = images(config, IMAGES, IMAGES, BATCH)
    return jax.tree.map(float, step_changes(lambda moved: scores(config, moved, batches, factor), snn, gradients))


def step_changes(score: Callable[[Variables], Results], snn: Variables, gradients: Any) -> Results:
    """What a small step down a gradient does to scores, as far as it differs from a step up, in one layer at a time.

        change = (score(w - s) - score(w + s)) / 2    with    s = MOVE * |w| * g / |g|

    of a layer's weights w and the mean g of its gradients [N, ...]; by name of the score and layer. Where the score is
    smooth in w and g its gradient, that is -|g| |s|, but for terms of the third order. A layer without a gradient takes
    no step.
    """
    by_score: Results = {}
    for layer, weights in jax.device_get(snn["params"]).items():
        along = jax.tree.map(lambda of_batches: of_batches.mean(0), jax.device_get(gradients[layer]))
        share = MOVE * _norm(weights) / (_norm(along) or 1.0)
        moved = (jax.tree.map(lambda w, g, by=by: w + by * g, weights, along) for by in (-share, share))
        down, up = (score({**snn, "params": {**snn["params"], layer: new}}) for new in moved)
        for name in down:
            by_score.setdefault(name, {})[layer] = (down[name] - up[name]) / 2
    return by_score


def _norm(arrays: Any) -> float:
    return math.sqrt(sum(float((array**2).sum()) for array in jax.tree.leaves(arrays)))


@partial(jax.jit, static_argnums=0)
def scores(config: Config, snn: Variables, batches: Batch, factor: float) -> Results:
    """Means over batches [N, B, ...] of the "loss" [nats] of an SNN's logits times a factor, and of "accuracy"."""

    def of_batch(batch: Batch) -> Results:
        logits = factor * logit_unit(config, snn) * _present(config, snn, batch, lambda observed: observed.total)[-1]
        return {"loss": cross_entropies(logits, batch.labels), "accuracy": correct(logits, batch.labels)}

    return jax.tree.map(jnp.mean, jax.lax.map(of_batch, batches))


@partial(jax.jit, static_argnums=0)
def batch_gradients(config: Config, snn: Variables, batches: Batch, factor: float) -> Any:
    """The gradient of the loss of each batch, see `scores`, by the config's surrogate, [N, ...] for each weight."""

    def loss(params: Any, batch: Batch) -> jax.Array:
        alone = jax.tree.map(lambda leaf: leaf[None], batch)
        return scores(config, {**snn, "params": params}, alone, factor)["loss"]

    return jax.lax.map(partial(jax.grad(loss), snn["params"]), batches)


def silent_neurons(config: Config, snn: Variables) -> Results:
    """By layer, of all (neuron, image): the share that "never" has a spike in a presentation."""
    batches = images(config, 0, IMAGES_FOR_SILENCE, config.run.eval_batch_size)

    def of_batch(batch: Batch) -> dict[str, jax.Array]:
        spikes = _present(config, snn, batch, lambda observed: observed.layers["spikes"], "spikes")
        return {layer: (train.sum(0) == 0).mean() for layer, train in spikes.items()}

    shares = jax.jit(partial(jax.lax.map, of_batch))(batches)
    return {"never": {layer: float(of_batches.mean()) for layer, of_batches in shares.items()}}


def _present(config: Config, snn: Variables, batch: Batch, observe: Observer, *collect: str) -> Any:
    """What is observed while the network is presented a batch, dropout off."""
    presentation, key = presentation_of(config, config.convert.num_steps), random_key(config, VALIDATION)
    return simulate_images(presentation, snn, scale(batch.images), batch.index, key, observe, collect=collect)


def images(config: Config, start: int, count: int, batch_size: int) -> Batch:
    """Images of the validation split, these from one on, in batches [N, B, ...]."""
    source = open_source(config, VALIDATION)
    index = jnp.arange(start, start + count, dtype=jnp.int32).reshape(-1, batch_size)
    return jax.device_put(source.take(source.resident, index), jax.devices()[0])
