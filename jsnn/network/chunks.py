"""How a presentation is cut into chunks of time steps."""

import jax
import jax.numpy as jnp

from jsnn.checks import is_whole

FITTING_CHUNKS, BEARABLE_PADDING = range(8, 13), 0.03


def check_steps(num_steps: int, chunk: int) -> None:
    """Refuse, by its name, a number of time steps, or of steps per chunk, that is no whole number from 1."""
    for name, value in (("num_steps", num_steps), ("chunk", chunk)):
        if not is_whole(value):
            raise ValueError(f"{name} must be a whole number of time steps, got {value!r}.")
        if value < 1:
            raise ValueError(f"{name} must be at least 1 time step, got {value}.")


def time_chunks(num_steps: int, chunk: int) -> jax.Array:
    """The time steps [C, K] int32 of each chunk: as few chunks as possible, all of the same length, at most `chunk`.

    Where the number of steps does not divide, the last chunk goes on beyond it, with steps that nobody looks at.
    """
    check_steps(num_steps, chunk)
    count = -(-num_steps // chunk)
    return jnp.arange(count * -(-num_steps // count), dtype=jnp.int32).reshape(count, -1)


def fitting_chunk(num_steps: int, max_chunk: int | None = None) -> int:
    """A number of time steps per chunk that serves a presentation well, 8 to 12 or as few as memory allows.

    Short chunks stay within a CPU's caches, long ones feed a GPU. Eight steps of spikes fill a byte; where they would
    add more than 3 % of padding (see `time_chunks`), up to twelve that add less. Fewer are all steps at once, or a
    power of two, so that several chunks fill a byte.

    Args:
        num_steps: T.
        max_chunk: steps that a device has memory for; None for a CPU, where caches are smaller than memory.
    """
    enough = (1 + BEARABLE_PADDING) * num_steps
    fitting = min(FITTING_CHUNKS, key=lambda chunk: max(enough, time_chunks(num_steps, chunk).size))
    if max_chunk is None or max_chunk >= fitting:
        return fitting
    return num_steps if num_steps <= max_chunk else next(few for few in (8, 4, 2, 1) if few <= max(1, max_chunk))
