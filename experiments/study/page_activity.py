"""Question d: spikes by layer of the converted and the hybrid net, and what they cost beside the ANN."""

from collections.abc import Mapping, Sequence
from statistics import mean

from experiments.config import from_json
from experiments.reports.table import aligned
from experiments.runs.workdir import Results
from experiments.study.numbers import spread
from experiments.study.operations import PICOJOULES_AC, PICOJOULES_MAC, accumulates, macs, neurons
from experiments.study.results import read_seeds

NETS = ("converted", "hybrid")


def activity_table(preset: str, trials: Sequence[str]) -> str:
    """Spikes per neuron by layer, converted against hybrid at the same T and factor.

    Args:
        preset: whose study it is.
        trials: the runs to look at.

    Returns:
        A Markdown table.
    """
    layers = list(read_seeds(preset, trials[0])[0]["spikes_per_neuron"]["hybrid"])
    rows = [["spikes per neuron and image", *layers, "all neurons"]]
    for trial in trials:
        results = read_seeds(preset, trial)
        config = results[0]["config"]
        name = f"T = {config['num_steps']}, {config['surrogate']}"
        converted, hybrid = ([_spikes(run, net) for run in results] for net in NETS)
        for net, spikes in zip(NETS, (converted, hybrid), strict=True):
            rows.append([f"{name}: {net}", *(spread(column, 3) for column in zip(*spikes, strict=True))])
        ratios = [[c / h for c, h in zip(*pair, strict=True)] for pair in zip(converted, hybrid, strict=True)]
        rows.append([f"{name}: converted / hybrid", *(spread(column) for column in zip(*ratios, strict=True))])
    return aligned(rows)


def operations_table(preset: str, trials: Sequence[str]) -> str:
    """Accumulates of the SNN beside the ANN's multiply-accumulates, by layer and in all, and where they break even.

    Args:
        preset: whose study it is.
        trials: the runs to look at.

    Returns:
        A Markdown table.
    """
    first = read_seeds(preset, trials[0])
    of_ann = macs(from_json(first[0]["config"]))
    header = [
        "operations for an image [10^3]",
        *of_ann,
        "all",
        "of the ANN's",
        "energy of the ANN's",
        "energy even at T =",
    ]
    rows = [header, ["ANN, MAC", *_thousands(of_ann), "1", "1", ""]]
    for trial in trials:
        results = read_seeds(preset, trial)
        num_steps = results[0]["config"]["convert"]["num_steps"]
        for net in NETS:
            costs = [_accumulates(run, net) for run in results]
            cost = {layer: mean(c[layer] for c in costs) for layer in of_ann}
            share = sum(cost.values()) / sum(of_ann.values())
            energy = share * PICOJOULES_AC / PICOJOULES_MAC
            cells = [*_thousands(cost), f"{share:.2f}", f"{energy:.2f}", f"{num_steps / energy:.0f}"]
            rows.append([f"{net}, T = {num_steps}, AC", *cells])
    return aligned(rows)


def _accumulates(run: Results, net: str) -> dict[str, float]:
    config = from_json(run["config"])
    return accumulates(config, run["spikes_per_neuron"][net], run["input_rate"] * config.convert.num_steps)


def _spikes(run: Results, net: str) -> list[float]:
    """Spikes per neuron of each layer, and of all neurons of the net."""
    of_layer, counts = neurons(from_json(run["config"])), run["spikes_per_neuron"][net]
    return [*counts.values(), sum(counts[layer] * of_layer[layer] for layer in counts) / sum(of_layer.values())]


def _thousands(costs: Mapping[str, float]) -> list[str]:
    return [f"{cost / 1e3:.0f}" for cost in (*costs.values(), sum(costs.values()))]
