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
from experiments.runs.records import Results
from experiments.runs.workdir import Run
from jsnn.augment import scale
from jsnn.datasets import VALIDATION
from jsnn.packing import unpack
from jsnn.simulation import Observer, Variables, simulate

IMAGES, IMAGES_FOR_SILENCE = 2048, 1024  # in each half of the validation split; the first ones of it
BATCH = 256
MOVE = 0.02  # of the norm of the layer's weights

Images = tuple[jax.Array, jax.Array, jax.Array]  # images [N, B, ...], labels [N, B], indices [N, B]
Scores = tuple[jax.Array, jax.Array]  # loss [nats], accuracy


def descent(run: Run) -> Results:
    """Gradient -> `changes` of the net that fine-tuning starts with by steps along it; their loss is the calibrated."""
    config, snn, calibrated = run.config, starting_snn(run), calibrated_scale(run)
    first, second = (validation_images(config, start, IMAGES, BATCH) for start in (0, IMAGES))
    results = {}
    for name in ("stdb", "linear"):
        of_surrogate = replace(config, finetune=replace(config.finetune, surrogate=name))
        for kind, factor in (("plain", 1.0), ("calibrated", calibrated)):
            gradients = batch_gradients(of_surrogate, snn, first, factor)
            results[f"{name}, {kind}"] = changes(config, snn, gradients, second, calibrated)
    return results


def agreement(run: Run, snn: Variables) -> Results:
    """How far batches of the run's size agree on the gradients of its loss by its surrogate, at the net `snn`.

    By layer the `share` of batches of one half, and the change of the "loss" on the other by a step downhill, in nats.
    """
    first = validation_images(run.config, 0, IMAGES, run.config.data.batch_size)
    second = validation_images(run.config, IMAGES, IMAGES, BATCH)
    gradients = batch_gradients(run.config, snn, first, logit_scale(run))
    shares = {layer: share(of_batches["kernel"]) for layer, of_batches in gradients.items()}
    return {"share": shares, "loss": changes(run.config, snn, gradients, second, logit_scale(run))["loss"]}


def share(gradients: jax.Array) -> float:
    """The mean gradient over the root mean square of N batches [N, ...], averaged over weights that have a gradient.

    1 where all batches agree; about 0.8 / sqrt(N) where each is only noise; 0 where no weight has a gradient.
    """
    size = jnp.sqrt((gradients**2).mean(0))
    ratios = jnp.abs(gradients.mean(0)) / jnp.where(size > 0, size, 1)
    return float(ratios.sum() / jnp.maximum((size > 0).sum(), 1))


def changes(config: Config, snn: Variables, gradients: Any, images: Images, factor: float) -> Results:
    """Half the difference of "loss" (nats) and "accuracy" between a step of MOVE downhill and one uphill, by layer.

    The way up is the mean of the gradients of batches, which is the gradient of the loss of all of them.
    """
    by_score: Results = {"loss": {}, "accuracy": {}}
    for layer, weights in snn["params"].items():
        kernel, along = weights["kernel"], gradients[layer]["kernel"].mean(0)
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
    gradient = jax.grad(lambda params, batch: _score(config, {**snn, "params": params}, factor, batch)[0])
    return jax.lax.map(partial(gradient, snn["params"]), images)


@partial(jax.jit, static_argnums=0)
def _scores(config: Config, snn: Variables, images: Images, factor: float) -> Scores:
    return jax.tree.map(jnp.mean, jax.lax.map(partial(_score, config, snn, factor), images))


def _score(config: Config, snn: Variables, factor: float, batch: Images) -> Scores:
    """Mean cross-entropy, of logits times a factor, and accuracy of one batch, dropout off."""
    logits, labels = factor * _presented(config, snn, batch, lambda logits, _: logits)[-1], batch[1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), (logits.argmax(-1) == labels).mean()


def _presented(config: Config, snn: Variables, batch: Images, observe: Observer, *collect: str) -> Any:
    """What is observed while the net is presented one batch, all time steps at once."""
    images, _, index = batch
    inputs = partial(encoding_of(config), images, random_key(config, VALIDATION), index)
    num_steps = config.convert.num_steps
    return simulate(build_snn(config), snn, inputs, observe, num_steps=num_steps, chunk=num_steps, collect=collect)


def validation_images(config: Config, start: int, count: int, batch_size: int) -> Images:
    """Images of the validation split from one on, in batches."""
    source = open_source(config, VALIDATION)
    index = jnp.arange(start, start + count, dtype=jnp.int32).reshape(-1, batch_size)
    batch = source.take(source.resident, index.reshape(-1))
    images = scale(batch.images).reshape(*index.shape, *batch.images.shape[1:])
    return jax.device_put((images, batch.labels.reshape(index.shape), index), jax.devices()[0])


def silent_neurons(config: Config, snn: Variables) -> Results:
    """Shares of neurons that have not fired, to which STDB gives no gradient, on validation images; T is at most 32.

    By layer, "never": of (neuron, image) without a spike, "no gradient": of (neuron, image, step) before the first one.
    """
    batches = validation_images(config, 0, IMAGES_FOR_SILENCE, config.run.eval_batch_size)
    shares = [_silent_shares(config, snn, batch) for batch in zip(*batches, strict=True)]
    return jax.tree.map(lambda *share: float(sum(share) / len(share)), *shares)


@partial(jax.jit, static_argnums=0)
def _silent_shares(config: Config, snn: Variables, batch: Images) -> Results:
    """`silent_neurons` of one batch."""

    def observe(_: jax.Array, collected: Variables) -> Any:
        trains, num_steps = collected["trains"], config.convert.num_steps
        return {layer: unpack(train["lif"], num_steps, jnp.float32) for layer, train in trains.items()}

    trains = _presented(config, snn, batch, observe, "trains")
    never = {layer: (spikes.sum(0) == 0).mean() for layer, spikes in trains.items()}
    before_first = {layer: (spikes.cumsum(0) == spikes).mean() for layer, spikes in trains.items()}
    return {"never": never, "no gradient": before_first}
