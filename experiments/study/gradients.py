"""Question c: where surrogate gradients lead, layer by layer, whether batches agree, and which neurons have none.

Spikes have no gradient to compare a surrogate's with, but the slope along it can be measured: each layer's weights are
moved a little with and against it, and the spiking network is run on both sides. The gradient comes from one half of
the validation split, the slope from the other. Between batches noise averages out. What they agree on does not, and
carries the weights along step by step, whether the loss falls on the way or not.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.config import Config
from experiments.convert import calibrated_scale
from experiments.finetune import logit_scale, starting_snn
from experiments.runs.networks import build_snn, encoding_of, open_source, random_key
from experiments.runs.workdir import Results, Run
from jsnn.augment import scale
from jsnn.datasets import VALIDATION
from jsnn.packing import unpack
from jsnn.simulation import Variables, simulate

IMAGES, IMAGES_FOR_SILENCE = 2048, 1024  # in each half of the validation split; the first ones of it
BATCH = 256
MOVE = 0.02  # of the norm of the layer's weights

Images = tuple[jax.Array, jax.Array, jax.Array]  # images [N, B, ...], labels [N, B], indices [N, B]
Scores = tuple[jax.Array, jax.Array]  # loss [nats], accuracy


def descent(run: Run) -> Results:
    """Gradient -> `changes` of the net that fine-tuning starts with by steps along it; their loss is the calibrated."""
    config, snn, calibrated = run.config, starting_snn(run), calibrated_scale(run)
    first, second = (half_of_validation(config, half, BATCH) for half in range(2))
    results = {}
    for name in ("stdb", "linear"):
        of_surrogate = replace(config, finetune=replace(config.finetune, surrogate=name))
        for kind, factor in (("plain", 1.0), ("calibrated", calibrated)):
            gradient = mean_gradient(batch_gradients(of_surrogate, snn, first, factor))
            results[f"{name}, {kind}"] = changes(config, snn, gradient, second, calibrated)
    return results


def agreement(run: Run, snn: Variables) -> Results:
    """How far batches of the run's size agree on the gradients of its loss by its surrogate, at the net `snn`.

    Returns:
        {"share": layer -> `share` of the batches of one half, "loss": layer -> change of the loss on the other half by
        a step downhill, in nats}.
    """
    first = half_of_validation(run.config, 0, run.config.data.batch_size)
    second = half_of_validation(run.config, 1, BATCH)
    gradients = batch_gradients(run.config, snn, first, logit_scale(run))
    return {
        "share": {layer: share(of_batches["kernel"]) for layer, of_batches in gradients.items()},
        "loss": changes(run.config, snn, mean_gradient(gradients), second, logit_scale(run))["loss"],
    }


def share(gradients: jax.Array) -> float:
    """The mean gradient over the root mean square of N batches [N, ...], averaged over weights that have a gradient.

    Returns:
        1 where all batches agree; about 0.8 / sqrt(N) where each is only noise; 0 where no weight has a gradient.
    """
    size = jnp.sqrt((gradients**2).mean(0))
    ratios = jnp.abs(gradients.mean(0)) / jnp.where(size > 0, size, 1)
    return float(ratios.sum() / jnp.maximum((size > 0).sum(), 1))


def changes(config: Config, snn: Variables, gradient: Any, images: Images, factor: float) -> Results:
    """Half the difference of "loss" (nats) and "accuracy" between a step of MOVE downhill and one uphill, by layer."""
    by_score: Results = {"loss": {}, "accuracy": {}}
    for layer, weights in snn["params"].items():
        kernel, along = weights["kernel"], gradient[layer]["kernel"]
        length = jnp.linalg.norm(along)
        move = MOVE * jnp.linalg.norm(kernel) / jnp.where(length > 0, length, 1) * along  # none without a gradient
        nets = (snn | {"params": snn["params"] | {layer: {"kernel": kernel + side * move}}} for side in (-1, 1))
        down, up = (_scores(config, net, images, factor) for net in nets)
        for name, after, before in zip(by_score, down, up, strict=True):
            by_score[name][layer] = float(after - before) / 2
    return by_score


@partial(jax.jit, static_argnums=0)
def batch_gradients(config: Config, snn: Variables, images: Images, factor: float) -> Any:
    """The surrogate's gradient of each batch's loss, dropout off, like the params with leaves [N, ...]."""

    def loss(params: Any, batch: Images) -> jax.Array:
        return _score(config, {**snn, "params": params}, factor, batch)[0]

    return jax.lax.map(partial(jax.grad(loss), snn["params"]), images)


def mean_gradient(gradients: Any) -> Any:
    """The mean over batches, which is the gradient of the loss of all of them."""
    return jax.tree.map(lambda leaf: leaf.mean(0), gradients)


@partial(jax.jit, static_argnums=0)
def _scores(config: Config, snn: Variables, images: Images, factor: float) -> Scores:
    return jax.tree.map(jnp.mean, jax.lax.map(partial(_score, config, snn, factor), images))


def _score(config: Config, snn: Variables, factor: float, batch: Images) -> Scores:
    """Mean cross-entropy, of logits times a factor, and accuracy of one batch, dropout off."""
    images, labels, index = batch
    inputs = partial(encoding_of(config), images, random_key(config, VALIDATION), index)
    steps = {"num_steps": config.convert.num_steps, "chunk": config.convert.num_steps}
    logits = factor * simulate(build_snn(config), snn, inputs, lambda logits, _: logits, **steps)[-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), (logits.argmax(-1) == labels).mean()


def half_of_validation(config: Config, half: int, batch_size: int) -> Images:
    """The first or second IMAGES images of the validation split, in batches."""
    source = open_source(config, VALIDATION)
    index = jnp.arange(half * IMAGES, (half + 1) * IMAGES, dtype=jnp.int32).reshape(-1, batch_size)
    batch = source.take(source.resident, index.reshape(-1))
    images = scale(batch.images).reshape(*index.shape, *batch.images.shape[1:])
    return jax.device_put((images, batch.labels.reshape(index.shape), index), jax.devices()[0])


def silent_neurons(config: Config, snn: Variables) -> Results:
    """Shares of neurons that have not fired, to which STDB gives no gradient, on validation images; T is at most 32.

    Returns:
        {"never": layer -> share of (neuron, image) without a spike, "no gradient": layer -> share of (neuron, image,
        step) before the neuron's first spike, where STDB's derivative is 0}.
    """
    source, key, num_steps = open_source(config, VALIDATION), random_key(config, VALIDATION), config.convert.num_steps
    steps = {"num_steps": num_steps, "chunk": num_steps}

    def observe(_: jax.Array, collected: Variables) -> Any:
        return {layer: unpack(train["lif"], num_steps, jnp.float32) for layer, train in collected["trains"].items()}

    @jax.jit
    def of_batch(index: jax.Array, resident: Any) -> Results:
        inputs = partial(encoding_of(config), scale(source.take(resident, index).images), key, index)
        trains = simulate(build_snn(config), snn, inputs, observe, **steps, collect=("trains",))
        never = {layer: (spikes.sum(0) == 0).mean() for layer, spikes in trains.items()}
        before_first = {layer: (spikes.cumsum(0) == spikes).mean() for layer, spikes in trains.items()}
        return {"never": never, "no gradient": before_first}

    batches = jnp.arange(IMAGES_FOR_SILENCE, dtype=jnp.int32).reshape(-1, config.run.eval_batch_size)
    shares = [of_batch(index, source.resident) for index in batches]
    return jax.tree.map(lambda *share: float(sum(share) / len(share)), *shares)
