"""Operations that the study counts: of layers, of spikes, and of a run's training."""

import pytest

from experiments.config import with_fields
from experiments.presets import PRESETS
from experiments.runs.networks import build_ann
from experiments.study.plan import STUDIES
from experiments.study.results import neurons, operations_of_training, shapes
from jsnn.network import operations
from tests.experiments.study.tiny_study import tiny_run

__all__ = ["tiny_run"]  # a fixture


def test_operations_are_those_counted_by_hand(tiny_run):
    """VGG5 at 1/16 of the width on 8x8 images: 4, 8, 8 channels, pools after the first and the last, 16 units."""
    assert operations.multiply_accumulates(shapes(tiny_run.config)) == {
        "conv0": 64 * 9 * 1 * 4,
        "conv1": 16 * 9 * 4 * 8,
        "conv2": 16 * 9 * 8 * 8,
        "dense0": 2 * 2 * 8 * 16,
        "readout": 16 * 10,
    }
    assert neurons(tiny_run.config) == {"conv0": 256, "conv1": 128, "conv2": 128, "dense0": 16}


def test_a_spike_costs_its_synapses(tiny_run):
    """Of all neurons of a layer: 0.5 spikes of each of the 64 pixels, 2 of each of the 256 neurons of conv0."""
    silent = operations.accumulates(shapes(tiny_run.config), {"input": 64 * 0.5})
    assert silent == {"conv0": 64 * 0.5 * 9 * 4, "conv1": 0, "conv2": 0, "dense0": 0, "readout": 0}
    costs = operations.accumulates(shapes(tiny_run.config), {"conv0": 256 * 2.0, "conv2": 128 * 3.0})
    assert costs["conv1"] == 256 * 2 * 9 * 8  # a pool hands a spike on to the synapses of one pixel
    assert costs["dense0"] == 128 * 3 * 16
    assert costs["conv0"] == costs["conv2"] == costs["readout"] == 0


def test_a_resnets_shortcuts_are_counted_and_spikes_cost_in_each_of_their_ways(tiny_run):
    """ResNet8 at 1/16 of the width on 32x32 images: 4 channels at 32x32 in the stem and 16x16, then 8 at 8x8."""
    config = with_fields(tiny_run.config, {"data.dataset": "cifar10", "network.architecture": "resnet8"})
    of_layers = shapes(config)
    macs = operations.multiply_accumulates(of_layers)
    assert (macs["conv0"], macs["block1_shortcut"], macs["readout"]) == (1024 * 9 * 3 * 4, 64 * 4 * 8, 64 * 8 * 10)
    assert list(neurons(config)) == list(build_ann(config).spiking_layers)
    costs = operations.accumulates(of_layers, {"block0_conv1": 256 * 4 * 2.0})
    assert {layer for layer, cost in costs.items() if cost} == {"block1_conv0", "block1_shortcut"}
    assert costs["block1_shortcut"] == 256 * 4 * 2 * 8 / 4  # of four pixels, one goes through
    assert costs["block1_conv0"] == 256 * 4 * 2 * 9 * 8 / 4


def test_training_counts_a_backward_pass_as_two_forward_passes(tiny_run):
    fields = {"data.dataset": "fashion_mnist", "network.hidden": (), "convert.num_steps": 4}
    config = with_fields(tiny_run.config, fields)
    costs = operations_of_training(config)
    assert costs["ann epoch"] == 3 * 55_000 * sum(operations.multiply_accumulates(shapes(config)).values())
    assert costs["snn epoch"] == 4 * costs["ann epoch"]
    of_image, balanced = costs["ann epoch"] / (3 * 55_000), config.convert.balance_images * config.convert.balance_steps
    assert costs["conversion"] == (balanced + 2_500 * 4) * of_image  # a factor on half of the validation images
    taught = operations_of_training(with_fields(config, {"finetune.distillation": 0.5}))
    assert taught["snn epoch"] == costs["snn epoch"] + costs["ann epoch"] / 3


@pytest.mark.parametrize(
    ("preset", "num_steps", "lengths"),
    [
        ("fashion_mnist_cpu", 4, {"scratch-stdb": 1, "scratch-linear": 1, "scratch-linear-long": 2}),
        ("cifar10_cpu", 8, {"scratch-linear": 1, "scratch-linear-long": 2, "scratch-linear-longest": 3}),
    ],
)
def test_from_scratch_the_operations_are_the_hybrid_runs_to_half_an_epoch(preset, num_steps, lengths):
    epochs = {t.name: t.fields["finetune.epochs"] for t in STUDIES[preset]["scratch"] if "lr" not in t.name}
    config = with_fields(PRESETS[preset].config, {"convert.num_steps": num_steps})
    costs = operations_of_training(config)
    hybrid = config.ann.epochs * costs["ann epoch"] + costs["conversion"] + config.finetune.epochs * costs["snn epoch"]
    assert epochs.keys() == lengths.keys()
    for name, times in lengths.items():
        assert abs(epochs[name] - times * hybrid / costs["snn epoch"]) <= times / 2
