"""How a presentation is cut into chunks of time steps."""

import jax
import jax.numpy as jnp

FITTING_CHUNKS, BEARABLE_PADDING = range(8, 13), 0.03


def check_steps(num_steps: int, chunk: int) -> None:
    """Refuse a number of time steps, or of steps per chunk, that is below 1.

    Args:
        num_steps: T.
        chunk: K.

    Raises:
        ValueError: naming the number.
    """
    for name, value in (("num_steps", num_steps), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1 time step, got {value}.")


def time_chunks(num_steps: int, chunk: int) -> jax.Array:
    """The time steps of each chunk: as few chunks as possible, all of the same length.

    Where the number of steps does not divide, the last chunk goes on beyond it, with steps that nobody looks at.

    Args:
        num_steps: T, at least 1.
        chunk: time steps per chunk at most.

    Returns:
        [C, K] int32, the first of them 0.

    Raises:
        ValueError: where num_steps or chunk is below 1.
    """
    check_steps(num_steps, chunk)
    count = -(-num_steps // chunk)
    return jnp.arange(count * -(-num_steps // count), dtype=jnp.int32).reshape(count, -1)


def fitting_chunk(num_steps: int) -> int:
    """A number of time steps per chunk that serves a presentation well.

    Short chunks stay within a CPU's caches, long ones feed a GPU. Eight steps of spikes fill a byte; where they would
    add more than 3 % of padding (see `time_chunks`), up to twelve that add less.

    Args:
        num_steps: T, at least 1.

    Returns:
        The most steps of a chunk, in [8, 12].
    """
    enough = (1 + BEARABLE_PADDING) * num_steps
    return min(FITTING_CHUNKS, key=lambda chunk: max(enough, time_chunks(num_steps, chunk).size))
