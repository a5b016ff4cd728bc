"""Files and folders that are whole or not there, whenever the process that changes them is interrupted."""

import os
import shutil
from pathlib import Path

RUBBISH = "rubbish"  # name of a folder that is being deleted


def replace_text(path: Path, text: str) -> None:
    """Write a text file in one move: a reader sees the old file or the new one, also where the disk is full.

    Args:
        path: the file; beside it a draft exists while it is written.
        text: its new contents.
    """
    draft = path.with_name(f"{path.name}.draft")
    try:
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # survives the machine, too
        os.replace(draft, path)
        _keep_names(path.parent)
    except OSError:
        draft.unlink(missing_ok=True)  # it may be what fills the disk
        raise


def remove_folder(folder: Path) -> None:
    """Delete a folder, its name first: an interruption leaves no half of it, only rubbish that the next call removes.

    Args:
        folder: what to delete; nothing happens where it does not exist.
    """
    rubbish = folder.with_name(RUBBISH)
    if rubbish.exists():
        shutil.rmtree(rubbish)
    if folder.exists():
        move_folder(folder, rubbish)
        shutil.rmtree(rubbish)


def move_folder(folder: Path, to: Path) -> None:
    """Give a folder another name.

    Args:
        folder: the folder.
        to: its new path, beside it, which does not exist.
    """
    os.rename(folder, to)
    _keep_names(to.parent)


def _keep_names(folder: Path) -> None:
    """Have the system write the names in a folder, so that they survive the machine, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
