"""Files that are whole or not there: what is interrupted, or finds the disk full, leaves the old one as it was."""

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a text file in one move: a reader sees the old file or the new one, whole.

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
    except OSError:
        draft.unlink(missing_ok=True)  # it may be what fills the disk
        raise
