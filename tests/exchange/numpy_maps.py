"""Windows of maps and convolutions, from their definitions alone, in NumPy."""

import numpy as np


def windows(x, size, strides, padding, dilation=(1, 1)):
    """The windows [..., *size] of maps whose axes 1 and 2 are those of images."""
    x = np.pad(x, ((0, 0), *padding, *[(0, 0)] * (x.ndim - 3)))
    reach = [(n - 1) * d + 1 for n, d in zip(size, dilation, strict=True)]
    strided = np.lib.stride_tricks.sliding_window_view(x, reach, (1, 2))
    return strided[:, :: strides[0], :: strides[1], ..., :: dilation[0], :: dilation[1]]


def convolved(x, kernel, strides, padding, dilation, groups):
    """Maps [B, H, W, C], of a kernel [h, w, C / groups, out]."""
    parts = []
    for inputs, of_group in zip(np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True):
        patches = windows(inputs, kernel.shape[:2], strides, padding, dilation)
        parts.append(np.einsum("bhwcij,ijco->bhwo", patches, of_group))
    return np.concatenate(parts, -1)
