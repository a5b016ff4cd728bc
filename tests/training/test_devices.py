"""1, 4 and 8 devices give the same training trajectory, noise, dropout and augmentation on."""

from functools import cache

import jax
import numpy as np
import pytest

from tests.experiments.commands import finish, start
from tests.training.trajectory import SAMPLES, trajectory

DEVICES = (1, 4, pytest.param(8, marks=pytest.mark.slow))
# Only the order of sums differs: each device adds up its part of the batch, then the devices add up. In double
# precision that is 1e-16 a sum, enlarged by Adam's division and six steps; another noise or mask would be off by
# percents. What is counted in single precision (spikes per neuron) rounds at 1e-7.
TOLERANCE = {"float64": 1e-12, "float32": 1e-6}


@pytest.fixture(scope="module")
def trajectory_on(tmp_path_factory):
    """The trajectory on a number of devices, by a process of its own unless this one has so many."""
    folder = tmp_path_factory.mktemp("trajectories")

    @cache
    def trajectory_of(devices):
        if devices == jax.device_count():
            with jax.enable_x64(True):
                return trajectory()
        status, output = finish(start(folder / f"{devices}.npz", module="tests.training.trajectory", devices=devices))
        assert status == 0, output
        arrays = dict(np.load(folder / f"{devices}.npz"))
        assert arrays.pop("devices") == devices
        return arrays

    return trajectory_of


@pytest.mark.parametrize("devices", DEVICES[1:])
def test_the_trajectory_does_not_depend_on_the_number_of_devices(devices, trajectory_on):
    one, many = trajectory_on(1), trajectory_on(devices)
    assert one.keys() == many.keys()
    assert len(one["['losses']"]) == 6
    for name in one:
        assert one[name].dtype == many[name].dtype
        tolerance = TOLERANCE[str(one[name].dtype)]
        np.testing.assert_allclose(many[name], one[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert np.ptp(one["['losses']"]) > 0.01


@pytest.mark.parametrize("devices", DEVICES)
def test_every_sample_of_an_uneven_last_batch_counts_once(devices, trajectory_on):
    assert trajectory_on(devices)["['scores'].count"] == SAMPLES
