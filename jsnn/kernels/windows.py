"""The window of a convolution: what every method needs to know of it."""

import jax

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def output_sides(sides: Pair, window: Pair, strides: Pair, padding: Padding) -> Pair:
    """The sides (H', W') of a convolution's output."""
    every = zip(sides, window, strides, padding, strict=True)
    return tuple((side + sum(pad) - width) // stride + 1 for side, width, stride, pad in every)


def in_pieces(x: jax.Array, numbers: int, at_once: int) -> jax.Array:
    """Images [N, ...] in pieces [pieces, n, ...] of equal size, of at most so many numbers at once, or one image."""
    most = max(1, at_once // numbers)
    size = max(n for n in range(1, most + 1) if x.shape[0] % n == 0)
    return x.reshape(-1, size, *x.shape[1:])


def as_rows(x: jax.Array) -> jax.Array:
    """Pixels [..., C] as rows of a matrix."""
    return x.reshape(-1, x.shape[-1])
