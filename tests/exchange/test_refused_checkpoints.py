"""Files of PyTorch that are refused: those that would run code, and those that are not the authors' checkpoints."""

import pickle
from io import BytesIO

import pytest

from jsnn.exchange import read_torch_file
from tests.exchange.authors import authors_vgg, loaded, torch

pytestmark = pytest.mark.torch


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_what_would_run_code_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "executed"
    torch.save({"state_dict": authors_vgg().state_dict(), "activation": Malicious(trace)}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil.pth holds more than tensors .* by safetensors.torch.save_file"):
        loaded(tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    with pytest.raises(ValueError, match="is not opened"):
        loaded(tmp_path / "plain.pth")
    assert not trace.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)  # it would have been
    assert trace.exists()


ONE, WEIGHTS = torch.ones(1), authors_vgg().state_dict()
FIRST, SECOND = "module.features.0.weight", "module.features.3.weight"
ONES = {"thresholds": [1.0] * 4}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"thresholds": [1.0] * 3}, "3 thresholds and 3 leaks for the 4 spiking layers"),
        ({"thresholds": [1.0, -1.0, 1.0, 1.0]}, "threshold of conv1 must be above 0"),
        ({"thresholds": {"t0": 1.0}}, r"thresholds of a checkpoint must be .* got \{'t0': 1.0\}"),
        ({"thresholds": [None] * 4}, "thresholds of a checkpoint must be a number or a list of numbers"),
        ({"thresholds": ["a"] * 4}, "thresholds of a checkpoint must be a number or a list of numbers"),
        (ONES | {"leak": 1.5}, r"leak of conv0 must be in \(0, 1\]"),
        (ONES | {"timesteps": -3}, "timesteps .* at least 1, got -3"),
        (ONES | {"timesteps": float("nan")}, "timesteps .* at least 1, got nan"),
        ({"state_dict": [1]}, "has a list as its state_dict"),
        ({"state_dict": {3: ONE}}, "holds 3: only the authors'"),
        ({"state_dict": {FIRST: 1.0}}, "holds a number as module.features.0.weight"),
        ({"state_dict": {FIRST: torch.tensor(1.0)}}, "holds a number as module.features.0.weight"),
        ({"state_dict": {"fc.weight": ONE}}, "holds fc.weight: only the authors' VGGs and"),
        ({"state_dict": {"features.0.weight": ONE}}, "has no classifier: only the authors'"),
        ({"state_dict": WEIGHTS | {"pre_process.0.weight": ONE}}, "classifier of 2 layers: jsnn.models"),
        ({"state_dict": WEIGHTS | {"module.features.3.bias": torch.ones(128)}}, r"3 \(.*bias 128\)"),
        ({"state_dict": WEIGHTS | {"module.classifier.0.weight": torch.ones(9, 99)}}, "dense0"),
        (
            {"state_dict": {name: value for name, value in WEIGHTS.items() if name != SECOND}},
            r"convolutions of \[64, 128\] channels",
        ),
        (ONE, "holds a Tensor"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, change, sentence):
    torch.save(change if change is ONE else {"state_dict": WEIGHTS, **change}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=sentence):
        loaded(tmp_path / "other.pth")


def damaged_files():
    """Bytes by what is wrong with them, of each kind of error that PyTorch ends in."""
    old, new = BytesIO(), BytesIO()
    torch.save({"a": torch.ones(3)}, old, _use_new_zipfile_serialization=False)
    torch.save({"a": torch.ones(3)}, new)
    yield from (f"{letter}ello world, this is text\n".encode() for letter in "(Phc")
    yield from (old.getvalue()[:length] for length in range(0, len(old.getvalue()), 23))
    yield from (new.getvalue()[:length] for length in range(0, len(new.getvalue()), 97))
    for place in range(0, len(old.getvalue()), 5):
        yield old.getvalue()[:place] + b"\xff" + old.getvalue()[place + 1 :]


def test_a_damaged_file_is_refused_whatever_pytorch_says(tmp_path):
    path, errors = tmp_path / "damaged.pth", []
    for contents in damaged_files():
        path.write_bytes(contents)
        try:
            read_torch_file(path)
        except ValueError as error:
            errors.append(error)
    assert all("damaged" in str(error).removeprefix(str(path)) or "holds a" in str(error) for error in errors)
    causes = {type(error.__cause__).__name__ for error in errors}
    assert causes >= {"UnpicklingError", "EOFError", "RuntimeError", "IndexError", "KeyError", "UnicodeDecodeError"}
    with pytest.raises(FileNotFoundError):
        read_torch_file(tmp_path / "none.pth")
