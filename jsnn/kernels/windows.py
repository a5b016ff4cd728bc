"""What every way to convolve needs to know of a window that moves over images."""

import jax

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def output_sides(sides: Pair, window: Pair, strides: Pair, padding: Padding) -> Pair:
    """The sides of a convolution's output.

    Args:
        sides: (H, W) of the images.
        window: (kH, kW).
        strides: steps of the window.
        padding: pixels (before, after) each side of the image.

    Returns:
        (H', W').
    """
    every = zip(sides, window, strides, padding, strict=True)
    return tuple((side + sum(pad) - width) // stride + 1 for side, width, stride, pad in every)


def in_pieces(x: jax.Array, numbers: int, at_once: int) -> jax.Array:
    """The images in pieces of equal size, at most so many numbers at once, or one image.

    Args:
        x: [N, ...] images.
        numbers: that an image takes.
        at_once: that a piece may take.

    Returns:
        [pieces, n, ...].
    """
    most = max(1, at_once // numbers)
    size = max(n for n in range(1, most + 1) if x.shape[0] % n == 0)
    return x.reshape(-1, size, *x.shape[1:])
