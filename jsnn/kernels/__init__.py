"""What networks compute with: convolutions and products, fast on every platform and in a chosen precision."""

from jsnn.kernels.convolution import conv_general_dilated
from jsnn.kernels.network import Kernels, fast_kernels, xla_kernels
from jsnn.kernels.pooling import pool_sum

__all__ = ["Kernels", "conv_general_dilated", "fast_kernels", "pool_sum", "xla_kernels"]
