"""A --data-module of tests: the first images of real data sets, and photos in small crops, read by TFDS as they are."""

from functools import partial

import numpy as np

from jsnn.data.datasets import TEST, TRAIN, Arrays, Info, Split, info, open_split, register
from tests.conftest import DATA_DIR

COUNTS = {TRAIN: 1500, TEST: 400}


def first_images(name: str) -> Arrays:
    """The first images of a data set's splits."""
    records = {split: open_split(name, split, str(DATA_DIR)).__getitems__(range(n)) for split, n in COUNTS.items()}
    columns = {split: [[r[key] for r in rows] for key in ("image", "label")] for split, rows in records.items()}
    return {split: Split(np.stack(images), np.array(labels, np.int32)) for split, (images, labels) in columns.items()}


for known in ("fashion_mnist", "cifar10"):
    register(f"small_{known}", info(known)._replace(origin=partial(first_images, known)))
PHOTOS = Info((32, 32, 3), 1000, "validation", streamed=True, origin=f"{DATA_DIR}/imagenet2012/5.1.0")
register("small_imagenet2012", PHOTOS)
