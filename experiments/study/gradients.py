"""Question c: how far surrogate gradients are from the slope that spikes really have.

The loss is a step function of the weights; over a thousand images it is smooth enough for central differences. Each
weight is moved by a tenth of its layer's standard deviation, with the same input spikes on both sides. Two halves of
the images give two estimates; their cosine tells how much of an estimate is noise.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.config import Config
from experiments.finetune import starting_snn
from experiments.networks import build_ann, encoding_of, open_source, random_key
from experiments.workdir import Results, Run
from jsnn import surrogate
from jsnn.augment import scale
from jsnn.datasets import VALIDATION
from jsnn.models import spiking
from jsnn.simulation import Variables, simulate
from jsnn.surrogate import Surrogate

IMAGES = 1024  # of the validation split, for each of the two estimates
BATCH = 256
WEIGHTS = 96  # of a layer that are moved
MOVE = 0.1  # standard deviations of the layer's weights
BETAS = (0.01, 0.3, 1.0)

Images = tuple[jax.Array, jax.Array, jax.Array]  # [N, B, ...] images, labels, indices


def cosines(run: Run) -> Results:
    """The surrogates' gradients beside finite differences, of the net that a run's fine-tune starts with.

    Args:
        run: the run, its net converted.

    Returns:
        Name -> layer -> cosine with the finite differences, or of the two estimates by finite differences.
    """
    snn, halves = starting_snn(run), _halves(run)
    layers = build_ann(run.config).spiking_layers
    chosen = {layer: _chosen(snn["params"][layer]["kernel"].size) for layer in layers}
    differences = [
        {layer: _differences(run.config, snn, layer, jnp.asarray(chosen[layer]), images) for layer in layers}
        for images in halves
    ]
    found = {"finite differences": {layer: _cosine(*(half[layer] for half in differences)) for layer in layers}}
    surrogates = {f"stdb, beta {beta:g}": surrogate.stdb(0.3, beta) for beta in BETAS}
    for name, rule in (surrogates | {"linear": surrogate.linear()}).items():
        gradients = [_gradients(run.config, rule, snn, images) for images in halves]
        found[name] = {
            layer: float(
                np.mean(
                    [
                        _cosine(gradient[layer]["kernel"].reshape(-1)[chosen[layer]], half[layer])
                        for gradient, half in zip(gradients, differences, strict=True)
                    ]
                )
            )
            for layer in layers
        }
    return found


def _halves(run: Run) -> list[Images]:
    """The images of the two estimates, in batches."""
    source = open_source(run.config, VALIDATION)
    halves = []
    for half in range(2):
        index = jnp.arange(half * IMAGES, (half + 1) * IMAGES, dtype=jnp.int32).reshape(-1, BATCH)
        batch = source.take(source.resident, index.reshape(-1))
        images = scale(batch.images).reshape(*index.shape, *batch.images.shape[1:])
        halves.append(jax.device_put((images, batch.labels.reshape(index.shape), index), jax.devices()[0]))
    return halves


def _loss(config: Config, rule: Surrogate, key: jax.Array, neuron: Any, params: Any, batch: Images) -> jax.Array:
    """Mean cross-entropy of a batch, dropout off."""
    images, labels, index = batch
    logits = simulate(
        spiking(build_ann(config), rule),
        {"params": params, "neuron": neuron},
        partial(encoding_of(config), images, key, index),
        lambda logits, _: logits,
        num_steps=config.num_steps,
        chunk=config.num_steps,
    )
    return optax.softmax_cross_entropy_with_integer_labels(logits[-1], labels).mean()


def _mean_loss(config: Config, rule: Surrogate, neuron: Any) -> Callable[[Any, Images], jax.Array]:
    of_batch = partial(_loss, config, rule, random_key(config, "validation"), neuron)
    return lambda params, images: jax.lax.map(partial(of_batch, params), images).mean()


def _gradients(config: Config, rule: Surrogate, snn: Variables, images: Images) -> Any:
    """The surrogate's gradient of the mean loss."""
    of_batch = jax.grad(partial(_loss, config, rule, random_key(config, "validation"), snn["neuron"]))
    sums = jax.jit(lambda params: jax.lax.map(partial(of_batch, params), images))(snn["params"])
    return jax.tree.map(lambda gradients: np.asarray(gradients.mean(0)), sums)


def _differences(config: Config, snn: Variables, layer: str, chosen: jax.Array, images: Images) -> np.ndarray:
    """Central differences of the mean loss in some of a layer's weights."""
    loss = _mean_loss(config, surrogate.stdb(), snn["neuron"])
    kernel = snn["params"][layer]["kernel"]
    move = MOVE * kernel.std()

    def slope(position: jax.Array) -> jax.Array:
        def moved(by: jax.Array) -> jax.Array:
            weights = kernel.reshape(-1).at[position].add(by).reshape(kernel.shape)
            return loss({**snn["params"], layer: {"kernel": weights}}, images)

        return (moved(move) - moved(-move)) / (2 * move)

    return np.asarray(jax.jit(partial(jax.lax.map, slope))(chosen))


def _chosen(size: int) -> np.ndarray:
    """Positions of the weights that are moved."""
    return np.sort(np.random.default_rng(0).permutation(size)[:WEIGHTS])


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
