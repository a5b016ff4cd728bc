"""The authors' VGG5 as they write it in PyTorch, on small images, and their checkpoints as jsnn reads them."""

from collections import OrderedDict

import pytest

import jsnn

torch = pytest.importorskip("torch")
nn = torch.nn
torch.set_num_threads(1)  # small networks, see tests/network/torch_reference.py

SIDE, HIDDEN = 8, 10


def authors_vgg():
    """Their VGG5: its channels, few hidden units and three classes."""
    torch.manual_seed(1)
    layers = []
    for into, out, end in ((2, 64, nn.AvgPool2d(2)), (64, 128, nn.Dropout()), (128, 128, nn.AvgPool2d(2))):
        layers += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.ReLU(), end]
    classifier = nn.Linear(512, HIDDEN, bias=False), nn.ReLU(), nn.Dropout(), nn.Linear(HIDDEN, 3, bias=False)
    parts = OrderedDict(features=nn.Sequential(*layers), flat=nn.Flatten(), classifier=nn.Sequential(*classifier))
    return nn.DataParallel(nn.Sequential(parts))


def loaded(path):
    """A checkpoint of theirs, of a network on small images."""
    return jsnn.load_authors_checkpoint(path, (SIDE, SIDE, 2))
