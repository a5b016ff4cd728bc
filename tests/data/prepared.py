"""Small data sets as TFDS prepares them, made by tests: sound ones, and ones with something wrong."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

Record = tuple[bytes, int]  # an encoded image and its label


def encoded(image: np.ndarray, mode: str | None = None) -> bytes:
    """An image as a PNG, or as a JPEG of a mode that PNG does not know."""
    file, picture = io.BytesIO(), Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.convert(mode).save(file, "JPEG") if mode else picture.save(file, "PNG")
    return file.getvalue()


def records(count: int, shape: tuple[int, int, int], classes: Sequence[int], seed: int = 0) -> list[Record]:
    """Random images whose labels go through the classes in turn."""
    rng = np.random.default_rng(seed)
    return [(encoded(rng.integers(0, 256, shape, np.uint8)), classes[i % len(classes)]) for i in range(count)]


def prepare(folder: Path, train: Sequence[Record], test: Sequence[Record], channels: int, num_classes: int) -> Path:
    """Write a data set `made` of images of any size; returns the folder of its builder."""
    builder = folder / "made" / "1.0.0"
    builder.mkdir(parents=True)
    splits = []
    for name, of_split in (("train", train), ("test", test)):
        writer = ArrayRecordWriter(str(builder / f"made-{name}.array_record-00000-of-00001"), "group_size:1")
        for image, label in of_split:
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(image)
            example.features.feature["label"].int64_list.value.append(label)
            writer.write(example.SerializeToString())
        writer.close()
        sizes = {"shardLengths": [str(len(of_split))], "numBytes": "1"}
        splits.append({"name": name, **sizes, "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"})
    info = {"name": "made", "version": "1.0.0", "moduleName": "made", "fileFormat": "array_record", "splits": splits}
    (builder / "dataset_info.json").write_text(json.dumps(info))
    (builder / "features.json").write_text(json.dumps(_features(channels, num_classes)))
    return builder


def _features(channels: int, num_classes: int) -> dict:
    library = "tensorflow_datasets.core.features"
    image = {"image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", str(channels)]}}}
    label = {"classLabel": {"numClasses": str(num_classes)}}
    features = {
        "image": {**image, "pythonClassName": f"{library}.image_feature.Image"},
        "label": {**label, "pythonClassName": f"{library}.class_label_feature.ClassLabel"},
    }
    return {"featuresDict": {"features": features}, "pythonClassName": f"{library}.features_dict.FeaturesDict"}
