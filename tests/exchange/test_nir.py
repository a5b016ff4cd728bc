"""NIR: an exported graph spikes as the network, by NIR's equations and in other libraries, and comes back."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsnn
from jsnn.network.transformation import NEURONS, spiking
from jsnn.neurons import hard_reset_lif, lif
from tests.exchange import nir_reference
from tests.exchange.exact_networks import BRANCHES, CHAIN, RESNET, STEPS, exact_snn, spikes_and_results
from tests.exchange.nir_reference import graph_of, nir
from tests.networks import SMALL_VGG, random_inputs, random_snn

DT = 1e-4
PLAIN, LEAKY = (CHAIN, 1.0, 0.0), (RESNET, 0.9, 0.3)
BY_CHANNEL = (BRANCHES.clone(norm_behind_pool=False), 1.0, 0.5, True)  # NIR has no constant behind a pool


@cache
def network(options, make=lif):
    """An SNN, its variables, inputs and spikes by layer, and its results, all of those [T, B, ...]."""
    _, variables, inputs = exact_snn(*options)
    snn = spiking(options[0].apply, make())
    return snn, variables, inputs, *spikes_and_results(snn, variables, inputs)


def through_a_file(graph, path):
    nir.write(path / "graph.nir", graph)
    return nir.read(path / "graph.nir")


def assert_graph_spikes(graph, inputs, spikes, suffix="_neurons"):
    """By NIR's equations every layer spikes as it does here, for each sample."""
    for sample in range(inputs.shape[1]):
        outputs = nir_reference.run(graph, inputs[:, sample], DT)
        for layer, train in spikes.items():
            np.testing.assert_array_equal(outputs[f"{layer}{suffix}"], train[:, sample], layer)
            assert 0 < train[:, sample].mean() < 1


@pytest.mark.parametrize("options", [PLAIN, LEAKY, BY_CHANNEL])
def test_an_exact_graph_is_the_network_by_nirs_equations(options, tmp_path):
    snn, variables, inputs, spikes, results = network(options)
    graph = through_a_file(jsnn.to_nir(snn, variables, inputs[0], reset="exact", pools="sum", dt=DT), tmp_path)
    assert_graph_spikes(graph, inputs, spikes, "_neurons_threshold")
    np.testing.assert_allclose(nir_reference.run(graph, inputs[:, 0], DT)["output"], results[:, 0], rtol=1e-6)


def test_metadata_name_a_soft_reset_and_where_membranes_start(tmp_path):
    snn, variables, inputs, spikes, _ = network(LEAKY)
    graph = through_a_file(jsnn.to_nir(snn, variables, inputs[0], reset="named", dt=DT), tmp_path)
    neurons = [node for node in graph.nodes.values() if isinstance(node, nir.LIF)]
    assert [node.metadata["reset"] for node in neurons] == ["subtract"] * len(spikes)
    assert_graph_spikes(graph, inputs, spikes)
    for node in neurons:
        node.metadata = {}
    with pytest.raises(AssertionError):  # a hard reset is another network
        assert_graph_spikes(graph, inputs, spikes)


def test_a_hard_reset_is_nirs_own_and_any_weights_come_back_to_the_bit(tmp_path):
    _, variables = random_snn(SMALL_VGG, seed=0, leak=0.9)
    snn, inputs = spiking(SMALL_VGG.apply, hard_reset_lif()), random_inputs(STEPS, 2)
    graph = through_a_file(jsnn.to_nir(snn, variables, inputs[0], dt=DT), tmp_path)
    assert_graph_spikes(graph, inputs, spikes_and_results(snn, variables, inputs)[0])
    _, of_graph = jsnn.from_nir(graph, DT)
    for layer, arrays in variables["params"].items():
        np.testing.assert_array_equal(of_graph["params"][layer]["kernel"], arrays["kernel"])


@pytest.mark.parametrize(
    ("options", "reset", "pools"),
    [(PLAIN, "named", "sum"), (LEAKY, "exact", "average"), (BY_CHANNEL, "exact", "average")],
)
def test_there_and_back_is_the_same_network_to_the_bit(options, reset, pools, tmp_path):
    snn, variables, inputs, spikes, _ = network(options)
    graph = through_a_file(jsnn.to_nir(snn, variables, inputs[0], reset=reset, pools=pools, dt=DT), tmp_path)
    back, of_graph = jsnn.from_nir(graph, DT)
    for layer, train in spikes_and_results(back, of_graph, inputs)[0].items():
        np.testing.assert_array_equal(train, spikes[layer.removesuffix("_neurons")])
    for layer in ("conv1", "dense0", "readout") if options is PLAIN else ():
        np.testing.assert_array_equal(of_graph["params"][layer]["kernel"], variables["params"][layer]["kernel"])
    again = jsnn.to_nir(back, of_graph, inputs[0], reset=reset, pools=pools, dt=DT)
    assert sorted(again.edges) == sorted(graph.edges)
    for name, node in graph.nodes.items():
        for field in {"weight", "bias", "tau", "r", "v_threshold", "threshold", "scale", "v_leak"} & {*vars(node)}:
            np.testing.assert_array_equal(getattr(again.nodes[name], field), getattr(node, field), f"{name} {field}")


@pytest.mark.parametrize("leak", [1.0, 0.9])
def test_initial_membranes_come_back_however_small(leak):
    snn = spiking(lambda variables, x: nn.relu(x @ variables["params"]["w"]["kernel"]))
    variables = snn.init({"params": {"w": {"kernel": jnp.eye(4)}}}, jnp.zeros((1, 4)))
    (layer,) = variables[NEURONS]
    initial = jnp.asarray([3e-5, 0.3, -0.7, 1e-3], jnp.float32)
    neurons = {"threshold": jnp.float32(0.37), "leak": jnp.float32(leak), "initial": initial}
    graph = jsnn.to_nir(snn, {**variables, NEURONS: {layer: neurons}}, jnp.zeros((1, 4)), reset="exact")
    (back,) = jsnn.from_nir(graph)[1][NEURONS].values()
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
    graph = jsnn.to_nir(snn, variables, x, reset="exact")
    assert sum(isinstance(node, nir.Affine) for node in graph.nodes.values()) == 3
    assert sum(isinstance(node, nir.LI | nir.I) for node in graph.nodes.values()) == 2
    _, of_graph = jsnn.from_nir(graph)
    assert len(jax.tree.leaves(of_graph["params"])) == len(jax.tree.leaves(variables["params"]))


def test_a_graph_of_another_library():
    """Linear without bias, a gain on the current, thresholds by neuron, a pool of sums."""
    rng, ones = np.random.default_rng(2), np.ones((3, 10, 6))
    nodes = {
        "conv": nir.Conv2d((12, 8), rng.normal(0, 1, (3, 2, 3, 3)), 1, 0, 1, 1, rng.normal(0, 0.1, 3)),
        "lif": nir.LIF(4 * DT * ones, 2 * ones, 0 * ones, rng.uniform(0.3, 0.9, ones.shape), 0 * ones),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flatten": nir.Flatten({"input": np.array([3, 5, 3])}, 0, -1),
        "fc": nir.Linear(rng.normal(0, 0.4, (7, 45))),
        "if": nir.IF(np.ones(7), np.full(7, 0.8), np.zeros(7)),
    }
    graph, inputs = graph_of(nodes, None, (2, 12, 8), (7,), checked=True), random_inputs(STEPS, 2)
    spikes, _ = spikes_and_results(*jsnn.from_nir(graph, DT), inputs)
    assert_graph_spikes(graph, inputs, {"lif": spikes["conv"], "if": spikes["fc"]}, "")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("library", "load", "leak", "pools", "dt"),
    [("snntorch.import_nir", "import_from_nir", 0.9, "average", 1e-4), ("norse.torch", "from_nir", 1.0, "sum", 1e-3)],
)
def test_other_libraries_run_a_graph_as_the_network(library, load, leak, pools, dt):
    """Step by step, by what the readout gives; snnTorch knows LIF and average pools, norse IF and pools of sums."""
    load = getattr(pytest.importorskip(library), load)
    torch = pytest.importorskip("torch")
    snn, variables, inputs, _, results = network((CHAIN, leak), hard_reset_lif)
    graph = jsnn.to_nir(snn, variables, inputs[0], pools=pools, dt=dt)
    for sample in range(inputs.shape[1]):
        module, state = load(graph), None
        for time, x in enumerate(np.moveaxis(np.asarray(inputs[:, sample]), -1, 1)):
            given = module(torch.tensor(x.copy()), *([] if state is None else [state]))
            result, state = given if isinstance(given, tuple) else (given, None)
            np.testing.assert_allclose(result.detach().numpy(), results[time, sample], rtol=1e-4, atol=1e-6)
    assert np.ptp(results) > 0.01
