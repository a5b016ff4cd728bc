"""1, 2, 4 and 8 devices give the same training trajectory, noise, dropout and augmentation on."""

import numpy as np
import pytest

from tests.commands import finish, start
from tests.trajectory import SAMPLES

DEVICES = (1, 2, 4, 8)
# Only the order of sums differs: each device adds up its part of the batch, then the devices add up. In double
# precision that is 1e-16 a sum, enlarged by Adam's division and six steps; another noise or mask would be off by
# percents. What is counted in single precision (spikes per neuron) rounds at 1e-7.
TOLERANCE = {"float64": 1e-12, "float32": 1e-6}


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    """What tests.trajectory finds on each number of devices."""
    folder, found = tmp_path_factory.mktemp("trajectories"), {}
    processes = {n: start(folder / f"{n}.npz", module="tests.trajectory", devices=n) for n in DEVICES}
    for devices, process in processes.items():
        status, output = finish(process)
        assert status == 0, output
        found[devices] = dict(np.load(folder / f"{devices}.npz"))
        assert found[devices].pop("devices") == devices
    return found


@pytest.mark.slow
@pytest.mark.parametrize("devices", DEVICES[1:])
def test_the_trajectory_does_not_depend_on_the_number_of_devices(devices, trajectories):
    one, many = trajectories[1], trajectories[devices]
    assert one.keys() == many.keys()
    assert len(one["['losses']"]) == 6
    for name in one:
        assert one[name].dtype == many[name].dtype
        tolerance = TOLERANCE[str(one[name].dtype)]
        np.testing.assert_allclose(many[name], one[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert np.ptp(one["['losses']"]) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("devices", DEVICES)
def test_every_sample_of_an_uneven_last_batch_counts_once(devices, trajectories):
    assert trajectories[devices]["['scores'].count"] == SAMPLES
