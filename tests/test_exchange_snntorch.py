"""Networks in snnTorch spike as they do here, to the last spike."""

import numpy as np
import pytest

import jsnn
from tests.exchange import BRANCHES, CHAIN, RESNET, exact_snn, spikes_and_results

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
utils = pytest.importorskip("snntorch.utils")


def channels_first(x):
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1) if x.ndim == 4 else np.asarray(x))


def channels_last(x):
    return np.moveaxis(x.numpy(), 1, -1) if x.ndim == 4 else x.numpy()


def presented(module, inputs, neurons):
    """Submodule -> spikes [T, B, ...], and the results [T, B, ...], of one presentation."""
    seen = {name: [] for name in neurons}
    hooks = [
        getattr(module, name).register_forward_hook(
            lambda _, __, output, name=name: seen[name].append(channels_last(output) > 0)
        )
        for name in neurons
    ]
    utils.reset(module)
    with torch.no_grad():
        results = [channels_last(module(channels_first(x))) for x in inputs]
    for hook in hooks:
        hook.remove()
    return {name: np.stack(spikes) for name, spikes in seen.items()}, np.stack(results)


@pytest.mark.parametrize(
    ("ann", "options"),
    [
        (CHAIN, {}),
        (CHAIN, {"leak": 0.9}),
        (BRANCHES, {"initial": 0.5, "by_channel": True}),
        (RESNET, {"leak": 0.5, "initial": 0.5}),
    ],
    ids=["chain", "leaky chain", "branches", "resnet"],
)
def test_every_spike_is_the_same(ann, options):
    snn, variables, inputs = exact_snn(ann, **options)
    module = jsnn.to_snntorch(snn, variables, inputs[0])
    expected, results = spikes_and_results(snn, variables, inputs)
    names = {name: f"{name}_neurons" for name in expected}
    for _ in range(2):  # a presentation leaves nothing behind
        found, output = presented(module, inputs, names.values())
        for name, spikes in expected.items():
            np.testing.assert_array_equal(found[names[name]], spikes, err_msg=name)
            assert 0.02 < spikes.mean() < 0.98, name
        np.testing.assert_allclose(output, results, rtol=1e-5, atol=1e-6)
