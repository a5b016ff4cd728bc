"""A trained SNN as one file: its program and its weights, for inference without the code of its model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.checks import check_array
from jsnn.network.calls import is_array
from jsnn.network.transformation import SNN, Variables, without_time

PROGRAM, DTYPES, LEAF = "program", "dtypes", "leaf{}"
# How a CPU lays out products of few bits; jax promises nothing of a custom call that is not on its list.
LAYOUT = jax.export.DisabledSafetyCheck.custom_call("LayoutConstraint")


def save(path: str | Path, snn: SNN, variables: Variables, inputs: Any, **kwargs: Any) -> None:
    """Write an SNN to a file, a program for inputs of one shape on platforms like this one (CPU, GPU or TPU).

    Args:
        path: of the file, an npz archive that is replaced where it exists.
        snn: the network.
        variables: of the SNN.
        inputs: [T, B, ...] of the shape and dtype that it is to run on, or their jax.ShapeDtypeStruct.
        kwargs: of the ANN's function.

    Raises:
        ValueError: where the inputs have no axis of time, an operation of the network can't become spiking, or there is
            a folder of that name.
        OSError: where the file can't be written; then nothing of it is left.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder: name a file in it.")
    all_leaves, structure = jax.tree.flatten(dict(variables))  # what is no array among them is the program's, as a flag
    places = [place for place, leaf in enumerate(all_leaves) if is_array(leaf)]
    leaves = [jnp.asarray(all_leaves[place]) for place in places]
    is_key = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]  # as of an NNX network with dropout
    leaves = [jax.random.key_data(leaf) if key else leaf for leaf, key in zip(leaves, is_key, strict=True)]

    def run(leaves: list[jax.Array], inputs: jax.Array) -> Any:
        wrapped = [jax.random.wrap_key_data(leaf) if key else leaf for leaf, key in zip(leaves, is_key, strict=True)]
        arrays = dict(zip(places, wrapped, strict=True))
        variables = jax.tree.unflatten(structure, [arrays.get(place, leaf) for place, leaf in enumerate(all_leaves)])
        state = snn.initial_state(variables, without_time(inputs), **kwargs)
        return snn.apply(variables, state, inputs, **kwargs)[0]

    program = jax.export.export(jax.jit(run), disabled_checks=[LAYOUT])(leaves, inputs).serialize()
    arrays = {LEAF.format(i): _storable(np.asarray(leaf)) for i, leaf in enumerate(leaves)}
    arrays[DTYPES] = np.array([str(leaf.dtype) for leaf in leaves])
    written = Path(path).with_name(Path(path).name + ".part")
    try:
        with written.open("wb") as file:
            np.savez(file, **{PROGRAM: np.frombuffer(program, np.uint8)}, **arrays)
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def load(path: str | Path) -> Callable[[jax.Array], Any]:
    """Read an SNN from a file.

    Args:
        path: that `save` wrote.

    Returns:
        inputs [T, B, ...] -> results [T, B, ...] from the initial state; their mean over time is the logits.

    Raises:
        ValueError: where the file is no such archive, or damaged; of the function, for inputs of another shape or dtype
            than it was saved for.
        OSError: where it can't be read.
    """
    with Path(path).open("rb") as stream:
        program, leaves = _read(path, stream)
    (saved,) = jax.tree.leaves(program.in_avals)[-1:]

    def run(inputs: jax.Array) -> Any:
        check_array("inputs", inputs)
        if (inputs.shape, inputs.dtype) != (saved.shape, saved.dtype):
            raise ValueError(
                f"{path} was saved for inputs [T, B, ...] of {saved.shape} {saved.dtype}, got {inputs.shape} "
                f"{inputs.dtype}: save the network for these, too."
            )
        return program.call(leaves, inputs)

    return run


def _read(path: str | Path, stream: BinaryIO) -> tuple[jax.export.Exported, list[np.ndarray]]:
    """The program of a file and its arrays."""
    try:
        with np.load(stream) as file:
            program = jax.export.deserialize(bytearray(file[PROGRAM].tobytes()))
            leaves = [file[LEAF.format(i)].view(jnp.dtype(str(dtype))) for i, dtype in enumerate(file[DTYPES])]
    except Exception as error:  # of whatever kind the bytes lead to
        raise ValueError(f"{path} holds no network, or is damaged: write it with jsnn.save.") from error
    return program, leaves


def _storable(array: np.ndarray) -> np.ndarray:
    """The bytes of an array as a dtype that NumPy's files know, which bfloat16 is not."""
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array
