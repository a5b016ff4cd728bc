"""Where batches come from: a data set held on the device, or a stream of decoded images.

A source hands out items, which cross to the devices, and functions that turn an item into a batch inside the compiled
step. For a resident set an item is just the indices of its samples; for a stream it is the images themselves.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.checks import check_array, is_whole
from jsnn.data.augment import random_crop, random_flip, scale
from jsnn.data.datasets import Split, check_labels

SHUFFLE = 0x5F  # sets the order of samples apart from all other randomness of a seed
PADDING = -1  # index of a sample that only fills up the last batch


class Batch(NamedTuple):
    """Samples of a batch.

    Attributes:
        images: [B, H, W, C] uint8, or inputs of another kind, see `array_source` and `event_source`.
        labels: [B] int32, or targets [B, ...] of another kind; -1 or NaN for an index that the data set does not have.
        index: [B] int32, the samples' indices in the data set; -1 for padding, which does not count in an evaluation
            and which a training step refuses: its loss and gradients are NaN then, and it changes nothing.
    """

    images: jax.Array
    labels: jax.Array
    index: jax.Array


class Source(NamedTuple):
    """A split as the training and evaluation steps read it.

    Attributes:
        num_examples: samples of the split.
        resident: pytree that every device holds.
        take: (resident, item) -> Batch; runs inside the compiled step.
        augment: (images, keys [B]) -> images; runs inside the compiled training step.
        prepare: images -> what the encoding is given; runs inside the compiled step.
        shuffled: (batch_size, seed, epoch, start) -> this process's items of an epoch in random order, from its
            start-th batch on; the samples that do not fill a batch are left out. ValueError where they fill none.
        in_order: (batch_size, images) -> this process's items of the split in order, the last one padded; of the images
            of a range, or of all for None.
        num_labels: how many classes the labels are of, at least; None where targets are no labels.
    """

    num_examples: int
    resident: Any
    take: Callable[[Any, Any], Batch]
    augment: Callable[[jax.Array, jax.Array], jax.Array]
    prepare: Callable[[jax.Array], jax.Array]
    shuffled: Callable[[int, int, int, int], Iterator[Any]]
    in_order: Callable[[int, range | None], Iterator[Any]]
    num_labels: int | None = None


def resident_source(split: Split, crop_padding: int = 0, flip: bool = False) -> Source:
    """A split that is held on the device and cropped and flipped there.

    Args:
        split: images and labels.
        crop_padding: pixels of black around the image that a training crop may reach into; 0 for no cropping.
        flip: whether to mirror a training image, left to right, with probability 1/2.

    Returns:
        The Source; its items are int32 indices [B].

    Raises:
        ValueError: where crop_padding is negative, the split is empty, the images are not [N, H, W, C] uint8, or there
            is not one integer label of at least 0 for each.
    """
    images, labels = split
    check_array("images", images)
    check_array("labels", labels)
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(f"images must be [N, H, W, C] uint8, at least one, got {images.shape} {images.dtype}.")
    check_labels(images, labels)
    if crop_padding < 0:
        raise ValueError(f"crop_padding must be at least 0 pixels, got {crop_padding}.")

    def augment(images: jax.Array, keys: jax.Array) -> jax.Array:
        crop_keys, flip_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        images = random_crop(images, crop_keys, crop_padding) if crop_padding else images
        return random_flip(images, flip_keys) if flip else images

    return _resident(split, augment, scale)


def array_source(inputs: np.ndarray, targets: np.ndarray) -> Source:
    """Arrays that are held on the device and presented as they are.

    Args:
        inputs: [N, ...] float, as the encoding takes them.
        targets: [N, ...], whatever the loss function takes; whole numbers [N] are labels, from 0 on.

    Returns:
        The Source; its items are int32 indices [B].

    Raises:
        ValueError: where there are no inputs, not one target for each, or a label is below 0.
    """
    check_array("inputs", inputs)
    check_array("targets", targets)
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise ValueError(f"each input needs its target, at least one, got {len(inputs)} and {len(targets)}.")
    return _resident(Split(inputs, targets), lambda inputs, keys: inputs, lambda inputs: inputs)


def event_source(events: np.ndarray, targets: np.ndarray) -> Source:
    """Events over time that are held on the device, for the encoding `jsnn.encoding.events`.

    Args:
        events: [N, T, ...], for each sample what arrives at each step, e.g. counts by pixel and polarity.
        targets: as of `array_source`.

    Returns:
        The Source; its items are int32 indices [B], and its batches' images are float32 [B, T, ...].

    Raises:
        ValueError: as `array_source`.
    """
    check_array("events", events)
    if events.dtype.kind in "iu" and events.dtype.itemsize > 4:
        events = events.astype(np.float32)  # what they become in any case; as int32 large ones would wrap

    def take(resident: Split, index: jax.Array) -> Batch:
        batch = _take(resident, index)
        return batch._replace(images=batch.images.astype(jnp.float32))

    return array_source(events, targets)._replace(take=take)


def _take(resident: Split, index: jax.Array) -> Batch:
    """The samples of these indices; for others, which JAX clips or wraps, what says that they are none."""
    images, targets = (jnp.asarray(array)[index] for array in resident)
    if jnp.issubdtype(targets.dtype, jnp.number):
        is_whole_number = jnp.issubdtype(targets.dtype, jnp.integer)
        targets = targets.astype(jnp.int32) if is_whole_number else targets
        is_sample = ((index >= 0) & (index < len(resident.labels))).reshape(
            *index.shape, *[1] * (targets.ndim - index.ndim)
        )
        targets = jnp.where(is_sample, targets, -1 if is_whole_number else jnp.nan)
    return Batch(images, targets, index)


def _resident(
    split: Split, augment: Callable[[jax.Array, jax.Array], jax.Array], prepare: Callable[[jax.Array], jax.Array]
) -> Source:
    """A Source whose items are indices."""
    num_examples, num_labels = len(split.labels), _num_labels(split.labels)

    def shuffled(batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        check_samples(batch_size, start, num_examples)
        order = shuffled_order(num_examples, seed, epoch)
        places = range(start * batch_size, num_examples - batch_size + 1, batch_size)
        return (process_share(order[first : first + batch_size]) for first in places)

    def in_order(batch_size: int, images: range | None = None) -> Iterator[np.ndarray]:
        check_samples(batch_size)
        return map(process_share, padded_batches(range(num_examples) if images is None else images, batch_size))

    return Source(num_examples, split, _take, augment, prepare, shuffled, in_order, num_labels)


def _num_labels(targets: np.ndarray) -> int | None:
    """One more than the largest label; None where targets are none, that is, no whole numbers [N]."""
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        return None
    if targets.min() < 0:
        raise ValueError(
            f"labels must be at least 0, got {targets.min()}: leave out images that have none, and give targets that "
            "are no labels as floating-point numbers."
        )
    if targets.max() >= 2**31:
        raise ValueError(f"labels must be below 2^31, got {targets.max()}: count them from 0.")
    return int(targets.max()) + 1


def subset(source: Source, images: range) -> Source:
    """Some of the images of a split, for evaluation.

    Args:
        source: of the split.
        images: which, at least one, from 0 on and without a step; those beyond the split's end are left out.

    Returns:
        A Source of them, of the same resident data, so that programs for the one are programs for the other. Its
        `shuffled` is refused.

    Raises:
        ValueError: where the split has none of them, or the range begins below 0 or has a step.
    """
    part = range(images.start, min(images.stop, source.num_examples))
    if not part or images.start < 0 or images.step != 1:
        raise ValueError(f"a split of {source.num_examples} images has no {images}: name a part of it from 0 on.")

    def in_order(batch_size: int, images: range | None = None) -> Iterator[Any]:
        return source.in_order(batch_size, part if images is None else part[images.start : images.stop])

    def shuffled(batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Any]:
        raise ValueError("a part of a split is for evaluation: train on the split's own source, or make one of arrays.")

    return source._replace(num_examples=len(part), shuffled=shuffled, in_order=in_order)


def check_samples(batch_size: int, start: int = 0, num_examples: int | None = None) -> None:
    """Refuse a batch of no samples, or of more than a split has, and a number of the first batch below 0."""
    if not is_whole(batch_size):
        raise ValueError(f"batch_size must be a whole number of samples, got {batch_size!r}.")
    if not is_whole(start) or start < 0:
        raise ValueError(f"start must be the number of a batch, from 0 on, got {start!r}.")
    if batch_size < 1 or (num_examples is not None and batch_size > num_examples):
        most = "" if num_examples is None else f" and at most the split's {num_examples} samples"
        raise ValueError(f"batch_size must be at least 1{most}, got {batch_size}.")


def shuffled_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch, a function of (seed, epoch) alone: int32 [num_examples]."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), SHUFFLE), epoch)
    return np.asarray(jax.random.permutation(key, num_examples), np.int32)


def padded_batches(images: range, batch_size: int) -> Iterator[np.ndarray]:
    """All indices of a range, int32 [batch_size] at a time, the last filled up with -1."""
    for first in range(images.start, images.stop, batch_size):
        index = np.arange(first, first + batch_size, dtype=np.int32)
        yield np.where(index < images.stop, index, PADDING)


def process_share(batch: np.ndarray) -> np.ndarray:
    """The part of a global batch that this process reads: every n-th sample for n processes."""
    return batch[jax.process_index() :: jax.process_count()]
