"""The paper's architectures in plain Flax."""

from jsnn.models.architectures import ARCHITECTURES, RESNET_BLOCKS, VGG, VGG_STAGES, ResNet, build
from jsnn.models.layers import QCFS, Dropout, dropout_of, fold_batch_norm

__all__ = [
    "ARCHITECTURES",
    "QCFS",
    "RESNET_BLOCKS",
    "VGG",
    "VGG_STAGES",
    "Dropout",
    "ResNet",
    "build",
    "dropout_of",
    "fold_batch_norm",
]
