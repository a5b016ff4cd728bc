"""Crops of images made here, and the stream of the mini ImageNet."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from jsnn.data.sources import PADDING
from jsnn.data.streaming import centre_crop, random_resized_crop, streamed_source
from tests.conftest import ROOT


def gradient_image(height: int, width: int) -> np.ndarray:
    """Red grows with the row, green with the column."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 / height, columns * 255 / width, np.zeros_like(rows)], -1).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (100, 100), (64, 500)])
def test_the_centre_crop_is_central_and_keeps_the_aspect(height, width):
    crop = centre_crop(gradient_image(height, width), 224)
    assert crop.shape == (224, 224, 3)
    assert abs(crop[..., 0].mean() - 127.5) < 3
    assert abs(crop[..., 1].mean() - 127.5) < 3
    side = min(height, width) * 224 / 256
    assert abs(np.ptp(crop[..., 0].astype(int)) - 255 * side / height) < 6
    assert abs(np.ptp(crop[..., 1].astype(int)) - 255 * side / width) < 6


def test_random_crops_cover_8_to_100_percent_and_flip_every_second():
    image = gradient_image(240, 320)
    crops = [random_resized_crop(image, 32, np.random.default_rng(seed)).astype(float) for seed in range(200)]
    spans = np.array([(np.ptp(crop[..., 0]) / 255) * (np.ptp(crop[..., 1]) / 255) for crop in crops])
    assert spans.min() > 0.04
    assert spans.min() < 0.2
    assert spans.max() > 0.8
    flipped = np.mean([crop[0, 0, 1] > crop[0, -1, 1] for crop in crops])
    assert 0.35 < flipped < 0.65


def test_where_no_crop_fits_it_is_the_centre():
    """Eight rows are fewer than the smallest part has of a thousand columns; each image is mirrored or not."""
    image = gradient_image(8, 1000)
    crops = [random_resized_crop(image, 32, np.random.default_rng(seed)) for seed in range(8)]
    mirrored = {crop[0, 0, 1] > crop[0, -1, 1]: crop for crop in crops}
    np.testing.assert_array_equal(mirrored[False], centre_crop(image, 32))
    np.testing.assert_array_equal(mirrored[True], centre_crop(image, 32)[:, ::-1])


def test_a_crop_is_a_function_of_its_generator():
    image = gradient_image(100, 80)
    one, again, other = (random_resized_crop(image, 32, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.real_data
def test_the_stream_is_repeatable_and_reads_every_sample(data_dir):
    source = streamed_source("imagenet2012", "train", data_dir)
    first, other = list(source.shuffled(32, 0, 1)), next(source.shuffled(32, 0, 2))
    assert source.num_examples == 180
    assert len(first) == 180 // 32
    assert first[0].images.shape == (32, 224, 224, 3)
    assert first[0].images.dtype == np.uint8
    assert (first[0].index != other.index).any()
    for start in (1, 5):
        for one, two in zip(source.shuffled(32, 0, 1, start), first[start:], strict=True):
            for part in range(3):
                np.testing.assert_array_equal(one[part], two[part])
    index = np.concatenate([batch.index for batch in source.in_order(64)])
    np.testing.assert_array_equal(index[index != PADDING], np.arange(180))


READING = """
import hashlib, multiprocessing, os, signal, sys, threading, time
def interrupt():
    while not multiprocessing.active_children():
        time.sleep(0.01)
    os.killpg(0, signal.SIGINT)
def digest(batch):
    return hashlib.sha256(b"".join(part.tobytes() for part in batch)).hexdigest()
def read():
    from jsnn.data.streaming import streamed_source
    batches = streamed_source("imagenet2012", "train", sys.argv[1], int(sys.argv[2])).shuffled(20, 0, 1, 0)
    print(digest(next(batches)), digest(next(batches)), flush=True)
    if sys.argv[3] == "stay":
        time.sleep(60)
if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: None)
    threading.Thread(target=interrupt).start()
    read()
"""


def digest(batch):
    """What tells batches apart, in a word."""
    return hashlib.sha256(b"".join(part.tobytes() for part in batch)).hexdigest()


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(("end", "workers"), [("stay", 1), ("leave", 2)])
def test_worker_processes_read_the_same_stream_end_with_their_parent_and_say_nothing(end, workers, data_dir, tmp_path):
    """Whether the parent is killed, or ends before all was read; a signal to all finds the workers as they begin."""
    script = tmp_path / "reading.py"
    script.write_text(READING)
    command, environment = [sys.executable, script, data_dir, str(workers), end], os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)
    by_threads = streamed_source("imagenet2012", "train", data_dir).shuffled(20, 0, 1)
    assert process.stdout.readline().split() == [digest(next(by_threads)) for _ in range(2)]
    if end == "stay":
        process.kill()
    rest, _ = process.communicate(timeout=60)  # whoever holds the pipe longer makes this fail
    assert rest == ""
