"""ImageNet as a stream: grain reads, decodes, crops and flips in the background, each process its own share.

Training images are random resized crops, flipped at random; evaluation images are centre crops. What a sample looks
like depends on (seed, epoch, its place in the epoch) alone, not on the number of processes or workers.
"""

import logging
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from threading import Thread
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from jsnn.data.augment import scale
from jsnn.data.datasets import Info, info, open_split
from jsnn.data.prepared import readable
from jsnn.data.sources import PADDING, Batch, Source, check_samples, padded_batches, shuffled_order
from jsnn.extras import from_extra

with from_extra("data"):
    import grain
    from PIL import Image

RESIZE = 256 / 224  # the shorter side before a centre crop, in units of the crop
# A run that stops leaves batches in flight in shared memory. The process that frees them would warn of each; it takes
# over Python's warning options.
UNFREED = "ignore::UserWarning:multiprocessing.resource_tracker"


class Examples(NamedTuple):
    """The records of a split, and what is known of them."""

    name: str  # of the data set
    about: Info
    records: Sequence[Any]  # {"image": [H, W, 3] uint8, "label": int}


def streamed_source(name: str, split: str, data_dir: str | None = None, num_workers: int = 0) -> Source:
    """A split of a data set of TFDS that is read image by image; its items are Batches.

    `num_workers` processes decode; 0 decodes in threads of this one. ValueError where the data set is not prepared;
    later where an image is not RGB or a label is out of range.
    """
    return source_of(Examples(name, info(name), open_split(name, split, data_dir)), num_workers)


def source_of(examples: Examples, num_workers: int = 0) -> Source:
    """The Source of a split's records, decoded by so many processes; 0 decodes in threads of this one."""
    num_examples = len(examples.records)

    def shuffled(batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        check_samples(batch_size, start, num_examples)
        order = shuffled_order(num_examples, seed, epoch)
        order = order[: len(order) // batch_size * batch_size]
        if start * batch_size >= len(order):
            return iter(())
        mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        items = grain.MapDataset.source(order).random_map(partial(_training_sample, examples), seed=mixed)
        return _batches(items, batch_size, num_workers, start)

    def in_order(batch_size: int, images: range | None = None) -> Iterator[Batch]:
        check_samples(batch_size)
        index = np.concatenate(list(padded_batches(range(num_examples) if images is None else images, batch_size)))
        items = grain.MapDataset.source(index).map(partial(_evaluation_sample, examples))
        return _batches(items, batch_size, num_workers)

    return Source(
        num_examples=num_examples,
        resident=(),
        take=lambda resident, batch: Batch(*batch),
        augment=lambda images, keys: images,
        prepare=scale,
        shuffled=shuffled,
        in_order=in_order,
        num_labels=examples.about.num_classes,
    )


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The central `size` x `size` pixels of an image [H, W, 3] whose shorter side was resized to size * 256 / 224."""
    height, width = image.shape[:2]
    side = min(height, width) / RESIZE
    return _resized(image, (width - side) / 2, (height - side) / 2, side, side, size)


def random_resized_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random part of 8 to 100 % of the area and aspect ratio 3/4 to 4/3, resized; flipped with probability 1/2.

    Szegedy et al., "Going deeper with convolutions", 2015. Where ten draws don't fit the image, the centre crop.
    """
    height, width = image.shape[:2]
    flip = rng.random() < 0.5
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        part_width, part_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if part_width <= width and part_height <= height:
            left, top = rng.uniform(0, width - part_width), rng.uniform(0, height - part_height)
            crop = _resized(image, left, top, part_width, part_height, size)
            break
    else:
        crop = centre_crop(image, size)
    return crop[:, ::-1] if flip else crop


def _resized(image: np.ndarray, left: float, top: float, width: float, height: float, size: int) -> np.ndarray:
    box = (left, top, left + width, top + height)
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def _training_sample(examples: Examples, index: np.int32, rng: np.random.Generator) -> Batch:
    image, label = _read(examples, index)
    return Batch(random_resized_crop(image, examples.about.image_shape[0], rng), label, index)


def _evaluation_sample(examples: Examples, index: np.int32) -> Batch:
    shape = examples.about.image_shape
    if index == PADDING:
        return Batch(np.zeros(shape, np.uint8), np.int32(0), index)
    image, label = _read(examples, index)
    return Batch(centre_crop(image, shape[0]), label, index)


def _read(examples: Examples, index: np.int32) -> tuple[np.ndarray, np.int32]:
    """The image and label of a record; ValueError where they are not what the data set is known to hold."""
    name, about, records = examples
    with readable(name):
        record = records[int(index)]
        image, label = record["image"], int(record["label"])
    if image.ndim != 3 or image.shape[-1] != about.image_shape[-1] or image.dtype != np.uint8:
        raise ValueError(
            f"record {index} of {name} has an image {image.shape} {image.dtype}, not [H, W, {about.image_shape[-1]}] "
            "uint8: convert it to RGB (CMYK and grey ones are not) and prepare the data set again."
        )
    if not 0 <= label < about.num_classes:
        raise ValueError(f"record {index} of {name} has label {label}, outside 0 to {about.num_classes - 1}.")
    return image, np.int32(label)


def _batches(items: grain.MapDataset, batch_size: int, num_workers: int, start: int = 0) -> Iterator[Batch]:
    """Batches of the samples that this process reads: every n-th of each global batch for n processes."""
    share = items.slice(slice(start * batch_size + jax.process_index(), None, jax.process_count()))
    batches = share.batch(batch_size // jax.process_count()).to_iter_dataset()
    if num_workers:
        flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags, which no main of ours parses
        if UNFREED not in sys.warnoptions:
            sys.warnoptions.append(UNFREED)
        resource_tracker.ensure_running()  # begins here, not among the workers: its beginning unblocks signals
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers), _begin_worker)
    return _closing(iter(batches))


def _closing(batches: grain.DatasetIterator) -> Iterator[Batch]:
    """The batches; whoever leaves some ends the workers all the same, and frees what these have handed over.

    Signals go to all processes of a job. They are left to the one that trains: its workers begin with the first batch
    and inherit the blocked signals, so no signal ends one, not even while it begins.
    """
    try:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        try:
            first = list(islice(batches, 1))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield from first
        yield from batches
    finally:
        batches.close()


def _begin_worker(worker: int, num_workers: int) -> None:
    """End when the process that trains does, and say nothing."""
    del worker, num_workers
    logging.getLogger("absl").setLevel(logging.ERROR)  # each worker would tell that OpenCV is not installed
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the end of the process that trains, however it ends, and end this one."""
    multiprocessing.parent_process().join()
    os._exit(1)
