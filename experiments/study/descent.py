"""Question c: whether a step along a surrogate's gradient is a step downhill, layer by layer.

Spikes have no gradient to compare a surrogate with, but the slope along its direction can be measured: each layer's
weights are moved a little with and against the surrogate's gradient, and the spiking network is run on both sides. The
gradient comes from one half of the validation split, the slopes from the other.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.config import Config
from experiments.convert import calibrated_scale
from experiments.finetune import starting_snn
from experiments.runs.networks import build_ann, encoding_of, open_source, random_key
from experiments.runs.workdir import Results, Run
from jsnn import surrogate
from jsnn.augment import scale
from jsnn.datasets import VALIDATION
from jsnn.models import spiking
from jsnn.simulation import Variables, simulate
from jsnn.surrogate import Surrogate

IMAGES = 2048  # in each half
BATCH = 256
MOVE = 0.02  # of the norm of the layer's weights

Images = tuple[jax.Array, jax.Array, jax.Array]  # images [N, B, ...], labels [N, B], indices [N, B]
Scores = Callable[[Any], tuple[jax.Array, jax.Array]]  # params -> loss [nats], accuracy


def descent(run: Run) -> Results:
    """What steps of MOVE along the gradients do to the net that a run's fine-tune starts with.

    Args:
        run: the run, its net converted.

    Returns:
        Name of the gradient -> "loss" (nats) or "accuracy" -> layer -> change by a step downhill; the loss is that of
        calibrated logits.
    """
    snn, calibrated = starting_snn(run), calibrated_scale(run)
    first, second = (half_of_validation(run.config, half, BATCH) for half in range(2))
    scores = scores_on(second, run.config, snn, calibrated)
    found = {}
    for name, rule in (("stdb", surrogate.stdb()), ("linear", surrogate.linear())):
        for kind, logit_scale in (("plain", 1.0), ("calibrated", calibrated)):
            gradients = mean_gradient(batch_gradients(run.config, rule, snn, first, logit_scale))
            found[f"{name}, {kind}"] = changes(scores, snn["params"], gradients)
    return found


def scores_on(images: Images, config: Config, snn: Variables, logit_scale: float) -> Scores:
    """Loss and accuracy of a net with other weights, on images, compiled once; they know no surrogate.

    Args:
        images: in batches.
        config: of the run.
        snn: SNN variables, of which the thresholds and leaks stay.
        logit_scale: factor on the logits in the loss.

    Returns:
        The function of the params.
    """
    return jax.jit(partial(_scores, config, surrogate.stdb(), snn["neuron"], images, logit_scale))


def changes(scores: Scores, params: Any, gradients: Any) -> Results:
    """Half the difference between a step of MOVE downhill and one uphill, layer by layer.

    Args:
        scores: what changes.
        params: where the steps begin.
        gradients: in the structure of the params.

    Returns:
        "loss" (nats) or "accuracy" -> layer -> change.
    """
    found: Results = {"loss": {}, "accuracy": {}}
    for layer, weights in params.items():
        kernel, gradient = weights["kernel"], gradients[layer]["kernel"]
        length = jnp.linalg.norm(gradient)
        move = MOVE * jnp.linalg.norm(kernel) / jnp.where(length > 0, length, 1) * gradient  # none without a gradient
        down, up = (scores({**params, layer: {"kernel": kernel + side * move}}) for side in (-1, 1))
        for name, (one, other) in zip(found, zip(down, up, strict=True), strict=True):
            found[name][layer] = float(one - other) / 2
    return found


def batch_gradients(config: Config, rule: Surrogate, snn: Variables, images: Images, logit_scale: float) -> Any:
    """The surrogate's gradient of the loss of each batch, dropout off.

    Args:
        config: of the run.
        rule: the surrogate.
        snn: SNN variables.
        images: in batches.
        logit_scale: factor on the logits in the loss.

    Returns:
        A pytree like the params, its leaves [N, ...].
    """

    def of_batch(batch: Images) -> Any:
        one = jax.tree.map(lambda leaf: leaf[None], batch)
        return jax.grad(lambda params: _scores(config, rule, snn["neuron"], one, logit_scale, params)[0])(snn["params"])

    return jax.jit(partial(jax.lax.map, of_batch))(images)


def mean_gradient(gradients: Any) -> Any:
    """The mean over batches, which is the gradient of the loss of all of them."""
    return jax.tree.map(lambda leaf: leaf.mean(0), gradients)


def _scores(
    config: Config, rule: Surrogate, neuron: Any, images: Images, logit_scale: float, params: Any
) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy and accuracy, dropout off."""
    model, key, num_steps = spiking(build_ann(config), rule), random_key(config, "validation"), config.convert.num_steps

    def of_batch(batch: Images) -> tuple[jax.Array, jax.Array]:
        images, labels, index = batch
        inputs = partial(encoding_of(config), images, key, index)
        variables = {"params": params, "neuron": neuron}
        steps = {"num_steps": num_steps, "chunk": num_steps}
        logits = logit_scale * simulate(model, variables, inputs, lambda logits, _: logits, **steps)[-1]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (logits.argmax(-1) == labels).mean()

    return jax.tree.map(jnp.mean, jax.lax.map(of_batch, images))


def half_of_validation(config: Config, half: int, batch_size: int) -> Images:
    """One half of the validation images, 2 * IMAGES of them, in batches."""
    source = open_source(config, VALIDATION)
    index = jnp.arange(half * IMAGES, (half + 1) * IMAGES, dtype=jnp.int32).reshape(-1, batch_size)
    batch = source.take(source.resident, index.reshape(-1))
    images = scale(batch.images).reshape(*index.shape, *batch.images.shape[1:])
    return jax.device_put((images, batch.labels.reshape(index.shape), index), jax.devices()[0])
