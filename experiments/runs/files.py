"""Files that are complete or not there, whenever a process that writes them ends; and a lock on a folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a text file in one move: a reader sees the old file or the new one, also where the disk is full."""
    draft = path.with_name(f"{path.name}.draft")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)  # it may be what fills the disk
        raise


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a folder until this process ends, however it ends; ValueError, naming the holder, where it is held."""
    with (directory / "lock").open("a+") as file:
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
