"""1, 4 and 8 devices give the same training trajectory, noise, dropout and augmentation on."""

from functools import cache

import jax
import numpy as np
import pytest

from tests.experiments.commands import finish, start
from tests.training.tiny_split import SPLIT, trajectory

# Only the order of sums differs: each device adds up its part of the batch, then the devices add up. In double
# precision that is 1e-16 a sum, enlarged by Adam's division and six steps; another noise or mask would be off by
# percents. What is counted in single precision (spikes per neuron) rounds at 1e-7.
TOLERANCE = {"float64": 1e-12, "float32": 1e-6}


@cache
def trajectory_of_all_devices():
    with jax.enable_x64(True):
        return trajectory()


@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_the_trajectory_does_not_depend_on_the_number_of_devices(devices, tmp_path):
    """In a process of its own; this one has four."""
    status, output = finish(start(tmp_path / "other.npz", module="tests.training.tiny_split", devices=devices))
    assert status == 0, output
    four, other = trajectory_of_all_devices(), dict(np.load(tmp_path / "other.npz"))
    assert (jax.device_count(), other.pop("devices")) == (4, devices)
    assert four.keys() == other.keys()
    assert len(four["['losses']"]) == 6
    for name in four:
        assert four[name].dtype == other[name].dtype
        tolerance = TOLERANCE[str(four[name].dtype)]
        np.testing.assert_allclose(other[name], four[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert np.ptp(four["['losses']"]) > 0.01
    assert four["['scores'].count"] == other["['scores'].count"] == len(SPLIT.labels)
