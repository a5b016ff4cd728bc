"""NIR: an exported graph spikes as the network, by NIR's equations and in other libraries, and comes back."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.network.recording import record
from jsnn.network.simulation import simulate
from jsnn.network.transformation import NEURONS, spiking
from jsnn.neurons import hard_reset_lif, lif
from tests.networks import ONE_IMAGE, SMALL_RESNET, SMALL_VGG, random_inputs, random_snn

nir = pytest.importorskip("nir")

from jsnn.exchange.from_nir import from_nir  # noqa: E402
from jsnn.exchange.to_nir import to_nir  # noqa: E402
from tests.exchange import nir_reference  # noqa: E402

STEPS, DT = 12, 1e-4
INPUTS = random_inputs(STEPS, 2)


@cache
def network(ann, leak, initial=0.0, make=lif):
    """An SNN, its variables and the spikes of its layers, [T, B, ...]."""
    snn, variables = random_snn(ann, seed=0, leak=leak)
    neurons = {name: {**one, "initial": jnp.float32(initial)} for name, one in variables[NEURONS].items()}
    snn, variables = spiking(ann.apply, make()), {**variables, NEURONS: neurons}
    return snn, variables, spikes_of(snn, variables)


def spikes_of(snn, variables):
    return {
        layer: np.asarray(x)
        for layer, x in record(snn, variables, INPUTS.__getitem__, num_steps=STEPS)["spikes"].items()
    }


def through_a_file(graph, path):
    nir.write(path / "graph.nir", graph)
    return nir.read(path / "graph.nir")


def assert_graph_spikes(graph, spikes, suffix=""):
    """By NIR's equations every layer spikes as it does here, for each sample."""
    for sample in range(INPUTS.shape[1]):
        outputs = nir_reference.run(graph, np.moveaxis(np.asarray(INPUTS[:, sample]), -1, 1), DT)
        for layer, train in spikes.items():
            expected = np.moveaxis(train[:, sample], -1, 1)
            np.testing.assert_array_equal(outputs[f"{layer}_neurons{suffix}"].reshape(expected.shape), expected, layer)
            assert 0 < expected.mean() < 1


@pytest.mark.parametrize(("ann", "leak", "initial"), [(SMALL_VGG, 1.0, 0.0), (SMALL_RESNET, 0.9, 0.3)])
def test_an_exact_graph_is_the_network_by_nirs_equations(ann, leak, initial, tmp_path):
    snn, variables, spikes = network(ann, leak, initial)
    graph = to_nir(snn, variables, ONE_IMAGE, reset="exact", pools="sum", dt=DT)
    assert_graph_spikes(through_a_file(graph, tmp_path), spikes, "_threshold")


def test_metadata_name_a_soft_reset_and_where_membranes_start(tmp_path):
    snn, variables, spikes = network(SMALL_RESNET, 0.9, 0.3)
    graph = through_a_file(to_nir(snn, variables, ONE_IMAGE, reset="named", dt=DT), tmp_path)
    neurons = [node for node in graph.nodes.values() if isinstance(node, nir.LIF)]
    assert [node.metadata["reset"] for node in neurons] == ["subtract"] * len(spikes)
    assert_graph_spikes(graph, spikes)
    for node in neurons:
        node.metadata = {}
    with pytest.raises(AssertionError):  # a hard reset is another network
        assert_graph_spikes(graph, spikes)


def test_a_hard_reset_is_nirs_own():
    snn, variables, spikes = network(SMALL_VGG, 0.9, make=hard_reset_lif)
    assert_graph_spikes(to_nir(snn, variables, ONE_IMAGE, dt=DT), spikes)


@pytest.mark.parametrize(
    ("ann", "leak", "initial", "reset", "pools"),
    [(SMALL_VGG, 1.0, 0.0, "named", "sum"), (SMALL_RESNET, 0.9, 0.3, "exact", "average")],
)
def test_there_and_back_is_the_same_network_to_the_bit(ann, leak, initial, reset, pools, tmp_path):
    snn, variables, spikes = network(ann, leak, initial)
    graph = through_a_file(to_nir(snn, variables, ONE_IMAGE, reset=reset, pools=pools, dt=DT), tmp_path)
    back, of_graph = from_nir(graph, DT)
    for layer, train in spikes_of(back, of_graph).items():
        np.testing.assert_array_equal(train, spikes[layer.removesuffix("_neurons")])
    for layer, arrays in variables["params"].items():
        np.testing.assert_array_equal(of_graph["params"][layer]["kernel"], arrays["kernel"])
    again = to_nir(back, of_graph, ONE_IMAGE, reset=reset, pools=pools, dt=DT)
    assert sorted(again.edges) == sorted(graph.edges)
    for name, node in graph.nodes.items():
        for field in {"weight", "bias", "tau", "r", "v_threshold", "threshold", "scale", "v_leak"} & {*vars(node)}:
            np.testing.assert_array_equal(getattr(again.nodes[name], field), getattr(node, field), f"{name} {field}")


class Own(nn.Module):
    """Batch norm, biases, a grouped and dilated convolution, and a sum of one value with itself."""

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3), strides=2)(x))
        x = nn.relu(x)
        x = nn.relu(nn.Conv(6, (3, 3), feature_group_count=2, kernel_dilation=2)(x) * 0.5)
        return nn.Dense(3)(nn.avg_pool(x + x, (2, 2), (2, 2)).reshape(len(x), -1))


def test_a_network_of_the_users_own():
    ann, rng = Own(), np.random.default_rng(1)
    shapes = jax.eval_shape(ann.init, jax.random.key(0), ONE_IMAGE)
    drawn = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.2, 0.6, leaf.shape), jnp.float32), shapes["batch_stats"]
    )
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes["params"])
    snn = spiking(ann.apply)
    variables = snn.init({"params": params, "batch_stats": drawn}, jnp.zeros(ONE_IMAGE.shape))
    first, second = variables[NEURONS]
    by_channel = jnp.asarray(rng.uniform(0.5, 1.5, 4), jnp.float32)
    neurons = {**variables[NEURONS], first: {**variables[NEURONS][first], "threshold": by_channel}}
    spikes = spikes_of(snn, {**variables, NEURONS: neurons})
    graph = to_nir(snn, {**variables, NEURONS: neurons}, ONE_IMAGE, reset="exact", dt=DT)
    assert_graph_spikes(graph, spikes, "_threshold")
    back = spikes_of(*from_nir(graph, DT))
    for train, expected in zip(back.values(), (spikes[first], spikes[second]), strict=True):
        np.testing.assert_array_equal(train, expected)


@pytest.mark.parametrize("leak", [1.0, 0.9])
def test_initial_membranes_come_back_however_small(leak):
    snn = spiking(lambda variables, x: nn.relu(x @ variables["params"]["w"]["kernel"]))
    variables = snn.init({"params": {"w": {"kernel": jnp.eye(4)}}}, jnp.zeros((1, 4)))
    (layer,) = variables[NEURONS]
    initial = jnp.asarray([3e-5, 0.3, -0.7, 1e-3], jnp.float32)
    neurons = {"threshold": jnp.float32(0.37), "leak": jnp.float32(leak), "initial": initial}
    graph = to_nir(snn, {**variables, NEURONS: {layer: neurons}}, jnp.zeros((1, 4)), reset="exact")
    (back,) = from_nir(graph)[1][NEURONS].values()
    for name, value in neurons.items():
        np.testing.assert_array_equal(back[name], value)


def test_no_node_takes_the_name_of_another():
    class Named(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(5, name="input")(x))
            return nn.Dense(5, name="input_neurons_reset")(nn.relu(nn.Dense(5, name="output")(x) + x))

    ann, x = Named(), jnp.ones((1, 5))
    snn = spiking(ann.apply)
    variables = snn.init(ann.init(jax.random.key(0), x), x)
    graph = to_nir(snn, variables, x, reset="exact")
    assert sum(isinstance(node, nir.Affine) for node in graph.nodes.values()) == 3
    assert sum(isinstance(node, nir.LI | nir.I) for node in graph.nodes.values()) == 2
    _, of_graph = from_nir(graph)
    assert len(jax.tree.leaves(of_graph["params"])) == len(jax.tree.leaves(variables["params"]))


def test_a_graph_of_another_library():
    """Linear without bias, a gain on the current, thresholds by neuron, a pool of sums."""
    rng = np.random.default_rng(2)
    tau, ones = np.full((3, 10, 6), 4 * DT), np.ones((3, 10, 6))
    lossy = nir.LIF(tau, 2 * ones, 0 * ones, rng.uniform(0.3, 0.9, ones.shape), 0 * ones)
    nodes = {
        "input": nir.Input({"input": np.array([2, 12, 8])}),
        "conv": nir.Conv2d((12, 8), rng.normal(0, 1, (3, 2, 3, 3)), 1, 0, 1, 1, rng.normal(0, 0.1, 3)),
        "lif": lossy,
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flatten": nir.Flatten({"input": np.array([3, 5, 3])}, 0, -1),
        "fc": nir.Linear(rng.normal(0, 0.4, (7, 45))),
        "if": nir.IF(np.ones(7), np.full(7, 0.8), np.zeros(7)),
        "output": nir.Output({"output": np.array([7])}),
    }
    graph = nir.NIRGraph(nodes, [*zip(nodes, [*nodes][1:], strict=False)])
    trains = dict(zip(("lif", "if"), spikes_of(*from_nir(graph, DT)).values(), strict=True))
    for sample in range(INPUTS.shape[1]):
        outputs = nir_reference.run(graph, np.moveaxis(np.asarray(INPUTS[:, sample]), -1, 1), DT)
        for name, train in trains.items():
            np.testing.assert_array_equal(np.moveaxis(train[:, sample], -1, 1), outputs[name])
            assert 0 < outputs[name].mean() < 1


def in_snntorch(graph):
    return pytest.importorskip("snntorch.import_nir").import_from_nir(graph)


def in_norse(graph):
    return pytest.importorskip("norse.torch").from_nir(graph)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("load", "leak", "pools", "dt"), [(in_snntorch, 0.9, "average", 1e-4), (in_norse, 1.0, "sum", 1e-3)]
)
def test_other_libraries_run_a_graph_as_the_network(load, leak, pools, dt):
    """Step by step, by what the readout gives; snnTorch knows LIF and average pools, norse IF and pools of sums."""
    torch = pytest.importorskip("torch")
    snn, variables, _ = network(SMALL_VGG, leak, make=hard_reset_lif)
    shown = simulate(
        snn, variables, INPUTS.__getitem__, lambda observed: observed.results, num_steps=STEPS, chunk=STEPS
    )
    graph = to_nir(snn, variables, ONE_IMAGE, pools=pools, dt=dt)
    for sample in range(INPUTS.shape[1]):
        module, state = load(graph), None
        for time, x in enumerate(np.moveaxis(np.asarray(INPUTS[:, sample]), -1, 1)):
            given = module(torch.tensor(x.copy()), *([] if state is None else [state]))
            result, state = given if isinstance(given, tuple) else (given, None)
            np.testing.assert_allclose(result.detach().numpy(), shown[time, sample], rtol=1e-4, atol=1e-6)
    assert np.ptp(shown) > 0.01
