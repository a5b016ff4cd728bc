"""Data with values that cannot be, or in files that cannot be read, are refused in one sentence."""

import shutil

import pytest

from tests.experiments.commands import TINY, refused


def hot_pixel(bunch):
    bunch.images[3, 2, 1] = 17


def no_images(bunch):
    bunch.images, bunch.target = bunch.images[:0], bunch.target[:0]


def unknown_label(bunch):
    bunch.target[5] = 10


def negative_label(bunch):
    bunch.target[5] = -1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (hot_pixel, "error: digits has pixel values outside the range: 0 to 16, got 0 to 17."),
        (no_images, "error: digits has 0 training images, of which a tenth is held out for validation: 20 are needed"),
        (unknown_label, "error: digits has labels from 0 to 10, outside 0 to 9."),
        (negative_label, "error: digits has labels from -1 to 9, outside 0 to 9."),
    ],
)
def test_bad_data_is_refused(change, sentence, tmp_path, capsys, monkeypatch):
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    change(bunch)
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: bunch)
    seed = str(100 + len(sentence))  # data that was read is kept by config
    assert sentence in refused(capsys, *TINY, "--seed", seed, "--workdir", str(tmp_path / "run"))
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
