"""The authors' VGG5 as they write it in PyTorch, on small images, and their checkpoints as jsnn reads them."""

import torch
from torch import nn

import jsnn

torch.set_num_threads(1)  # small networks, see tests/network/torch_reference.py

SIDE, HIDDEN = 8, 10


def authors_vgg():
    """Their VGG5: its channels, few hidden units and three classes."""
    torch.manual_seed(1)
    module = nn.Module()
    layers = []
    for into, out, end in ((2, 64, nn.AvgPool2d(2)), (64, 128, nn.Dropout()), (128, 128, nn.AvgPool2d(2))):
        layers += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.ReLU(), end]
    module.features = nn.Sequential(*layers)
    module.classifier = nn.Sequential(
        nn.Linear(512, HIDDEN, bias=False), nn.ReLU(), nn.Dropout(), nn.Linear(HIDDEN, 3, bias=False)
    )
    return nn.DataParallel(module)


def loaded(path):
    """A checkpoint of theirs, of a network on small images."""
    return jsnn.load_authors_checkpoint(path, (SIDE, SIDE, 2))
