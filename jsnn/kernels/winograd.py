"""3x3 convolutions by minimal filtering, with 4 of 9 multiplications (Winograd; Lavin and Gray, arXiv:1509.09308).

Two by two outputs y see four by four pixels d. Along one side, with the kernel's g,

    y_0 = m_0 + m_1 + m_2,   m_0 = (d_0 - d_2) g_0,   m_1 = (d_1 + d_2) (g_0 + g_1 + g_2) / 2,
    y_1 = m_1 - m_2 - m_3,   m_3 = (d_1 - d_3) g_2,   m_2 = (d_2 - d_1) (g_0 - g_1 + g_2) / 2,

and likewise along the other side. With channels, each m is a matrix product. Pixels are only added and subtracted, so
spikes stay whole numbers. Weights are also halved, at most twice. If they have few bits, the sums are exact, as in the
plain convolution.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jsnn.kernels.precision import dtype_of_sums
from jsnn.kernels.products import product
from jsnn.kernels.windows import Padding, Pair, as_rows, in_pieces, output_sides

# Of the images' tiles: of more a CPU's caches hold too few, of fewer XLA:CPU gives each product one core.
NUMBERS_AT_ONCE = 2_400_000
WINDOW = (3, 3)
NO_PADDING = ((0, 0), (0, 0))

Grid = Sequence[Sequence[jax.Array]]


def convolve(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """The convolution of stride 1 of images [N, H, W, C_in] with a kernel [3, 3, C_in, C_out], of at least float32."""
    outputs = output_sides(x.shape[1:3], WINDOW, (1, 1), padding)
    kernels = _on_both_sides(_kernel_transform, [[kernel[i, j] for j in range(3)] for i in range(3)])

    def multiply(x: jax.Array) -> jax.Array:
        tiles = _tiles(x, outputs, padding)
        products = jax.tree.map(lambda tile, kernel: product(None, as_rows(tile), kernel), tiles, kernels)
        return _joined(_on_both_sides(_output_transform, products), len(x), outputs)

    convolved = jax.lax.map(multiply, in_pieces(x, _numbers_of_tiles(x, outputs), NUMBERS_AT_ONCE))
    return convolved.reshape(-1, *convolved.shape[2:])


def filter_gradient(x: jax.Array, cotangent: jax.Array, padding: Padding) -> jax.Array:
    """The gradient [3, 3, C_in, C_out] of the convolution with respect to its kernel, by the transposed transforms.

        dg = G^T (sum over tiles of  (B^T d B)^T (A dy A^T)) G

    where B^T, G and A^T are the transforms of the pixels d, the kernel g and the products m above.
    """
    outputs = cotangent.shape[1:3]
    pieces = [in_pieces(leaf, _numbers_of_tiles(x, outputs), NUMBERS_AT_ONCE) for leaf in (x, cotangent)]

    def add(gradients: Grid, piece: list[jax.Array]) -> tuple[Grid, None]:
        x, cotangent = piece
        tiles = _tiles(x, outputs, padding)
        cotangents = _on_both_sides(_output_transform_transposed, _by_place(cotangent, 2, outputs, NO_PADDING))
        of_piece = jax.tree.map(lambda tile, sums: product(None, as_rows(tile).T, as_rows(sums)), tiles, cotangents)
        return jax.tree.map(jnp.add, gradients, of_piece), None

    zeros = jnp.zeros((x.shape[-1], cotangent.shape[-1]), dtype_of_sums(x.dtype))
    gradients, _ = jax.lax.scan(add, ((zeros,) * 4,) * 4, pieces)
    return jnp.stack([jnp.stack(row) for row in _on_both_sides(_kernel_transform_transposed, gradients)])


def _pixel_transform(d0: jax.Array, d1: jax.Array, d2: jax.Array, d3: jax.Array) -> tuple[jax.Array, ...]:
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3


def _kernel_transform(g0: jax.Array, g1: jax.Array, g2: jax.Array) -> tuple[jax.Array, ...]:
    return g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2


def _output_transform(m0: jax.Array, m1: jax.Array, m2: jax.Array, m3: jax.Array) -> tuple[jax.Array, ...]:
    return m0 + m1 + m2, m1 - m2 - m3


def _output_transform_transposed(y0: jax.Array, y1: jax.Array) -> tuple[jax.Array, ...]:
    return y0, y0 + y1, y0 - y1, -y1


def _kernel_transform_transposed(u0: jax.Array, u1: jax.Array, u2: jax.Array, u3: jax.Array) -> tuple[jax.Array, ...]:
    return u0 + (u1 + u2) / 2, (u1 - u2) / 2, (u1 + u2) / 2 + u3


def _on_both_sides(transform: Callable[..., tuple[jax.Array, ...]], grid: Grid) -> Grid:
    """The transform along the grid's rows, then along its columns."""
    columns = zip(*(transform(*row) for row in grid), strict=True)
    return tuple(zip(*(transform(*column) for column in columns), strict=True))


def _tiles(x: jax.Array, outputs: Pair, padding: Padding) -> Grid:
    """Four by four sums of pixels, each [N, tiles high, tiles wide, C]."""
    return _on_both_sides(_pixel_transform, _by_place(x, 4, outputs, padding))


def _by_place(x: jax.Array, count: int, outputs: Pair, padding: Padding) -> Grid:
    """Pixels of the same place in each tile: `count` by `count` arrays [N, tiles high, tiles wide, C]."""
    # Zeros behind for an even number of outputs, and one more, which is never read: where nothing is padded, XLA:CPU
    # does not copy a piece into its caches, but reads it many times where it lies.
    around = ((before, after + side % 2 + 1) for (before, after), side in zip(padding, outputs, strict=True))
    x = jnp.pad(x, ((0, 0), *around, (0, 0)))
    height, width = (2 * tiles for tiles in _tile_counts(outputs))
    return [[x[:, i : i + height : 2, j : j + width : 2] for j in range(count)] for i in range(count)]


def _joined(grid: Grid, images: int, outputs: Pair) -> jax.Array:
    """Two by two outputs of every tile as images, [N, H', W', C]."""
    high, wide = _tile_counts(outputs)
    rows = [jnp.stack([leaf.reshape(images, high, wide, -1) for leaf in row], 3) for row in grid]
    return jnp.stack(rows, 2).reshape(images, 2 * high, 2 * wide, -1)[:, : outputs[0], : outputs[1]]


def _numbers_of_tiles(x: jax.Array, outputs: Pair) -> int:
    """How many numbers the tiles of an image are."""
    return 16 * math.prod(_tile_counts(outputs)) * x.shape[-1]


def _tile_counts(outputs: Pair) -> Pair:
    """Tiles in height and width."""
    height, width = outputs
    return (height + 1) // 2, (width + 1) // 2
