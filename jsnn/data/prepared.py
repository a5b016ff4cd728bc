"""Data sets that TFDS has prepared, read without TensorFlow. Errors name the file that is wrong."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsnn.extras import from_extra


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Name the data set in a ValueError where reading it fails: damaged files, images, too little memory."""
    try:
        yield
    except MemoryError as error:
        raise ValueError(
            f"the data set {name} does not fit into the memory that this process may take: raise the limit (ulimit -v)."
        ) from error
    except Exception as error:  # of array_record, TFDS, what parses its JSON, or the decoder
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the data set {name} can't be read ({reason}): prepare it again.") from error


def open_builder(name: str, origin: str | None, data_dir: str | None) -> Any:
    """TFDS's builder of a prepared data set, by its name or the folder of a builder, in a data directory or TFDS's own.

    Its origin is None where TFDS knows it by the same name; a folder of that name then is not it.

    ValueError where it is not prepared, with the command that prepares it, or its description is damaged.
    """
    with from_extra("data"):
        import tensorflow_datasets as tfds  # a second to import, and not needed for arrays

    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS tells at length about optional packages
    name_in_tfds = origin or name
    message = (
        f"the data set {name} is not prepared in {data_dir or '~/tensorflow_datasets'}: prepare it once with "
        f"`pip install tensorflow importlib_resources` and `tfds build {name_in_tfds} --file_format=array_record"
        f"{f' --data_dir={data_dir}' if data_dir else ''}`, or point data_dir to where it is."
    )
    with readable(name):
        try:
            if origin and Path(origin).is_dir():
                return tfds.builder_from_directory(origin)
            builder = tfds.builder(name_in_tfds, data_dir=data_dir, file_format="array_record")
            if builder.is_prepared():
                return builder
        except (tfds.core.DatasetNotFoundError, ImportError, FileNotFoundError):
            pass  # nothing of that name is there
    raise ValueError(message)


def num_records(name: str, builder: Any, split: str) -> int:
    """How many records a split has; ValueError where its description and files differ, or there is no such split."""
    from array_record.python.array_record_module import ArrayRecordReader

    with readable(name):
        described = builder.info.splits[split]
        counts = [(path, ArrayRecordReader(str(path)).num_records()) for path in described.filepaths]
        claims = list(described.shard_lengths)
    for (path, count), claimed in zip(counts, claims, strict=True):
        if count != claimed:
            raise ValueError(
                f"the data set {name} can't be read: dataset_info.json claims {claimed} records in {path.name}, "
                f"which holds {count}: prepare it again."
            )
    return sum(claims)


def open_records(name: str, builder: Any, part: str) -> Sequence[dict[str, Any]]:
    """Open a part of a data set, such as "train[:90]", for random access; ValueError where it can't be read."""
    with readable(name):
        records = builder.as_data_source(part)
        _ = records[0], records[len(records) - 1]  # damage is told now where it shows now
    return records
