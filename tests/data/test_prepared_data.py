"""Data sets as TFDS prepares them, of kinds that no shared one has, and what is wrong with some: named and refused."""

import json
import re

import numpy as np
import pytest

from jsnn.data import datasets
from jsnn.data.datasets import SPLITS, TEST, TRAIN, Info, load_split, open_split
from jsnn.data.prepared import readable
from jsnn.data.sources import subset
from jsnn.data.streaming import streamed_source
from tests.data.prepared import encoded, prepare, records
from tests.experiments.commands import TINY, run

GREY, COLOUR = (6, 5, 1), (16, 16, 3)
MADE = "--dataset made --batch-size 4".split()


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Makes a data set `made`, known to jsnn, of records that a test changes first; returns its folder."""

    def make(train, test=None, shape=GREY, num_classes=10, streamed=False):
        test = test or records(10, shape, range(num_classes))
        folder = prepare(tmp_path, train, test, shape[-1], num_classes)
        about = Info(shape, num_classes, streamed=streamed, origin=folder)
        monkeypatch.setitem(datasets.DATASETS, "made", about)
        return folder

    return make


def refusal(split=TRAIN):
    with pytest.raises(ValueError, match="made") as error:
        load_split("made", split)
    assert "\n" not in str(error.value)
    return str(error.value)


def streamed_refusal():
    with pytest.raises(ValueError, match="made") as error:
        list(streamed_source("made", TRAIN).shuffled(4, 0, 1, 0))
    return str(error.value)


@pytest.mark.parametrize("classes", [range(100), [label for label in range(100) if label != 7]])
def test_a_hundred_classes_in_grey_are_read_be_one_of_them_missing(known, classes):
    known(records(200, GREY, classes), num_classes=100)
    splits = [load_split("made", split) for split in SPLITS]
    assert [len(split.labels) for split in splits] == [180, 20, 10]
    assert splits[0].images.shape == (180, *GREY)
    np.testing.assert_array_equal(splits[0].labels, [classes[i % len(classes)] for i in range(180)])


def test_the_smallest_data_set_has_two_images_for_validation(known):
    known(records(20, GREY, range(10)))
    assert [len(load_split("made", split).labels) for split in SPLITS] == [18, 2, 10]


def test_too_few_images_are_refused(known):
    known(records(19, GREY, range(10)))
    assert "made has 19 training images, of which a tenth is held out for validation: 20 are needed" in refusal()


def test_images_of_another_size_are_refused_by_their_number(known):
    train = records(40, GREY, range(10))
    train[33] = records(1, (7, 5, 1), [3])[0]
    known(train)
    assert "made needs images of shape (6, 5, 1), record 33 of train has (7, 5, 1)" in refusal()


def test_a_coloured_image_among_grey_ones_is_refused_by_its_number(known):
    train = records(40, GREY, range(10))
    train[2] = records(1, (6, 5, 3), [3])[0]
    known(train)
    assert "record 2 of train has (6, 5, 3)" in refusal()


def test_a_label_out_of_range_is_refused(known):
    known(records(40, GREY, [0, 10]))
    assert "made has labels from 0 to 10, outside 0 to 9" in refusal()


@pytest.mark.parametrize("label", [-1, 10])
def test_a_streamed_label_out_of_range_is_refused_by_its_number(known, label):
    train = records(40, COLOUR, range(10))
    train[21] = (train[21][0], label)
    known(train, shape=COLOUR, streamed=True)
    assert streamed_refusal() == f"record 21 of made has label {label}, outside 0 to 9."


def test_a_streamed_cmyk_image_is_refused_by_its_number(known):
    train = records(40, COLOUR, range(10))
    train[5] = (encoded(np.zeros(COLOUR, np.uint8), "CMYK"), 5)
    known(train, shape=COLOUR, streamed=True)
    assert "record 5 of made has an image (16, 16, 4) uint8, not [H, W, 3] uint8" in streamed_refusal()


def test_a_streamed_grey_image_is_taken_as_one_of_three_equal_channels(known):
    train = records(40, COLOUR, range(10))
    train[:] = [(encoded(np.full((16, 16, 1), 77, np.uint8)), label) for _, label in train]
    known(train, shape=COLOUR, streamed=True)
    batch = next(streamed_source("made", TRAIN).in_order(4, 0, None))
    np.testing.assert_array_equal(batch.images, np.full((4, *COLOUR), 77))


@pytest.mark.parametrize(("claimed", "split"), [(39, TRAIN), (41, TRAIN), (9, TEST)])
def test_another_number_of_records_than_claimed_is_refused(known, claimed, split):
    folder = known(records(40, GREY, range(10)))
    path = folder / "dataset_info.json"
    content = json.loads(path.read_text())
    content["splits"][split == TEST]["shardLengths"] = [str(claimed)]
    path.write_text(json.dumps(content))
    assert f"claims {claimed} records in made-{split}.array_record-00000-of-00001, which holds" in refusal(split)


@pytest.mark.parametrize("change", [{"splits": []}, {"splits": [{"name": "training", "shardLengths": ["40"]}]}, {}])
def test_a_description_without_splits_is_refused(known, change):
    folder = known(records(40, GREY, range(10)))
    path = folder / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change} if change else {"name": "made"}))
    assert "made can't be read" in refusal()


def test_bad_test_data_are_refused_before_anything_is_trained(known, tmp_path, capsys):
    folder = known(records(40, (8, 8, 1), range(10)), shape=(8, 8, 1))
    (folder / "made-test.array_record-00000-of-00001").unlink()
    assert open_split("made", TRAIN)
    assert run(lambda run: None, tmp_path / "run", *TINY, *MADE, "--seed", "1") == 2  # data are kept by config
    assert "error: the data set made can't be read" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_data_sets_name_is_not_it(known, monkeypatch, tmp_path):
    """In the folder that a command is started in."""
    data_dir = known(records(40, GREY, range(10))).parents[1]
    monkeypatch.setitem(datasets.DATASETS, "made", Info(GREY, 10))
    (tmp_path / "started" / "made").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "started")
    assert len(load_split("made", TRAIN, str(data_dir)).labels) == 36


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "\0\1\2"])
def test_a_garbled_description_is_refused(known, name, text):
    folder = known(records(40, GREY, range(10)))
    (folder / name).write_text(text)
    assert "made can't be read" in refusal()


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "made-train.array_record-00000-of-00001"])
def test_a_missing_file_is_refused(known, name):
    folder = known(records(40, GREY, range(10)))
    (folder / name).unlink()
    assert re.search("made (can't be read|is not prepared)", refusal())


def test_a_record_that_is_no_image_is_refused(known):
    train = records(40, GREY, range(10))
    train[3] = (b"no image", 3)
    known(train)
    assert "made can't be read" in refusal()


def test_memory_that_does_not_suffice_is_named():
    sentence = "the data set made does not fit into the memory that this process may take: raise the limit"
    with pytest.raises(ValueError, match=sentence), readable("made"):
        raise MemoryError


def test_a_command_refuses_bad_data_before_it_writes(known, tmp_path, capsys):
    known(records(40, (8, 8, 1), [0, 10]), shape=(8, 8, 1))
    assert run(lambda run: None, tmp_path / "run", *TINY, *MADE, "--seed", "2") == 2
    assert capsys.readouterr().err == "error: made has labels from 0 to 10, outside 0 to 9.\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("batch_size", "start"), [(4, 0), (4, 2), (7, 1), (20, 0)])
def test_a_subset_of_a_stream_goes_on_from_any_batch(known, batch_size, start):
    known(records(40, COLOUR, range(10)), shape=COLOUR, streamed=True)
    source = subset(streamed_source("made", TRAIN), range(5, 99))
    assert source.num_examples == 36 - 5
    index = np.concatenate([batch.index for batch in source.in_order(batch_size, start, None)])
    np.testing.assert_array_equal(index[index >= 0], np.arange(5 + start * batch_size, 36))
    assert len(index) % batch_size == 0
