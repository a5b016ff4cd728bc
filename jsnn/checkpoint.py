"""Checkpoints by orbax: a pytree and a JSON record per step, written atomically, the last N kept.

An interrupted save leaves no checkpoint behind: orbax writes to a temporary folder and renames it when all is there.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp


class Checkpoint(NamedTuple):
    """What was saved.

    Attributes:
        step: the number that it was saved under.
        tree: the pytree of arrays.
        record: the JSON record.
    """

    step: int
    tree: Any
    record: dict[str, Any]


def save(directory: Path, step: int, tree: Any, record: dict[str, Any], keep: int = 2) -> None:
    """Save a checkpoint and delete all but the last `keep`.

    Args:
        directory: folder of the checkpoints; made where there is none.
        step: number of the checkpoint, e.g. epochs done; an earlier one of this number is replaced.
        tree: pytree of arrays.
        record: what belongs to it and is no array (config, seed): JSON values.
        keep: how many to keep, at least 1.
    """
    with _manager(directory, keep) as manager:
        if step in manager.all_steps():
            manager.delete(step)
        items = {"tree": ocp.args.StandardSave(tree), "record": ocp.args.JsonSave(record)}
        manager.save(step, args=ocp.args.Composite(**items), force=True)


def restore(directory: Path, like: Any) -> Checkpoint | None:
    """Restore the latest checkpoint.

    Args:
        directory: folder of the checkpoints.
        like: pytree of arrays or jax.ShapeDtypeStruct with the structure, shapes and dtypes to expect.

    Returns:
        The Checkpoint, its arrays on the default device, or None where there is none.

    Raises:
        ValueError: where the checkpoint holds another network than expected.
    """
    if not directory.is_dir():
        return None
    with _manager(directory, keep=None) as manager:
        step = manager.latest_step()
        if step is None:
            return None
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)
        items = {"tree": ocp.args.StandardRestore(abstract), "record": ocp.args.JsonRestore()}
        try:
            found = manager.restore(step, args=ocp.args.Composite(**items))
        except ValueError as error:
            raise ValueError(
                f"the checkpoint {directory / str(step)} holds another network than this configuration's: "
                "use another workdir."
            ) from error
    return Checkpoint(step, found["tree"], found["record"])


def _manager(directory: Path, keep: int | None) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    return ocp.CheckpointManager(directory.absolute(), options=options)
