"""The paper's architectures in plain Flax."""

from jsnn.models.architectures import ARCHITECTURES, RESNET_BLOCKS, VGG, VGG_STAGES, ResNet, build
from jsnn.models.layers import Dropout, dropout_of

__all__ = ["ARCHITECTURES", "RESNET_BLOCKS", "VGG", "VGG_STAGES", "Dropout", "ResNet", "build", "dropout_of"]
