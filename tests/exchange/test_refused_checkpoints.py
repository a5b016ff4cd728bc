"""Files of PyTorch that are refused: those that would run code, and those that are not the authors' checkpoints."""

import pickle

import pytest

torch = pytest.importorskip("torch")

from tests.exchange.authors import authors_vgg, loaded  # noqa: E402

pytestmark = pytest.mark.torch
ONE = torch.ones(1)


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


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.update(thresholds=[1.0] * 3), "3 thresholds and 3 leaks for the 4 spiking layers"),
        (lambda state: state.update(thresholds=[1.0, -1.0, 1.0, 1.0]), "threshold of conv1 must be above 0"),
        (lambda state: state.update(thresholds=[1.0] * 4, leak=1.5), r"leak of conv0 must be in \(0, 1\]"),
        (
            lambda state: state["state_dict"].update({"pre_process.0.weight": ONE}),
            "classifier of 2 layers: jsnn.models",
        ),
        (lambda state: state.update(state_dict={"fc.weight": ONE}), "holds fc.weight: only the authors' VGGs and"),
        (lambda state: state.update(state_dict={"features.0.weight": ONE}), "has no classifier: only the authors'"),
        (lambda state: state["state_dict"].update({"module.features.3.bias": torch.ones(128)}), r"3 \(.*bias 128\)"),
        (lambda state: state["state_dict"].pop("module.features.3.weight"), r"convolutions of \[64, 128\] channels"),
        (lambda state: state["state_dict"].update({"module.classifier.0.weight": torch.ones(9, 99)}), "dense0"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, change, sentence):
    state = {"state_dict": authors_vgg().state_dict()}
    change(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=sentence):
        loaded(tmp_path / "other.pth")


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save(torch.ones(2), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="holds a Tensor"):
        loaded(tmp_path / "tensor.pth")
