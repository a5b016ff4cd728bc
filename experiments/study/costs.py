"""What networks cost: operations of a run's training; spikes, operations and energy of an image beside the ANN's."""

from functools import cache, partial
from statistics import mean
from typing import NamedTuple

import jax
import pandas as pd
from pandas import DataFrame, Series

from experiments.convert import FACTORS
from experiments.fields import AUTO, Config, Data, Network
from experiments.networks import build_ann, build_snn, init_variables
from experiments.study.results import measurements
from jsnn.data.datasets import info
from jsnn.network import operations
from jsnn.network.operations import INPUT, PICOJOULES_AC, PICOJOULES_MAC, LayerShape

TRAINING_IMAGES, VALIDATION_IMAGES = {"fashion_mnist": 55_000, "cifar10": 45_000}, 5_000  # of the splits
FOR_CHOICES = VALIDATION_IMAGES // 2  # which choose a conversion's factor; in runs of older versions all did
PICOJOULES_SRAM = 5.0  # a 32-bit word of a small SRAM at 45 nm (Horowitz, ISSCC 2014)
WORDS_MAC, WORDS_AC, WORDS_NEURON = 2, 3, 2  # a weight and an input; a weight, and a membrane read and written
SPIKES = "spikes_per_neuron/(?P<net>.+)/(?P<layer>.+)"


class Sizes(NamedTuple):
    """What a network's layers have, for one image."""

    shapes: dict[str, LayerShape]  # of those with weights
    macs: Series  # by layer with weights, multiply-accumulates of the ANN, or of a step of its SNN on dense hardware
    neurons: Series  # by layer of neurons, their number
    first: list[str]  # the layers that see the image


@cache
def sizes(data: Data, network: Network) -> Sizes:
    """The sizes of the layers of a network for a data set."""
    config = Config(data=data, network=network)
    variables = jax.eval_shape(partial(init_variables, config, "init"))
    image = jax.ShapeDtypeStruct((1, *info(config.data.dataset).image_shape), "float32")
    shapes = operations.layer_shapes(build_ann(config).apply, variables, image)
    neurons = operations.neurons(build_snn(config).trace(variables, image)[0].layers)
    first = [name for name, shape in shapes.items() if shape.feeds == (INPUT,)]
    return Sizes(shapes, Series(operations.multiply_accumulates(shapes)), Series(neurons), first)


def macs_of(runs: DataFrame) -> Series:
    """Multiply-accumulates of an image by layer of the ANN in runs of one network."""
    return sizes(runs.config.iloc[0].data, runs.config.iloc[0].network).macs


def operations_of_training(config: Config, images_for_choices: int = FOR_CHOICES) -> dict[str, float]:
    """Multiply-accumulates as jsnn executes them; a backward pass counts as two forward passes, a teacher as one."""
    convert, images, size = config.convert, TRAINING_IMAGES[config.data.dataset], sizes(config.data, config.network)
    of_image = int(size.macs.sum())
    # Of an image that is the current itself, what comes before the first neurons is computed once in a few steps.
    once = int(size.macs[size.first].sum()) if convert.encoding == "constant" else 0
    presentation = convert.num_steps * of_image - (convert.num_steps - 1) * once
    tried = (len(FACTORS) if convert.scaling_factor == AUTO else 1) * images_for_choices * presentation
    balanced = 0 if config.network.levels else convert.balance_images * convert.balance_steps * of_image
    taught = images * of_image if config.finetune.distillation else 0
    snn = 3.0 * images * presentation + taught
    return {"ann epoch": 3.0 * images * of_image, "conversion": tried + balanced, "snn epoch": snn}


def learning_curve(run: Series) -> Series:
    """Epoch of the SNN -> validation accuracy after it; 0 is the converted net, where the run starts from it."""
    # Runs of older versions kept no accuracy before, but the one on all images, which chose the factor.
    of_start = run.reindex(["hybrid/validation_accuracy_before", "converted/validation_accuracy"]).bfill().iloc[0]
    before = [] if run.config.finetune.start == "scratch" else [of_start]
    after = [epoch["validation_accuracy"] for epoch in run["hybrid/history"]]
    return Series([*before, *after], range(1 - len(before), 1 + len(after)))


def by_operations(run: Series) -> Series:
    """The `learning_curve` by operations of training so far [10^12 MAC], with those of the ANN and the conversion."""
    is_old, curve = pd.isna(run.get("hybrid/validation_accuracy_before")), learning_curve(run)
    costs = operations_of_training(run.config, VALIDATION_IMAGES if is_old else FOR_CHOICES)
    before = run["ann/epochs"] * costs["ann epoch"] + costs["conversion"] if 0 in curve else 0.0
    return curve.rename(lambda epoch: (before + epoch * costs["snn epoch"]) / 1e12)


def image_cost(runs: DataFrame, net: str = "hybrid") -> tuple[Series, float, float, float]:
    """The mean cost of an image: operations by layer, spikes, energy without memory and with it, in the ANN's."""
    config, spikes = runs.config.iloc[0], measurements(runs, SPIKES).query("net == @net")
    (shapes, macs, neurons, first), num_steps = sizes(config.data, config.network), config.convert.num_steps
    of_layer = spikes.groupby("layer", sort=False).value.agg(mean) * neurons
    arriving = dict(of_layer)
    if config.convert.encoding == "poisson":
        arriving[INPUT], first = num_steps * mean(runs.input_rate) * shapes[first[0]].inputs, []
    synapses = Series(operations.accumulates(shapes, arriving))
    own, of_ann = energies(macs[first].sum(), synapses.sum(), num_steps * neurons.sum()), energies(macs.sum())
    layers = synapses.add(macs[first], fill_value=0)[macs.index]
    return layers, of_layer.sum(), own[0] / of_ann[0], own[1] / of_ann[1]


def energies(mac: float, ac: float = 0.0, neuron: float = 0.0) -> tuple[float, float]:
    """Picojoules of operations alone, and with the words that they read and write."""
    alone = mac * PICOJOULES_MAC + ac * PICOJOULES_AC
    words = mac * WORDS_MAC + ac * WORDS_AC + neuron * WORDS_NEURON
    return alone, alone + words * PICOJOULES_SRAM
