"""Splits, augmentation and sources, on digits and on arrays made here; a data set or package that is missing."""

import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from jsnn.data import Split, load_split, resident_source, subset
from jsnn.data.augment import random_crop, random_flip, scale
from jsnn.data.datasets import SPLITS
from jsnn.data.sources import PADDING, padded_batches, shuffled_order
from jsnn.randomness import sample_keys


@cache
def keys():
    """Of 64 samples."""
    return sample_keys(jax.random.key(0), jnp.arange(64))


def blank(count):
    """A source of black images."""
    return resident_source(Split(np.zeros((count, 2, 2, 1), np.uint8), np.zeros(count, np.int32)))


def test_digits_are_split_once_and_for_all():
    splits = [load_split("digits", split) for split in SPLITS]
    assert [len(split.labels) for split in splits] == [1294, 143, 360]
    rows = np.concatenate([split.images.reshape(-1, 64) for split in splits])
    assert len(np.unique(rows, axis=0)) == len(rows) == 1797  # no image in two splits
    for images, labels in splits:
        assert images.dtype == np.uint8
        assert (images.min(), images.max()) == (0, 255)
        assert np.bincount(labels, minlength=10).min() > 5


@pytest.mark.parametrize(("name", "package"), [("digits", "sklearn.datasets"), ("mnist", "tensorflow_datasets")])
def test_a_package_that_is_missing_is_told_where_to_come_from(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=package) as missing:
        load_split(name, "train")
    assert 'pip install "jsnn[data]"' in missing.value.__notes__[0]


def test_scale_maps_pixels_to_the_network_input():
    pixels = jnp.array([0, 51, 255], jnp.uint8).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(scale(pixels).ravel(), [-1, (0.2 - 0.5) / 0.5, 1], rtol=1e-6)


def test_crops_are_windows_of_the_padded_image():
    images = jnp.arange(1, 64 * 30 + 1).reshape(64, 6, 5, 1)
    cropped = np.asarray(jax.jit(partial(random_crop, padding=2))(images, keys()))
    windows = sliding_window_view(np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))[..., 0], (6, 5), (1, 2))
    matches = (windows == cropped[:, None, None, :, :, 0]).all((3, 4))
    np.testing.assert_array_equal(matches.sum((1, 2)), 1)
    assert matches.any(0).sum() > 15  # of 25


def test_flips_mirror_about_half_of_the_images():
    images = jnp.arange(64 * 12).reshape(64, 3, 4, 1)
    flipped = np.asarray(jax.jit(random_flip)(images, keys()))
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    untouched = (flipped == images).all((1, 2, 3))
    assert (mirrored ^ untouched).all()
    assert 16 < mirrored.sum() < 48


def test_an_item_is_taken_by_index():
    split = Split(np.arange(10 * 4, dtype=np.uint8).reshape(10, 2, 2, 1), np.arange(10, dtype=np.int32))
    source = resident_source(split)
    batch = jax.jit(source.take)(split, jnp.array([3, 9]))
    np.testing.assert_array_equal(batch.images, split.images[[3, 9]])
    np.testing.assert_array_equal(batch.labels, [3, 9])
    np.testing.assert_array_equal(source.augment(batch.images, keys()[:2]), batch.images)


@given(num_examples=st.integers(1, 200), batch_size=st.integers(1, 64))
def test_every_sample_counts_exactly_once_in_evaluation(num_examples, batch_size):
    batches = list(padded_batches(range(num_examples), batch_size))
    assert all(len(batch) == batch_size for batch in batches)
    index = np.concatenate(batches)
    np.testing.assert_array_equal(index[index != PADDING], np.arange(num_examples))


def test_epochs_are_different_permutations_and_repeatable():
    one, again, two = shuffled_order(100, 0, 1), shuffled_order(100, 0, 1), shuffled_order(100, 0, 2)
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(np.sort(one), np.arange(100))
    assert (one != two).any()
    assert (one != shuffled_order(100, 1, 1)).any()


def test_an_epoch_leaves_out_what_does_not_fill_a_batch():
    source = blank(10)
    batches = list(source.shuffled(4, 0, 1))
    np.testing.assert_array_equal(list(source.shuffled(4, 0, 1, 1)), batches[1:])
    assert not list(source.shuffled(4, 0, 1, 2))
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(np.unique(np.concatenate(batches))) == 8


def test_a_subset_of_a_subset_has_the_images_of_both():
    source = subset(subset(blank(30), range(5, 25)), range(3, 9))
    assert source.num_examples == 6
    np.testing.assert_array_equal(np.stack([*source.in_order(4)]), [[8, 9, 10, 11], [12, 13, PADDING, PADDING]])


def test_a_set_that_is_not_prepared_is_refused_with_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"cifar10 is not prepared .*`tfds build cifar10"):
        load_split("cifar10", "train", str(tmp_path))
    assert not list(tmp_path.iterdir())
