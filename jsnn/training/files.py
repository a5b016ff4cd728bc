"""Files and folders that are complete or not there, whenever a process that changes them is interrupted; locks."""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "lock"  # name of a file, for one process per folder
RUBBISH = "rubbish"  # name of a folder that is being deleted


def replace_text(path: Path, text: str) -> None:
    """Write a text file in one move: a reader sees the old file or the new one, also where the disk is full."""
    draft = path.with_name(f"{path.name}.draft")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # survives the machine, too
        os.replace(draft, path)
        _sync_folder(path.parent)
    except OSError:
        draft.unlink(missing_ok=True)  # it may be what fills the disk
        raise


def remove_folder(folder: Path) -> None:
    """Delete a folder, its name first: an interruption leaves no half of it, only rubbish for the next call."""
    rubbish = folder.with_name(RUBBISH)
    if rubbish.exists():
        shutil.rmtree(rubbish)
    if folder.exists():
        move_folder(folder, rubbish)
        shutil.rmtree(rubbish)


def move_folder(folder: Path, to: Path) -> None:
    """Give a folder another name, a path beside it that does not exist."""
    os.rename(folder, to)
    _sync_folder(to.parent)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a folder for this process, by a lock that the system takes back when its holder ends, however it ends.

    Its file `lock` names the holder, and so does a ValueError where that is another process.
    """
    with (directory / LOCK).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ValueError(f"{directory} is in use by {holder}: wait for it, or use another workdir.") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _sync_folder(folder: Path) -> None:
    """Have the system write the names in a folder, so that they survive the machine, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
