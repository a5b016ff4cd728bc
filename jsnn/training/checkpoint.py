"""Checkpoints: a pytree, written by orbax, and a JSON record per step, the last N kept; sealed by checksums.

A checkpoint is written as a draft, sealed by the SHA-256 of each of its files and moved to its name in one step. An
interrupted save therefore leaves a sealed draft, which only lacks its name, or none at all; and a checkpoint that a
disk damaged later is detected: `sha256sum --check SHA256SUMS` in its folder does it by hand.

Orbax's CheckpointManager does not replace this: it saves no step that exists, and none below the latest, be that one
damaged; among the last N it counts damaged ones and deletes the intact one that a run went back to; and a bit flipped
in a JSON item is returned as read.
"""

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import broadcast_one_to_all

from jsnn.training.files import move_folder, remove_folder, replace_text
from jsnn.training.hosts import on_first_process

CHECKSUMS = "SHA256SUMS"
TREE, RECORD = "tree", "record.json"
DRAFT = "draft-"  # begins the name of what is being written, its number follows


class Checkpoint(NamedTuple):
    """What was saved."""

    step: int  # what it was saved under
    tree: Any  # of arrays
    record: dict[str, Any]  # of JSON values


def save(directory: Path, step: int, tree: Any, record: dict[str, Any], keep: int = 2) -> None:
    """Save a pytree and its JSON record and delete all but the last `keep`.

    All processes call it, with the same tree and record; the first writes.
    An earlier checkpoint of this step is replaced, and those of higher steps are deleted: the run has gone back to
    before them. ValueError where keep is below 1 or two arrays would have one name; OSError where it can't be written,
    e.g. to a full disk, of several processes a ValueError: what was there stays, or the new one without its name.
    """
    if keep < 1:
        raise ValueError(f"at least 1 checkpoint is kept, got keep {keep}.")
    _refuse_alike_names(tree)
    tree = jax.tree.map(_without_key, tree)
    on_first_process(lambda: _write(directory.absolute(), step, jax.device_get(tree), record, keep))


def restore(directory: Path, like: Any) -> Checkpoint | None:
    """The latest intact checkpoint, or None without any; a warning is given for each later one that is damaged.

    Expected are the structure, shapes and dtypes of `like`. ValueError where there are checkpoints but none is intact,
    or the latest holds another network, as one of an older version of jsnn does; nothing is touched in any case.
    """
    stored = jax.tree.map(lambda leaf: jax.eval_shape(_without_key, leaf) if _is_key(leaf) else leaf, like)
    tree = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), stored)  # where another process reads

    def read() -> tuple[list[str], int | None, dict[str, Any]]:
        nonlocal tree
        folder, damaged = _latest_intact(directory.absolute())
        if folder is None:
            return damaged, None, {}
        tree = _read_tree(folder, stored)
        return damaged, _step_of(folder), json.loads((folder / RECORD).read_text())

    damaged, step, record = on_first_process(read)
    for path in damaged:
        warnings.warn(f"the checkpoint {path} is damaged: going on from the one before.", stacklevel=2)
    if step is None:
        return None
    return Checkpoint(step, jax.tree.map(_as_in, like, broadcast_one_to_all(tree)), record)


def latest_is_intact(directory: Path) -> bool | None:
    """Whether the latest checkpoint is intact; None where there is none, ValueError where none is intact."""

    def look() -> bool | None:
        folder, damaged = _latest_intact(directory)
        return None if folder is None else not damaged

    return on_first_process(look)


def latest_step(directory: Path) -> int | None:
    """The number of the latest checkpoint, be it damaged; None where there is none."""
    draft = _sealed_draft(directory)
    return max(_steps(directory), default=None) if draft is None else _step_of(draft)


def is_intact(checkpoint: Path) -> bool:
    """Whether the SHA256SUMS of a checkpoint's folder can be read and holds the sum of each of its files."""
    try:
        has_record = (checkpoint / RECORD).is_file()
        return has_record and (checkpoint / CHECKSUMS).read_bytes() == _checksums(checkpoint).encode()
    except OSError:
        return False


def _write(directory: Path, step: int, arrays: Any, record: dict[str, Any], keep: int) -> None:
    """Write a draft, seal it and give it its name; then delete what is not kept."""
    draft = directory / f"{DRAFT}{step}"
    try:
        _clear_drafts(directory)
        draft.mkdir(parents=True)
        with _checkpointer() as checkpointer:
            checkpointer.save(draft / TREE, ocp.args.PyTreeSave(arrays))
        replace_text(draft / RECORD, json.dumps(record))
        replace_text(draft / CHECKSUMS, _checksums(draft))
        _give_name(draft)
    except (ValueError, OSError) as error:
        if not is_intact(draft):
            shutil.rmtree(draft, ignore_errors=True)  # it may be what fills the disk
        where = directory / str(step)
        raise OSError(f"the checkpoint {where} can't be written: {_reason(error)}; the last one is kept.") from error
    for number in _steps(directory)[:-keep]:
        remove_folder(directory / str(number))


def _clear_drafts(directory: Path) -> None:
    """Name what an interrupted save has sealed, and delete what it has not."""
    for draft in directory.glob(f"{DRAFT}*"):
        if is_intact(draft):
            _give_name(draft)
        else:
            remove_folder(draft)


def _give_name(draft: Path) -> None:
    """Make a sealed draft the checkpoint of its number and the latest: the run has gone back to before higher ones."""
    step = _step_of(draft)
    for number in _steps(draft.parent):
        if number >= step:
            remove_folder(draft.parent / str(number))
    move_folder(draft, draft.with_name(str(step)))


def _step_of(checkpoint: Path) -> int:
    """The number of a checkpoint's folder, be it a draft."""
    return int(checkpoint.name.removeprefix(DRAFT))


def _refuse_alike_names(tree: Any) -> None:
    """Refuse {"a.b": ..., "a": {"b": ...}}, of which orbax, which joins names by dots, would keep one array."""
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(tree)]
    if len(set(names)) < len(names):
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two arrays of the tree have the name {doubled} in a checkpoint: give one of them another.")


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)


def _without_key(leaf: jax.Array) -> jax.Array:
    """The numbers of a random key, as an NNX network with dropout has them; other arrays as they are."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _as_in(expected: Any, leaf: np.ndarray) -> jax.Array:
    """An array that was stored, as the key that it was where one is expected."""
    if not _is_key(expected):
        return jnp.asarray(leaf)
    return jax.random.wrap_key_data(jnp.asarray(leaf), impl=jax.random.key_impl(jnp.empty((), expected.dtype)))


def _reason(error: Exception) -> str:
    """The last clause of what tensorstore says at length, e.g. "No space left on device"; other errors as they are."""
    is_of_tensorstore = isinstance(error, ValueError)
    return str(error).partition(" [")[0].rpartition(": ")[2] if is_of_tensorstore else str(error)


def _checkpointer() -> ocp.Checkpointer:
    """Orbax's checkpointer for the first process alone."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="first" if jax.process_count() > 1 else None
    )
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)


def _checksums(folder: Path) -> str:
    """The SHA-256 of each file below a folder, as the program sha256sum writes them."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CHECKSUMS)
    return "".join(f"{_checksum(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())  # the sum of what survives the machine
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sealed_draft(directory: Path) -> Path | None:
    """The checkpoint that only lacks its name, if there is one. It is the latest; the next save names it."""
    return next(filter(is_intact, directory.glob(f"{DRAFT}*")), None)


def _latest_intact(directory: Path) -> tuple[Path | None, list[str]]:
    """The folder of the latest intact checkpoint and those of the damaged ones after it."""
    draft = _sealed_draft(directory)
    if draft is not None:
        return draft, []
    damaged = []
    for step in reversed(_steps(directory)):
        if is_intact(directory / str(step)):
            return directory / str(step), damaged
        damaged.append(str(directory / str(step)))
    if damaged:
        raise ValueError(
            f"no checkpoint in {directory} is intact; damaged, or of an older version of jsnn, are "
            f"{', '.join(damaged)}: restore one from a backup, or delete the folder to begin the stage anew."
        )
    return None, damaged


def _read_tree(checkpoint: Path, like: Any) -> Any:
    """The arrays of an intact checkpoint."""
    another = (
        f"the checkpoint {checkpoint} holds another network than this configuration's, or is of an older version of "
        "jsnn: start in a new workdir."
    )
    as_arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    try:
        with _checkpointer() as checkpointer:
            tree = checkpointer.restore(checkpoint / TREE, ocp.args.PyTreeRestore(shapes, restore_args=as_arrays))
    except ValueError as error:
        raise ValueError(another) from error
    for leaf, expected in zip(jax.tree.leaves(tree), jax.tree.leaves(shapes), strict=True):
        if (leaf.shape, leaf.dtype) != (expected.shape, expected.dtype):
            raise ValueError(another)
    return tree


def _steps(directory: Path) -> list[int]:
    """The numbers of all checkpoints, ascending."""
    names = (path.name for path in directory.iterdir()) if directory.is_dir() else ()
    return sorted(int(name) for name in names if name.isdecimal())
