"""Data sets as TFDS prepares them, of kinds that no shared one has, and what is wrong with some: named and refused."""

import json
import re
import shutil

import numpy as np
import pytest
import sklearn.datasets

from jsnn.data import Info, datasets, load_split, subset
from jsnn.data.datasets import SPLITS, TEST, TRAIN, open_split
from jsnn.data.prepared import readable
from jsnn.data.streaming import streamed_source
from tests.data.prepared import encoded, prepare, records
from tests.experiments.commands import TINY, refused, run

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


@pytest.mark.parametrize("classes", [range(100), [label for label in range(100) if label != 7]])
def test_a_hundred_classes_in_grey_are_read_even_where_one_has_no_images(known, classes):
    known(records(200, GREY, classes), num_classes=100)
    splits = [load_split("made", split) for split in SPLITS]
    assert [len(split.labels) for split in splits] == [180, 20, 10]
    assert splits[0].images.shape == (180, *GREY)
    np.testing.assert_array_equal(splits[0].labels, [classes[i % len(classes)] for i in range(180)])


def test_the_smallest_data_set_has_two_images_for_validation(known):
    known(records(20, GREY, range(10)))
    assert [len(load_split("made", split).labels) for split in SPLITS] == [18, 2, 10]


def changed(number, record, shape=GREY):
    """Forty records of which one is another."""
    return [record if place == number else one for place, one in enumerate(records(40, shape, range(10)))]


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        (records(19, GREY, range(10)), "19 training images, of which a tenth is held out for validation: 20 are"),
        (changed(33, records(1, (7, 5, 1), [3])[0]), "made needs images of shape (6, 5, 1), record 33 of train has (7"),
        (changed(2, records(1, (6, 5, 3), [3])[0]), "record 2 of train has (6, 5, 3)"),
        (records(40, GREY, [0, 10]), "made has labels from 0 to 10, outside 0 to 9"),
        (changed(3, (b"no image", 3)), "made can't be read"),
    ],
    ids=["too few", "size", "colour", "label", "no image"],
)
def test_bad_records_are_refused_by_their_number(known, train, sentence):
    known(train)
    assert sentence in refusal()


IMAGE, CMYK = records(1, COLOUR, [0])[0][0], encoded(np.zeros(COLOUR, np.uint8), "CMYK")


@pytest.mark.parametrize(
    ("number", "record", "sentence"),
    [
        *((21, (IMAGE, label), f"record 21 of made has label {label}, outside 0 to 9.") for label in (-1, 10)),
        (5, (CMYK, 5), "record 5 of made has an image (16, 16, 4) uint8, not [H, W, 3] uint8"),
    ],
    ids=["negative label", "label", "CMYK"],
)
def test_bad_records_of_a_stream_are_refused_by_their_number(known, number, record, sentence):
    known(changed(number, record, COLOUR), shape=COLOUR, streamed=True)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        list(streamed_source("made", TRAIN).shuffled(4, 0, 1, 0))


def test_a_streamed_grey_image_is_taken_as_one_of_three_equal_channels(known):
    train = records(40, COLOUR, range(10))
    train[:] = [(encoded(np.full((16, 16, 1), 77, np.uint8)), label) for _, label in train]
    known(train, shape=COLOUR, streamed=True)
    batch = next(streamed_source("made", TRAIN).in_order(4))
    np.testing.assert_array_equal(batch.images, np.full((4, *COLOUR), 77))


@pytest.mark.parametrize(("claimed", "split"), [(39, TRAIN), (41, TRAIN), (9, TEST)])
def test_another_number_of_records_than_claimed_is_refused(known, claimed, split):
    folder = known(records(40, GREY, range(10)))
    path = folder / "dataset_info.json"
    content = json.loads(path.read_text())
    content["splits"][split == TEST]["shardLengths"] = [str(claimed)]
    path.write_text(json.dumps(content))
    assert f"claims {claimed} records in made-{split}.array_record-00000-of-00001, which holds" in refusal(split)


UNREADABLE = ["", "{", "[]", "\0\1\2", json.dumps({"name": "made"})]
WITHOUT_SPLITS = [{"splits": []}, {"splits": [{"name": "training", "shardLengths": ["40"]}]}]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(("dataset_info.json", change) for change in (*UNREADABLE, *WITHOUT_SPLITS, None)),
        *(("features.json", change) for change in (*UNREADABLE[:4], None)),
        ("made-train.array_record-00000-of-00001", None),
    ],
)
def test_a_file_that_is_garbled_or_missing_or_names_no_splits_is_refused(known, name, change):
    path = known(records(40, GREY, range(10))) / name
    if change is None:
        path.unlink()
    else:
        path.write_text(change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change))
    assert re.search("made can't be read" if change is not None else "made (can't be read|is not prepared)", refusal())


@pytest.mark.parametrize("bad", ["labels", "test split"])
def test_a_command_refuses_bad_data_before_it_writes_or_trains(known, tmp_path, capsys, bad):
    folder = known(records(40, (8, 8, 1), [0, 10] if bad == "labels" else range(10)), shape=(8, 8, 1))
    sentence, seed = "error: made has labels from 0 to 10, outside 0 to 9.\n", "2"  # data are kept by config
    if bad == "test split":
        (folder / "made-test.array_record-00000-of-00001").unlink()
        assert open_split("made", TRAIN)
        sentence, seed = "error: the data set made can't be read", "1"
    assert run(lambda run: None, tmp_path / "run", *TINY, *MADE, "--seed", seed) == 2
    assert capsys.readouterr().err.startswith(sentence)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_data_sets_name_is_not_it(known, monkeypatch, tmp_path):
    """In the folder that a command is started in."""
    data_dir = known(records(40, GREY, range(10))).parents[1]
    monkeypatch.setitem(datasets.DATASETS, "made", Info(GREY, 10))
    (tmp_path / "started" / "made").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "started")
    assert len(load_split("made", TRAIN, str(data_dir)).labels) == 36


def test_memory_that_does_not_suffice_is_named():
    sentence = "the data set made does not fit into the memory that this process may take: raise the limit"
    with pytest.raises(ValueError, match=sentence), readable("made"):
        raise MemoryError


@pytest.mark.parametrize("batch_size", [4, 7, 20])
def test_a_subset_of_a_stream_is_padded_to_full_batches(known, batch_size):
    known(records(40, COLOUR, range(10)), shape=COLOUR, streamed=True)
    source = subset(streamed_source("made", TRAIN), range(5, 99))
    assert source.num_examples == 36 - 5
    index = np.concatenate([batch.index for batch in source.in_order(batch_size)])
    np.testing.assert_array_equal(index[index >= 0], np.arange(5, 36))
    assert len(index) % batch_size == 0


@pytest.mark.parametrize(
    ("part", "place", "value", "sentence"),
    [
        ("images", (3, 2, 1), 17, "digits has pixel values outside the range: 0 to 16, got 0 to 17."),
        ("target", 5, 10, "digits has labels from 0 to 10, outside 0 to 9."),
        ("target", 5, -1, "digits has labels from -1 to 9, outside 0 to 9."),
        (None, 0, 0, "digits has 0 training images, of which a tenth is held out for validation: 20 are needed"),
    ],
)
def test_bad_data_is_refused(part, place, value, sentence, tmp_path, capsys, monkeypatch):
    bunch = sklearn.datasets.load_digits()
    if part:
        bunch[part][place] = value
    else:
        bunch.images, bunch.target = bunch.images[:0], bunch.target[:0]
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: bunch)
    seed = str(100 + len(sentence))  # data that was read is kept by config
    assert f"error: {sentence}" in refused(capsys, *TINY, "--seed", seed, "--workdir", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["truncated", "garbled"])
def test_data_that_cannot_be_read_is_refused(kind, data_dir, tmp_path, capsys):
    shutil.copytree(f"{data_dir}/imagenet2012", tmp_path / "imagenet2012")
    for path in (tmp_path / "imagenet2012").rglob("*train*array_record*"):
        content = path.read_bytes()
        half = len(content) // 2
        path.write_bytes(content[:half] + (b"" if kind == "truncated" else bytes(half)))
    options = "--architecture vgg5 --width 0.0625 --hidden 4 --batch-size 60 --workers 0".split()
    options += ["--data-dir", str(tmp_path), "--workdir", str(tmp_path / "run")]
    assert "error: the data set imagenet2012 can't be read" in refused(capsys, "vgg16_imagenet", *options)
    assert not (tmp_path / "run").exists()
