"""Data-parallel steps by jax.pmap: the batch is split over all devices, everything else is the same on each.

A single device is the same program with an axis of one.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jsnn.checks import is_whole
from jsnn.data.sources import Source
from jsnn.network.transformation import Variables
from jsnn.progress import Progress, unwatched
from jsnn.training.evaluation import Evaluate, Evaluation, mean
from jsnn.training.forward import Forward
from jsnn.training.loss import Loss, cross_entropy
from jsnn.training.step import Step, train_step

AXIS = "devices"
Devices = Sequence[jax.Device] | None


def parallel_train_step(
    source: Source,
    forward: Forward,
    optimizer: optax.GradientTransformation,
    loss: Loss = cross_entropy,
    accumulate: int = 1,
    devices: Devices = None,
) -> Step:
    """The training step on all devices.

    Args:
        source: tells how to take and augment samples.
        forward: of the network.
        optimizer: the optax transformation.
        loss: (outputs, batch) -> (scalar, other scores), means over the batch.
        accumulate: micro-batches of each device that run one after the other, see `jsnn.training.step.train_step`.
        devices: to run on, or to compile for, as those of `jax.experimental.topologies`; None for all there are.

    Returns:
        (state, resident, item [D, B / D, ...], key) -> (state, Metrics), compiled once. The state passed in is
        overwritten.
    """
    step = train_step(source, forward, optimizer, AXIS, loss, accumulate)
    return jax.pmap(step, AXIS, in_axes=(None, None, 0, None), out_axes=None, devices=devices, donate_argnums=0)


def parallel_evaluation(evaluate: Evaluate, devices: Devices = None) -> Evaluate:
    """An evaluation on all devices, summed over them.

    Args:
        evaluate: (variables, resident, item, key) -> Evaluation of sums.
        devices: see `parallel_train_step`.

    Returns:
        (variables, resident, item [D, B / D, ...], key) -> Evaluation of sums over all devices, compiled once.
    """

    def summed(variables: Variables, resident: Any, item: Any, key: jax.Array) -> Evaluation:
        return jax.lax.psum(evaluate(variables, resident, item, key), AXIS)

    return jax.pmap(summed, AXIS, in_axes=(None, None, 0, None), out_axes=None, devices=devices)


def evaluate_split(
    evaluate: Evaluate,
    variables: Variables,
    source: Source,
    batch_size: int,
    key: jax.Array,
    *,
    progress: Progress = unwatched,
    name: str = "evaluation",
    devices: Devices = None,
) -> Any:
    """Evaluate a whole split, every sample once.

    Args:
        evaluate: made by `parallel_evaluation`.
        variables: of the network.
        source: the split.
        batch_size: samples at a time, over all devices, see `fitting_batch_size`; does not change the result.
        key: random key of the encoding.
        progress: watches the pass over the batches, see `jsnn.progress.unwatched`.
        name: of the pass, to be shown.
        devices: those of the evaluation.

    Returns:
        The means of what the evaluation gives, as an Evaluation or Exits, as NumPy arrays.

    Raises:
        ValueError: where the batch does not divide by the number of devices, or these are not equally many of each
            process.
    """
    check_batch_size(batch_size, "batch_size", None if devices is None else len(devices))
    variables, resident = replicate((variables, source.resident), devices)
    batches, sums = source.in_order(batch_size), None
    for item in progress(batches, name, -(-source.num_examples // batch_size)):
        scores = evaluate(variables, resident, split_over_devices(item, devices), key)
        jax.block_until_ready(sums)  # the host is one batch ahead, no more
        sums = scores if sums is None else jax.tree.map(jnp.add, sums, scores)
    return mean(jax.device_get(sums))


def fitting_batch_size(max_batch_size: int, num_examples: int) -> int:
    """Samples at a time, a multiple of the devices: at most so many, and no more than hold all, but one for each."""
    devices = jax.device_count()
    return devices * max(1, min(max_batch_size // devices, -(-num_examples // devices)))


def replicate(tree: Any, devices: Devices = None) -> Any:
    """Put the same arrays on every device of this process, or on some, once, so that steps need not copy them."""
    mesh = jax.sharding.Mesh(np.array(_local(devices)), (AXIS,))
    return jax.device_put(tree, jax.NamedSharding(mesh, jax.P()))


def split_over_devices(item: Any, devices: Devices = None) -> Any:
    """Split an item's arrays [B, ...] over the D devices of this process, or some, [D, B / D, ...]."""
    count = len(_local(devices))

    def split(leaf: np.ndarray) -> np.ndarray:
        check_batch_size(len(leaf) * jax.process_count(), "batch_size", count * jax.process_count())
        return leaf.reshape(count, -1, *leaf.shape[1:])

    return jax.tree.map(split, item)


def _local(devices: Devices) -> list[jax.Device]:
    """Those of the devices that are of this process; ValueError where they are not equally many of each."""
    if devices is None:
        return jax.local_devices()
    local = [device for device in devices if device.process_index == jax.process_index()]
    if not local or len(local) * jax.process_count() != len(devices):
        raise ValueError(f"devices must be equally many of each process, got {len(local)} of {len(devices)} here.")
    return local


def check_batch_size(batch_size: int, name: str, devices: int | None = None) -> None:
    """Refuse a global batch that can't be split evenly over all devices, by the name that the caller gives it."""
    devices = jax.device_count() if devices is None else devices
    if not is_whole(batch_size):
        raise ValueError(f"{name} must be a whole number of samples, got {batch_size!r}.")
    if batch_size < 1 or batch_size % devices:
        raise ValueError(
            f"{name} {batch_size} can't be split evenly over {devices} devices: choose a multiple of {devices}."
        )
