"""Image data sets by name and split, as uint8 arrays; TFDS reads them, without TensorFlow.

Train, validation and test are three splits of every set: validation is the last tenth of the official training data
(at most 5,000 images) and serves every choice that is made; test is the official test data (ImageNet: its validation
split) and serves the final evaluation only.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jsnn.data.prepared import num_records, open_builder, open_records, readable
from jsnn.extras import from_extra

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
LARGEST_VALIDATION = 5000  # images
FEWEST_TRAINING = 20  # images: two for validation


class Split(NamedTuple):
    """A split that fits into memory.

    Attributes:
        images: [N, H, W, C] uint8.
        labels: [N] int32.
    """

    images: np.ndarray
    labels: np.ndarray


Arrays = Mapping[str, Split]  # the official "train" and "test"
Origin = str | Path | Callable[[], Arrays]


class Info(NamedTuple):
    """What is known of a data set before it is read.

    Attributes:
        image_shape: (H, W, C) of the network's input, pixels.
        num_classes: number of labels.
        test_split: TFDS's name of the official test data.
        streamed: whether it is read image by image because it does not fit the device.
        origin: a function that returns arrays, TFDS's name, or the folder of a TFDS builder; None where TFDS has it
            under the data set's own name.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    test_split: str = "test"
    streamed: bool = False
    origin: Origin | None = None


def _digits() -> Arrays:
    """scikit-learn's 8x8 digits: 1797 images in a fixed random order, the last 360 for test."""
    with from_extra("data"):
        from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images, bunch.target.astype(np.int32)
    if len(images) and (images.min() < 0 or images.max() > 16):
        raise ValueError(
            f"digits has pixel values outside the range: 0 to 16, got {images.min():g} to {images.max():g}."
        )
    images = np.round(images[..., None] * (255 / 16)).astype(np.uint8)
    order = np.random.RandomState(0).permutation(len(images))  # a stream that NumPy has frozen for good
    images, labels = images[order], labels[order]
    return {"train": Split(images[:-360], labels[:-360]), "test": Split(images[-360:], labels[-360:])}


DATASETS = {
    "digits": Info((8, 8, 1), 10, origin=_digits),
    "mnist": Info((28, 28, 1), 10),
    "fashion_mnist": Info((28, 28, 1), 10),
    "cifar10": Info((32, 32, 3), 10),
    "cifar100": Info((32, 32, 3), 100),
    "imagenet2012": Info((224, 224, 3), 1000, test_split="validation", streamed=True),
}


def register(name: str, about: Info) -> None:
    """Make a data set of one's own known by a name.

        def load():  # uint8 images, integer labels
            return {"train": Split(images, labels), "test": Split(test_images, test_labels)}

        register("mine", Info((32, 32, 3), num_classes=4, origin=load))
        register("flowers", Info((224, 224, 3), 5, streamed=True, origin="path/of/a/tfds/builder"))

    Args:
        name: for `info`, `load_split` and the commands' --dataset.
        about: its shape, classes and origin.

    Raises:
        ValueError: where another data set has the name, a shape or number of classes can't be, or a stream is not one
            of square RGB images that TFDS has prepared.
    """
    if DATASETS.get(name, about) != about:
        raise ValueError(f"there is another data set {name!r}: register yours under another name.")
    if len(about.image_shape) != 3 or min(about.image_shape) < 1 or about.num_classes < 2:
        raise ValueError(
            f"the data set {name!r} needs an image_shape (H, W, C) and at least 2 classes, "
            f"got {about.image_shape} and {about.num_classes}."
        )
    height, width, channels = about.image_shape
    if about.streamed and (height != width or channels != 3 or callable(about.origin)):
        raise ValueError(
            f"the data set {name!r} can't be streamed: its image_shape must be (S, S, 3) and its origin a name or a "
            f"folder of TFDS, got {about.image_shape} and {about.origin!r}."
        )
    DATASETS[name] = about


def info(name: str) -> Info:
    """What is known of a data set.

    Args:
        name: one of DATASETS, where `register` adds to them.

    Returns:
        Its Info.

    Raises:
        ValueError: where there is no data set of this name.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}.")
    return DATASETS[name]


def load_split(name: str, split: str, data_dir: str | None = None) -> Split:
    """Read a split of a small data set whole.

    Args:
        name: one of DATASETS.
        split: "train", "validation" or "test".
        data_dir: TFDS's data directory; None for its default. Arrays ("digits") need none.

    Returns:
        The Split, in the data set's own order.

    Raises:
        ValueError: where the data set or the split is unknown, it is not prepared, or its pixels or labels are out of
            range.
    """
    about = info(name)
    if callable(about.origin):
        return check_split(name, _split_of_arrays(name, about.origin(), split), about)
    examples = open_split(name, split, data_dir)
    with readable(name):
        records = examples.__getitems__(range(len(examples)))
        images, labels = ([record[key] for record in records] for key in ("image", "label"))
    for number, image in enumerate(images):
        if image.shape != about.image_shape:
            raise ValueError(
                f"{name} needs images of shape {about.image_shape}, record {number} of {split} has {image.shape}: "
                "give all the same size and number of channels, and prepare the data set again."
            )
    with readable(name):
        split_of_arrays = Split(np.stack(images), np.array(labels, np.int32))
    return check_split(name, split_of_arrays, about)


def open_split(name: str, split: str, data_dir: str | None = None) -> Sequence[dict[str, Any]]:
    """Open a split of a data set that TFDS has prepared: a sequence of {"image": [H, W, C] uint8, "label": int, ...}.

    An image is decoded when it is asked for. ValueError where the data set is damaged or not prepared, with the command
    that prepares it.
    """
    about = info(name)
    builder = open_builder(name, about.origin and str(about.origin), data_dir)
    official = about.test_split if split == TEST else "train"
    total = num_records(name, builder, official)
    part = slice(0, total) if split == TEST else part_of_train(name, split, total)
    return open_records(name, builder, f"{official}[{part.start}:{part.stop}]")


def part_of_train(name: str, split: str, num_train: int) -> slice:
    """Which of the official training images "train" or "validation" has.

    ValueError where the split is another, or they are too few for both.
    """
    if split not in (TRAIN, VALIDATION):
        raise ValueError(f"there is no split {split!r}: choose one of {', '.join(SPLITS)}.")
    if num_train < FEWEST_TRAINING:
        raise ValueError(
            f"{name} has {num_train} training images, of which a tenth is held out for validation: "
            f"{FEWEST_TRAINING} are needed at least."
        )
    kept = num_train - min(LARGEST_VALIDATION, num_train // 10)
    return slice(0, kept) if split == TRAIN else slice(kept, num_train)


def check_split(name: str, split: Split, about: Info) -> Split:
    """The split; ValueError, naming what is wrong first, where it is not what the data set is known to hold."""
    images, labels = split
    if images.dtype != np.uint8:
        raise ValueError(
            f"{name} has pixel values outside the range: images must be uint8 from 0 to 255, got {images.dtype}."
        )
    if len(images) == 0 or images.shape[1:] != about.image_shape:
        raise ValueError(f"{name} needs images of shape {about.image_shape}, got an array of shape {images.shape}.")
    if labels.min() < 0 or labels.max() >= about.num_classes:
        raise ValueError(
            f"{name} has labels from {labels.min()} to {labels.max()}, outside 0 to {about.num_classes - 1}."
        )
    return Split(images, labels.astype(np.int32))


def check_labels(images: np.ndarray, labels: np.ndarray, each: str = "each image") -> None:
    """Refuse labels that are not one whole number for each image."""
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"{each} needs an integer label, got {labels.shape} {labels.dtype} for {len(images)}.")


def _split_of_arrays(name: str, arrays: Arrays, split: str) -> Split:
    """A split of arrays; the validation images are the last ones of the training data."""
    if {*arrays} != {"train", "test"}:
        raise ValueError(f'arrays need the splits "train" and "test", got {", ".join(map(repr, arrays)) or "none"}.')
    images, labels = map(np.asarray, arrays["test" if split == TEST else "train"])
    check_labels(images, labels, f"each image of {name}")
    if split == TEST:
        return Split(images, labels)
    part = part_of_train(name, split, len(images))
    if 0 < np.count_nonzero(labels[1:] != labels[:-1]) == len(np.unique(labels)) - 1 < len(labels) - 1:
        raise ValueError(
            f"the training images of {name} are in order of their labels, class by class, and the last tenth is held "
            "out for validation: shuffle images and labels alike."
        )
    return Split(images[part], labels[part])
