"""Data sets of the user's own: registered by a module, from arrays or a TFDS builder, and used by every command."""

import sys
from contextlib import nullcontext

import numpy as np
import pytest

import jsnn.data.datasets
from experiments.hybrid import hybrid
from experiments.runs.workdir import read_record
from jsnn.data.datasets import DATASETS, SPLITS, Info, Split, info, load_split, open_split, register
from jsnn.data.streaming import streamed_source
from tests.experiments.commands import TINY, outcome, run

MODULE = """
import numpy as np
from jsnn.data.datasets import SPLITS, Info, Split, load_split, register

def load():
    train, validation, test = (load_split("digits", split) for split in SPLITS)
    official = Split(*(np.concatenate(pair) for pair in zip(train, validation, strict=True)))
    return {"train": official, "test": test}

register("mine", Info((8, 8, 1), num_classes=10, origin=load))
"""


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr("jsnn.data.datasets.DATASETS", dict(DATASETS))


def test_own_arrays_go_through_every_stage_as_those_of_jsnn(registry, tiny, tmp_path, monkeypatch):
    (tmp_path / "mydata.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = [*TINY, "--dataset", "mine", "--data-module", "mydata"]
    assert run(hybrid, tmp_path / "run", *arguments) == 0
    assert outcome(tmp_path / "run") == outcome(tiny)
    assert read_record(tmp_path / "run").config.data.dataset == "mine"
    del jsnn.data.datasets.DATASETS["mine"], sys.modules["mydata"]
    assert run(hybrid, tmp_path / "run") == 0  # the workdir knows the module, too
    del sys.modules["mydata"]


IMAGES, LABELS = np.zeros((40, 8, 8, 1), np.uint8), np.arange(40) % 10
BY_CLASS = np.sort(LABELS)  # validation images, the last tenth, would be of one class
NO_INTEGERS = "each image of mine needs an integer label, got "
IN_ORDER = "in order of their labels, .* shuffle images and labels alike"


def register_mine(labels):
    register("mine", Info((8, 8, 1), 10, origin=lambda: dict.fromkeys(("train", "test"), (IMAGES, labels))))


@pytest.mark.parametrize(
    ("labels", "refused", "sentence"),
    [
        (LABELS[:30], SPLITS, NO_INTEGERS),
        (np.arange(50) % 10, SPLITS, NO_INTEGERS),
        (LABELS / 2, SPLITS, NO_INTEGERS),
        (np.eye(10, dtype=int)[LABELS], SPLITS, NO_INTEGERS),
        (BY_CLASS, SPLITS[:2], IN_ORDER),
        (BY_CLASS[::-1], SPLITS[:2], IN_ORDER),
        ((BY_CLASS * 3 % 10).astype(np.uint8), SPLITS[:2], IN_ORDER),
        (LABELS + 1, SPLITS, " to 10, outside 0 to 9"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels, refused, sentence, registry):
    register_mine(labels)
    for split in SPLITS:
        with pytest.raises(ValueError, match=sentence) if split in refused else nullcontext():
            load_split("mine", split)


@pytest.mark.parametrize("labels", [list(LABELS), LABELS.astype(np.uint8)])  # whose differences are never below 0
def test_labels_may_be_a_list_or_bytes(labels, registry):
    register_mine(labels)
    loaded = load_split("mine", "train").labels
    assert (loaded.dtype, loaded.tolist()) == (np.int32, LABELS[:36].tolist())


@pytest.mark.real_data
def test_the_folder_of_a_builder_is_read_as_the_name_is(registry, data_dir):
    register("mine", Info((28, 28, 1), 10, origin=f"{data_dir}/fashion_mnist/3.0.1"))
    for split in SPLITS:
        own, known = open_split("mine", split), open_split("fashion_mnist", split, data_dir)
        assert len(own) == len(known)
        np.testing.assert_array_equal(own[17]["image"], known[17]["image"])
    register("photos", Info((96, 96, 3), 1000, "validation", streamed=True, origin=f"{data_dir}/imagenet2012/5.1.0"))
    batch = next(streamed_source("photos", "train").shuffled(4, 0, 1))
    assert batch.images.shape == (4, 96, 96, 3)


def test_a_name_is_not_taken_twice(registry):
    about = Info((4, 4, 1), 3, origin=dict)
    register("mine", about)
    register("mine", about)  # a module may be imported again
    assert info("mine") == about
    for name in ("mine", "cifar10"):
        with pytest.raises(ValueError, match=f"there is another data set '{name}'"):
            register(name, Info((4, 4, 1), 4))


@pytest.mark.parametrize("about", [Info((4, 4), 3), Info((4, 0, 1), 3), Info((4, 4, 1), 1)])
def test_shapes_and_classes_that_cannot_be_are_refused(about, registry):
    with pytest.raises(ValueError, match="needs an image_shape"):
        register("mine", about)


def test_arrays_need_both_splits(registry):
    register("untested", Info((8, 8, 1), 10, origin=lambda: {"train": Split(IMAGES, LABELS)}))
    with pytest.raises(ValueError, match='need the splits "train" and "test", got \'train\''):
        load_split("untested", "train")
