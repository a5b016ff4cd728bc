"""The authors' networks as they write them in PyTorch, on small images, and their checkpoints as jsnn reads them."""

from collections import OrderedDict

import pytest

import jsnn

torch = pytest.importorskip("torch")
nn = torch.nn
torch.set_num_threads(1)  # small networks, see tests/network/torch_reference.py
SIDE, HIDDEN = 8, 10


def convolutions(*sizes):
    """Of (channels in, channels out, what follows the ReLU)."""
    convs = [(nn.Conv2d(into, out, 3, padding=1, bias=False), nn.ReLU(), end) for into, out, end in sizes]
    return nn.Sequential(*(part for parts in convs for part in parts))


def authors_vgg():
    """Their VGG5: its channels, few hidden units and three classes."""
    torch.manual_seed(1)
    features = convolutions((2, 64, nn.AvgPool2d(2)), (64, 128, nn.Dropout()), (128, 128, nn.AvgPool2d(2)))
    classifier = nn.Linear(512, HIDDEN, bias=False), nn.ReLU(), nn.Dropout(), nn.Linear(HIDDEN, 3, bias=False)
    parts = OrderedDict(features=features, flat=nn.Flatten(), classifier=nn.Sequential(*classifier))
    return nn.DataParallel(nn.Sequential(parts))


class Block(nn.Module):
    def __init__(self, into, out, stride):
        super().__init__()
        first = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.residual = nn.Sequential(first, nn.ReLU(), nn.Dropout(), nn.Conv2d(out, out, 3, 1, 1, bias=False))
        self.identity = nn.Sequential()
        if (into, stride) != (out, 1):
            self.identity = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False))

    def forward(self, x):
        return torch.relu(self.residual(x) + self.identity(x))


def authors_resnet():
    """Of their layers and names, with fewer channels: blocks of the first and the second stage."""
    torch.manual_seed(2)
    parts = OrderedDict(pre_process=convolutions((2, 4, nn.Dropout()), (4, 4, nn.Dropout()), (4, 4, nn.AvgPool2d(2))))
    parts["layer1"] = nn.Sequential(Block(4, 4, 1))
    parts["layer2"] = nn.Sequential(Block(4, 6, 2), Block(6, 6, 1))
    parts |= {"flat": nn.Flatten(), "classifier": nn.Sequential(nn.Linear(6 * 2 * 2, 3, bias=False))}
    module = nn.Sequential(parts)
    for name, weight in module.named_parameters():
        weight.data *= 4 if name.startswith("layer") else 2  # so that all spike
    return module


def loaded(path):
    """A checkpoint of theirs, of a network on small images."""
    return jsnn.load_authors_checkpoint(path, (SIDE, SIDE, 2))
