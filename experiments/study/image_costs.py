"""What an image costs a fine-tuned net: spikes, operations by layer, and energy beside its ANN's."""

from statistics import mean
from typing import NamedTuple

from pandas import DataFrame, Series

from experiments.fields import Config
from experiments.study import results
from experiments.study.tables import SPIKES
from jsnn.network import operations

PICOJOULES_SRAM = 5.0  # a 32-bit word of a small SRAM at 45 nm (Horowitz, ISSCC 2014)
WORDS_MAC, WORDS_AC, WORDS_NEURON = 2, 3, 2  # a weight and an input; a weight, and a membrane read and written


class ImageCost(NamedTuple):
    """The mean cost of an image.

    Attributes:
        operations: by layer, multiply-accumulates of the first one, which sees the image, and accumulates.
        spikes: of all neurons.
        energy: of the operations alone, 1 for the ANN's.
        with_memory: of the words that are read and written, too, 1 for the ANN's.
    """

    operations: Series
    spikes: float
    energy: float
    with_memory: float


def ann_operations(config: Config) -> Series:
    """Multiply-accumulates of an image by layer of a config's ANN."""
    return Series(operations.multiply_accumulates(results.shapes(config)))


def image_cost(runs: DataFrame) -> ImageCost:
    """The mean cost in runs of one config whose inputs are currents, but for their seeds."""
    config = runs.config.iloc[0]
    shapes, neurons, ann = results.shapes(config), Series(results.neurons(config)), ann_operations(config)
    spikes = results.measurements(runs, SPIKES)
    of_layer = spikes[spikes.net == "hybrid"].groupby("layer", sort=False).value.agg(mean) * neurons
    synapses = Series(operations.accumulates(shapes, of_layer))
    first = ann[[name for name, shape in shapes.items() if shape.feeds == (operations.INPUT,)]]
    of_ann = _energies(mac=ann.sum())
    own = _energies(mac=first.sum(), ac=synapses.sum(), neuron=config.convert.num_steps * neurons.sum())
    shares = (cost / of_cost for cost, of_cost in zip(own, of_ann, strict=True))
    return ImageCost(synapses.add(first, fill_value=0)[ann.index], of_layer.sum(), *shares)


def _energies(mac: float, ac: float = 0.0, neuron: float = 0.0) -> tuple[float, float]:
    """Picojoules of operations alone, and with the words that they read and write."""
    alone = mac * operations.PICOJOULES_MAC + ac * operations.PICOJOULES_AC
    words = mac * WORDS_MAC + ac * WORDS_AC + neuron * WORDS_NEURON
    return alone, alone + words * PICOJOULES_SRAM
