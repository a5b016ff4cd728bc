"""Reads tensors and plain values from PyTorch files, without running code from them."""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from jsnn.extras import from_extra


def read_torch_file(path: str | Path) -> Mapping[str, Any]:
    """What a file of safetensors, or of `torch.save`, holds.

    A pickle can run code, so that one of `torch.save` is read with `weights_only=True`.

    Args:
        path: of a `.safetensors` file, or of any other name for one of `torch.save`, as `.pth`.

    Returns:
        Names -> NumPy arrays of a safetensors file, which keeps no order: names are sorted, the numbers in them by
        value. Of another file tensors, and dicts, lists and numbers beside them.

    Raises:
        ValueError: where a file holds more than that, or is damaged.
    """
    path = Path(path)
    contents = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(contents, Mapping):
        raise ValueError(f"{path} holds a {type(contents).__name__}: save a state_dict, or a dict with one in it.")
    return contents


def _read_safetensors(path: Path) -> Any:
    with from_extra("torch"):
        from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (OSError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise ValueError(f"{path} is no file of safetensors, or damaged: {error}.") from error
    return {name: tensors[name] for name in sorted(tensors, key=_by_value)}


def _by_value(name: str) -> list[tuple[bool, int, str]]:
    """What sorts features.3 before features.10."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _read_pickle(path: Path) -> Any:
    with from_extra("torch"):
        import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and plain values, or is damaged, so that it is not opened: in the "
            "environment that made it, save its tensors by safetensors.torch.save_file, and read that file."
        ) from error
    except (OSError, ModuleNotFoundError):
        raise
    except Exception as error:  # bytes that are no pickle end in errors of many kinds
        raise ValueError(f"{path} is no file of torch.save, or damaged.") from error
