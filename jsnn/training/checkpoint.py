"""Checkpoints: a pytree of arrays and a JSON record for each step, which Orbax's CheckpointManager saves and keeps."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import broadcast_one_to_all

from jsnn.training.hosts import on_first_process

TREE, RECORD = "tree", "record"


class Checkpoint(NamedTuple):
    """What was saved."""

    step: int  # what it was saved under
    tree: Any  # of arrays
    record: dict[str, Any]  # of JSON values


def save(directory: Path, step: int, tree: Any, record: dict[str, Any], keep: int = 2) -> None:
    """Save a pytree and its record, and keep the last `keep` checkpoints.

    All processes call it with the same arguments; the first one writes. The checkpoint appears in one move. Those of
    this step and of later ones are deleted first: the run went back to before them.

    Args:
        directory: the folder of the checkpoints.
        step: the number of this one.
        tree: of arrays, numbers and random keys.
        record: of JSON values.
        keep: how many checkpoints stay.

    Raises:
        ValueError: where keep is below 1, or two arrays of the tree would have one name.
        OSError: where the checkpoint can't be written, as on a full disk; of several processes a ValueError.
    """
    if keep < 1:
        raise ValueError(f"at least 1 checkpoint is kept, got keep {keep}.")
    arrays, folder = _by_name(tree), directory.absolute()

    def write() -> None:
        items = {TREE: ocp.args.PyTreeSave(jax.device_get(arrays)), RECORD: ocp.args.JsonSave(record)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _manager(folder, keep) as manager:
                for later in (number for number in manager.all_steps() if number >= step):
                    manager.delete(later)
                manager.save(step, args=ocp.args.Composite(**items), force=True)
        except (ValueError, OSError) as error:
            # tensorstore raises a ValueError whose last clause says why: "...: No space left on device [...]".
            reason = str(error).partition(" [")[0].rpartition(": ")[2] if isinstance(error, ValueError) else error
            raise OSError(f"the checkpoint {folder / str(step)} can't be written: {reason}.") from error

    on_first_process(write)


def restore(directory: Path, like: Any) -> Checkpoint | None:
    """The latest checkpoint that can be read, or None without any. A warning names each damaged one that is passed.

    All processes call it; the first one reads, and all get the same.

    Args:
        directory: the folder of the checkpoints.
        like: a pytree with the structure, shapes and dtypes of the one that was saved.

    Raises:
        ValueError: where no checkpoint can be read, or the latest holds another tree than `like`.
    """
    expected = {name: _kind(leaf) for name, leaf in jax.eval_shape(_by_name, like).items()}
    arrays = {name: np.zeros(*kind) for name, kind in expected.items()}  # in processes that do not read

    def read() -> tuple[list[str], int | None, dict[str, Any]]:
        nonlocal arrays
        damaged, step, items = _latest(directory.absolute())
        if items is None:
            return damaged, None, {}
        arrays = {name: np.asarray(leaf) for name, leaf in items[TREE].items()}
        if {name: _kind(leaf) for name, leaf in arrays.items()} != expected:
            raise ValueError(f"the checkpoint {directory / str(step)} holds another network: start in a new workdir.")
        return damaged, step, items[RECORD]

    damaged, step, record = on_first_process(read)
    if step is None and damaged:
        raise ValueError(f"no checkpoint in {directory} can be read: delete the folder to begin anew.")
    for number in damaged:
        warnings.warn(f"the checkpoint {directory / number} is damaged: going on from the one before.", stacklevel=2)
    if step is None:
        return None
    arrays, (leaves, structure) = broadcast_one_to_all(arrays), jax.tree.flatten(like)
    restored = (_as(leaf, arrays[name]) for leaf, name in zip(leaves, _names(like), strict=True))
    return Checkpoint(step, structure.unflatten(restored), record)


def _latest(directory: Path) -> tuple[list[str], int | None, Any]:
    """The numbers of damaged checkpoints, and the number and the items of the one before them, which can be read."""
    items = ocp.args.Composite(**{TREE: ocp.args.PyTreeRestore(), RECORD: ocp.args.JsonRestore()})
    damaged = []
    if directory.is_dir():
        with _manager(directory) as manager:
            for step in sorted(manager.all_steps(), reverse=True):
                try:
                    return damaged, step, manager.restore(step, args=items)
                except (ValueError, OSError, KeyError, TypeError):
                    damaged.append(str(step))
    return damaged, None, None


def _manager(directory: Path, keep: int | None = None) -> ocp.CheckpointManager:
    """Orbax's manager of a folder that is there, for the first process alone; who saves clears unfinished saves."""
    prefix = "first" if jax.process_count() > 1 else None
    alone = {"multiprocessing_options": ocp.options.MultiprocessingOptions(0, {0}, prefix)}
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        cleanup_tmp_directories=keep is not None,
        enable_async_checkpointing=False,
        **alone,
    )
    handlers = {TREE: ocp.PyTreeCheckpointHandler(**alone), RECORD: ocp.JsonCheckpointHandler(**alone)}
    return ocp.CheckpointManager(directory, options=options, item_handlers=handlers)


def _by_name(tree: Any) -> dict[str, Any]:
    """Name -> array, random keys as their numbers."""
    names = _names(tree)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two arrays of the tree have the name {name} in a checkpoint: give one of them another.")
    leaves = (jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(tree))
    return dict(zip(names, leaves, strict=True))


def _names(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(tree)]


def _kind(leaf: Any) -> tuple[tuple[int, ...], np.dtype]:
    return leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)


def _as(expected: Any, leaf: np.ndarray) -> jax.Array:
    """An array that was stored, as the key that it was where one is expected."""
    if not _is_key(expected):
        return jnp.asarray(leaf)
    return jax.random.wrap_key_data(jnp.asarray(leaf), impl=jax.random.key_impl(jnp.empty((), expected.dtype)))
