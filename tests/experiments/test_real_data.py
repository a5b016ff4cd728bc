"""Real data through the whole pipeline, in a file of its own for it takes long."""

import numpy as np
import pytest

from experiments.hybrid import hybrid
from experiments.runs.workdir import read_results
from jsnn.data.datasets import TEST, TRAIN, VALIDATION, load_split, open_split
from tests.experiments.commands import run


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "shape", "train"), [("fashion_mnist", (28, 28, 1), 55_000), ("cifar10", (32, 32, 3), 45_000)]
)
def test_data_sets_have_all_their_images(name, shape, train, data_dir):
    assert len(open_split(name, TRAIN, data_dir)) == train
    for split, count in ((VALIDATION, 5_000), (TEST, 10_000)):
        images, labels = load_split(name, split, data_dir)
        assert images.shape == (count, *shape)
        assert np.bincount(labels, minlength=10).min() > 0.08 * count


SMALL = """
    --width 0.0625 --hidden 16 --ann.epochs 1 --finetune.epochs 1 --balance-images 32 --balance-steps 20
    --scaling-factor 0.4 --num-steps 2 --eval-steps 2 --streams 1 --ann.lr 0.05
    --data-module tests.experiments.small_data
""".split()
LEARNING = "--ann.epochs 4 --dense-std 0.2 --dense-dropout 0 --batch-size 24 --eval-batch-size 400".split()
THUMBNAIL = "--dense-std 0.1 --batch-size 60 --eval-batch-size 60 --workers 0".split()


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("preset", "data", "arguments"),
    [
        ("fashion_mnist_cpu", "small_fashion_mnist", LEARNING),
        ("cifar10_cpu", "small_cifar10", [*LEARNING, "--width", "0.125", "--ann.lr", "0.01", "--ann.epochs", "5"]),
        ("vgg16_imagenet", "small_imagenet2012", ["--architecture", "vgg5", *THUMBNAIL]),
        ("resnet34_imagenet", "small_imagenet2012", ["--architecture", "resnet8", *THUMBNAIL]),
    ],
)
def test_real_data_goes_through_the_same_commands(preset, data, arguments, data_dir, tmp_path):
    """The presets on less of their data: 1,500 images, or photos in crops of 32 pixels."""
    assert run(hybrid, tmp_path, preset, *SMALL, *arguments, "--dataset", data) == 0
    results = read_results(tmp_path)
    assert np.isfinite(results["hybrid"]["loss"])
    if "imagenet" not in preset:  # a few steps of a narrow network; chance is 0.1 with a deviation of 0.013
        assert results["ann"]["accuracy"] > 0.15
