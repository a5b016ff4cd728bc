"""ImageNet as a stream: grain reads, decodes, crops and flips in the background, each process its own share.

Training images are random resized crops, flipped at random; evaluation images are centre crops. What a sample looks
like depends on (seed, epoch, its place in the epoch) alone, not on the number of processes or workers.
"""

import math
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import grain
import jax
import numpy as np
from absl import flags
from PIL import Image

from jsnn.datasets import info, open_split, readable
from jsnn.sources import PADDING, Batch, Source, padded_batches, shuffled_order

RESIZE = 256 / 224  # the shorter side before a centre crop, in units of the crop


def streamed_source(name: str, split: str, data_dir: str | None = None, num_workers: int = 0) -> Source:
    """A split that is read image by image.

    Args:
        name: a data set of TFDS.
        split: "train", "validation" or "test".
        data_dir: TFDS's data directory; None for its default.
        num_workers: processes that decode; 0 decodes in threads of this one.

    Returns:
        The Source; its items are Batches.

    Raises:
        ValueError: where the data set is not prepared.
    """
    examples = open_split(name, split, data_dir)
    size = info(name).image_shape[0]

    def shuffled(batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = shuffled_order(len(examples), seed, epoch)
        order = order[: len(order) // batch_size * batch_size]
        if start * batch_size >= len(order):
            return iter(())
        items = grain.MapDataset.source(order).random_map(
            partial(_training_sample, name, examples, size), seed=_mix(seed, epoch)
        )
        return _batches(items, batch_size, num_workers, start)

    def in_order(batch_size: int) -> Iterator[Batch]:
        index = np.concatenate(list(padded_batches(len(examples), batch_size)))
        items = grain.MapDataset.source(index).map(partial(_evaluation_sample, name, examples, size))
        return _batches(items, batch_size, num_workers)

    return Source(
        num_examples=len(examples),
        resident=(),
        take=lambda resident, batch: Batch(*batch),
        augment=lambda images, keys: images,
        shuffled=shuffled,
        in_order=in_order,
    )


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The central `size` x `size` pixels after the shorter side was resized to size * 256 / 224.

    Args:
        image: [H, W, 3] uint8.
        size: pixels.

    Returns:
        [size, size, 3] uint8.
    """
    height, width = image.shape[:2]
    side = min(height, width) / RESIZE
    return _resized(image, (width - side) / 2, (height - side) / 2, side, side, size)


def random_resized_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random part of 8 to 100 % of the area and aspect ratio 3/4 to 4/3, resized; flipped with probability 1/2.

    Szegedy et al., "Going deeper with convolutions", 2015. Where ten draws don't fit the image, the centre crop.

    Args:
        image: [H, W, 3] uint8.
        size: pixels.
        rng: random generator of this sample.

    Returns:
        [size, size, 3] uint8.
    """
    height, width = image.shape[:2]
    flip = rng.random() < 0.5
    crop = centre_crop(image, size)
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        part_width, part_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if part_width <= width and part_height <= height:
            left, top = rng.uniform(0, width - part_width), rng.uniform(0, height - part_height)
            crop = _resized(image, left, top, part_width, part_height, size)
            break
    return crop[:, ::-1] if flip else crop


def _resized(image: np.ndarray, left: float, top: float, width: float, height: float, size: int) -> np.ndarray:
    box = (left, top, left + width, top + height)
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def _training_sample(name: str, examples: Sequence[Any], size: int, index: np.int32, rng: np.random.Generator) -> Batch:
    with readable(name):
        example = examples[int(index)]
    return Batch(random_resized_crop(example["image"], size, rng), np.int32(example["label"]), index)


def _evaluation_sample(name: str, examples: Sequence[Any], size: int, index: np.int32) -> Batch:
    if index == PADDING:
        return Batch(np.zeros((size, size, 3), np.uint8), np.int32(0), index)
    with readable(name):
        example = examples[int(index)]
    return Batch(centre_crop(example["image"], size), np.int32(example["label"]), index)


def _batches(items: grain.MapDataset, batch_size: int, num_workers: int, start: int = 0) -> Iterator[Batch]:
    """Batches of the samples that this process reads: every n-th of each global batch for n processes."""
    share = items.slice(slice(start * batch_size + jax.process_index(), None, jax.process_count()))
    batches = share.batch(batch_size // jax.process_count()).to_iter_dataset()
    if num_workers:
        flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags, which no main of ours parses
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers), _ignore_signals)
    return iter(batches)


def _ignore_signals(worker: int, num_workers: int) -> None:
    """Leave SIGINT and SIGTERM, which go to all processes of a job, to the one that trains; it ends its workers."""
    del worker, num_workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _mix(seed: int, epoch: int) -> int:
    """One 32-bit seed for (seed, epoch)."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
