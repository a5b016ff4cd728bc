"""A spiking network is saved as one file, which runs without the code of its model; any other file is refused."""

from io import BytesIO
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsnn
from tests.network.own_network import KEY, STEPS, spiking

RNG = np.random.default_rng(5)
WEIGHTS, X = RNG.normal(size=(3, 3)), RNG.normal(size=(2, 3))
SPIKES = jnp.asarray(RNG.choice([-1, 0, 1], (STEPS, 2, 6, 6, 2)), jnp.float32)


def network(variables, x):
    return jax.nn.relu(x @ variables["w"]) @ variables["w"] * (2 if variables.get("is_doubled") else 1)


def converted(variables, dtype):
    """The network of some variables as an SNN, its variables and inputs over time."""
    snn, x = jsnn.spiking(network), jnp.asarray(X, dtype)
    return snn, snn.init({"w": jnp.asarray(WEIGHTS, dtype), **variables}, x), jnp.stack([x] * STEPS)


NETWORKS = {
    "of Flax": (lambda: (*spiking(), SPIKES), {"rtol": 1e-5, "atol": 1e-6}),
    "in bfloat16, with a key as NNX's dropout has": (lambda: converted({"rngs": KEY}, jnp.bfloat16), {"rtol": 0}),
    "with a variable that is no array": (lambda: converted({"is_doubled": True}, jnp.float32), {"rtol": 1e-6}),
}


@pytest.mark.parametrize(("network", "tolerance"), NETWORKS.values(), ids=NETWORKS)
def test_a_saved_network_gives_the_same_results(network, tolerance, tmp_path):
    snn, variables, inputs = network()
    jsnn.save(tmp_path / "net.npz", snn, variables, inputs)
    assert [path.name for path in tmp_path.iterdir()] == ["net.npz"]
    actual = jsnn.load(tmp_path / "net.npz")(inputs)
    state = snn.initial_state(variables, inputs[0])
    expected = jax.jit(lambda inputs: snn.apply(variables, state, inputs)[0])(inputs)
    assert actual.dtype == expected.dtype
    assert np.any(expected)
    np.testing.assert_allclose(np.asarray(actual, np.float32), np.asarray(expected, np.float32), **tolerance)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a file that holds a small network for inputs [2, 1, 3]."""
    path, snn = tmp_path_factory.mktemp("saved") / "net", jsnn.spiking(lambda v, x: jax.nn.relu(x @ v["w"]))
    inputs = jnp.ones((2, 1, 3))
    jsnn.save(path, snn, snn.init({"w": jnp.eye(3)}, inputs[0]), inputs)
    return path.read_bytes()


def test_a_file_takes_inputs_of_one_shape(content, tmp_path):
    (tmp_path / "net").write_bytes(content)
    run = jsnn.load(tmp_path / "net")
    assert run(jnp.ones((2, 1, 3))).shape == (2, 1, 3)
    for inputs in (jnp.ones((1, 3)), jnp.ones((2, 2, 3)), jnp.ones((2, 1, 3), int)):
        with pytest.raises(ValueError, match=r"net was saved for inputs \[T, B, ...\] of \(2, 1, 3\) float32, got"):
            run(inputs)
    with pytest.raises(ValueError, match="inputs must be one array, got a dict"):
        run({"x": jnp.ones((2, 1, 3))})


def test_a_folder_is_refused_and_nothing_is_left_beside_it(tmp_path):
    with pytest.raises(ValueError, match="is a folder: name a file in it"):
        jsnn.save(tmp_path, *spiking(), SPIKES)
    assert not list(tmp_path.parent.glob("*.part"))


def of_numpy(write):
    write(file := BytesIO(), X)
    return file.getvalue()


def test_a_file_that_holds_no_network_is_refused(content, tmp_path):
    for other in (b"", content[: len(content) // 2], of_numpy(np.save), of_numpy(np.savez)):
        (tmp_path / "net.npz").write_bytes(other)
        with pytest.raises(ValueError, match=r"net\.npz holds no network, or is damaged: write it with jsnn.save"):
            jsnn.load(tmp_path / "net.npz")


def test_a_file_with_any_byte_damaged_is_refused_or_read(content, tmp_path):
    """In a sentence, whatever the bytes lead to: zip, NumPy and jax.export raise a dozen kinds of errors."""
    path, refused = tmp_path / "net.npz", 0
    places = [*range(0, len(content) - 30, 23), *range(len(content) - 30, len(content))]  # zip's directory ends it
    for place, bits in product(places, (1, 0xFF)):
        path.write_bytes(content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :])
        try:
            jsnn.load(path)
        except ValueError as error:
            refused += "holds no network, or is damaged" in str(error)
    assert refused > len(places)
    with pytest.raises(FileNotFoundError):
        jsnn.load(tmp_path / "other.npz")
