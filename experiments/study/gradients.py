"""Question c: whether a step along a surrogate's gradient is one downhill, layer by layer, and whether batches agree.

Spikes have no gradient to compare a surrogate's with, but the slope along it can be measured: each layer's weights are
moved a little with and against it, and the spiking network is run on both sides. The gradient comes from one half of
the validation split, the slope from the other. Between batches noise averages out. What they agree on does not, and
carries the weights along step by step, whether the loss falls on the way or not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.config import Config
from experiments.convert import calibrated_scale
from experiments.finetune import logit_scale, starting_snn
from experiments.runs.networks import build_ann, encoding_of, open_source, random_key, surrogate_of
from experiments.runs.workdir import Results, Run
from jsnn import surrogate
from jsnn.augment import scale
from jsnn.datasets import VALIDATION
from jsnn.models import spiking
from jsnn.simulation import Variables, simulate
from jsnn.surrogate import Surrogate

IMAGES = 2048  # in each half of the validation split
BATCH = 256
MOVE = 0.02  # of the norm of the layer's weights

Images = tuple[jax.Array, jax.Array, jax.Array]  # images [N, B, ...], labels [N, B], indices [N, B]
Scores = tuple[jax.Array, jax.Array]  # loss [nats], accuracy


def descent(run: Run) -> Results:
    """Name of a gradient -> `changes` by steps along it, of the net that the run's fine-tune starts with.

    The loss that changes is that of calibrated logits, whatever the loss that the gradient is of.
    """
    config, snn, calibrated = run.config, starting_snn(run), calibrated_scale(run)
    first, second = (half_of_validation(config, half, BATCH) for half in range(2))
    scores = scores_on(second, config, snn, calibrated)
    gradients = {
        f"{name}, {kind}": batch_gradients(config, rule, snn, first, factor)
        for name, rule in (("stdb", surrogate.stdb()), ("linear", surrogate.linear()))
        for kind, factor in (("plain", 1.0), ("calibrated", calibrated))
    }
    return {name: changes(scores, snn["params"], mean_gradient(of_batches)) for name, of_batches in gradients.items()}


def agreement(run: Run, snn: Variables) -> Results:
    """How far batches of the run's size agree on the gradients of its loss by its surrogate, at the net `snn`.

    Returns:
        {"share": layer -> `share` of the batches of one half, "loss": layer -> change of the loss on the other half by
        a step downhill, in nats}.
    """
    config, factor = run.config, logit_scale(run)
    first = half_of_validation(config, 0, config.data.batch_size)
    scores = scores_on(half_of_validation(config, 1, BATCH), config, snn, factor)
    gradients = batch_gradients(config, surrogate_of(config), snn, first, factor)
    return {
        "share": {layer: share(of_batches["kernel"]) for layer, of_batches in gradients.items()},
        "loss": changes(scores, snn["params"], mean_gradient(gradients))["loss"],
    }


def share(gradients: jax.Array) -> float:
    """The mean gradient over the root mean square of N batches [N, ...], averaged over weights that have a gradient.

    Returns:
        1 where all batches agree; about 0.8 / sqrt(N) where each is only noise; 0 where no weight has a gradient.
    """
    size = jnp.sqrt((gradients**2).mean(0))
    ratios = jnp.abs(gradients.mean(0)) / jnp.where(size > 0, size, 1)
    return float(ratios.sum() / jnp.maximum((size > 0).sum(), 1))


def changes(scores: Callable[[Any], Scores], params: Any, gradients: Any) -> Results:
    """Half the difference of the scores between a step of MOVE downhill and one uphill, layer by layer.

    Returns:
        "loss" (nats) or "accuracy" -> layer -> change.
    """
    by_score: Results = {"loss": {}, "accuracy": {}}
    for layer, weights in params.items():
        kernel, gradient = weights["kernel"], gradients[layer]["kernel"]
        length = jnp.linalg.norm(gradient)
        move = MOVE * jnp.linalg.norm(kernel) / jnp.where(length > 0, length, 1) * gradient  # none without a gradient
        down, up = (scores({**params, layer: {"kernel": kernel + side * move}}) for side in (-1, 1))
        for name, after, before in zip(by_score, down, up, strict=True):
            by_score[name][layer] = float(after - before) / 2
    return by_score


def scores_on(images: Images, config: Config, snn: Variables, factor: float) -> Callable[[Any], Scores]:
    """Mean loss and accuracy of the net on images as a function of its params, compiled; they know no surrogate."""
    score = partial(_score, config, surrogate.stdb(), snn["neuron"], factor)
    return jax.jit(lambda params: jax.tree.map(jnp.mean, jax.lax.map(partial(score, params), images)))


def batch_gradients(config: Config, rule: Surrogate, snn: Variables, images: Images, factor: float) -> Any:
    """The surrogate's gradient of each batch's loss, dropout off, like the params with leaves [N, ...]."""
    gradient = jax.grad(partial(_score, config, rule, snn["neuron"], factor), has_aux=True)
    return jax.jit(partial(jax.lax.map, lambda batch: gradient(snn["params"], batch)[0]))(images)


def mean_gradient(gradients: Any) -> Any:
    """The mean over batches, which is the gradient of the loss of all of them."""
    return jax.tree.map(lambda leaf: leaf.mean(0), gradients)


def _score(config: Config, rule: Surrogate, neuron: Any, factor: float, params: Any, batch: Images) -> Scores:
    """Mean cross-entropy and accuracy of one batch, dropout off, the logits times a factor."""
    images, labels, index = batch
    inputs = partial(encoding_of(config), images, random_key(config, VALIDATION), index)
    variables, steps = {"params": params, "neuron": neuron}, config.convert.num_steps
    model = spiking(build_ann(config), rule)
    logits = factor * simulate(model, variables, inputs, lambda out, _: out, num_steps=steps, chunk=steps)[-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), (logits.argmax(-1) == labels).mean()


def half_of_validation(config: Config, half: int, batch_size: int) -> Images:
    """The first or second IMAGES images of the validation split, in batches."""
    source = open_source(config, VALIDATION)
    index = jnp.arange(half * IMAGES, (half + 1) * IMAGES, dtype=jnp.int32).reshape(-1, batch_size)
    batch = source.take(source.resident, index.reshape(-1))
    images = scale(batch.images).reshape(*index.shape, *batch.images.shape[1:])
    return jax.device_put((images, batch.labels.reshape(index.shape), index), jax.devices()[0])
