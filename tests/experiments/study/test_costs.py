"""Operations that the study counts: of layers, of spikes, and of a run's training."""

import pytest

from experiments.config import with_fields
from experiments.networks import build_ann
from experiments.presets import PRESETS
from experiments.study.costs import image_cost, learning_curve, macs_of, operations_of_training, sizes
from experiments.study.plan import STUDIES
from tests.experiments.study.conftest import CONFIG

TINY = sizes(CONFIG.data, CONFIG.network)


def test_operations_are_those_counted_by_hand():
    """VGG5 at 1/16 of the width on 8x8 images: 4, 8, 8 channels, pools after the first and the last, 16 units."""
    assert TINY.macs.to_dict() == {
        "conv0": 64 * 9 * 1 * 4,
        "conv1": 16 * 9 * 4 * 8,
        "conv2": 16 * 9 * 8 * 8,
        "dense0": 2 * 2 * 8 * 16,
        "readout": 16 * 10,
    }
    assert TINY.neurons.to_dict() == {"conv0": 256, "conv1": 128, "conv2": 128, "dense0": 16}
    assert TINY.first == ["conv0"]


def test_a_resnets_shortcuts_are_counted():
    """ResNet8 at 1/16 of the width on 32x32 images: 4 channels at 32x32 in the stem and 16x16, then 8 at 8x8."""
    config = with_fields(CONFIG, {"data.dataset": "cifar10", "network.architecture": "resnet8"})
    _, macs, neurons, _ = sizes(config.data, config.network)
    assert (macs["conv0"], macs["block1_shortcut"], macs["readout"]) == (1024 * 9 * 3 * 4, 64 * 4 * 8, 64 * 8 * 10)
    assert list(neurons.index) == list(build_ann(config).spiking_layers)


@pytest.mark.parametrize("encoding", ["poisson", "constant"])
def test_an_images_cost_is_of_its_own_spikes_and_of_the_neurons(encoding, keep):
    """Spikes of all neurons of a layer; a pool hands one on to the synapses of one pixel."""
    spikes = {net: {"conv0": 2.0, "conv1": 0.0, "conv2": 3.0, "dense0": 0.0} for net in ("converted", "hybrid")}
    runs = keep("one", 0, spikes_per_neuron=spikes, convert={"encoding": encoding, "num_steps": 4})
    image, (layers, all_spikes, energy, with_memory) = 28 * 28, image_cost(runs)
    counted = 0.5 * 4 * image * 9 * 4 if encoding == "poisson" else image * 9 * 4  # spikes, or the image itself
    conv1, dense0 = image * 4 * 2 * 9 * 8, 14 * 14 * 8 * 3 * 16
    assert layers.to_dict() == {"conv0": counted, "conv1": conv1, "conv2": 0, "dense0": dense0, "readout": 0}
    assert all_spikes == image * 4 * 2 + 14 * 14 * 8 * 3
    macs, neurons = macs_of(runs).sum(), 4 * (image * 4 + 2 * 14 * 14 * 8 + 16)
    mac, ac = (0, counted + conv1 + dense0) if encoding == "poisson" else (counted, conv1 + dense0)
    assert energy == pytest.approx((4.6 * mac + 0.9 * ac) / (4.6 * macs))
    words = 2 * mac + 3 * ac + 2 * neurons
    assert with_memory == pytest.approx((4.6 * mac + 0.9 * ac + 5 * words) / (4.6 * macs + 5 * 2 * macs))


def test_training_counts_a_backward_pass_as_two_forward_passes():
    config = with_fields(CONFIG, {"data.dataset": "fashion_mnist", "network.hidden": (), "convert.num_steps": 4})
    costs = operations_of_training(config)
    assert costs["ann epoch"] == 3 * 55_000 * sizes(config.data, config.network).macs.sum()
    assert costs["snn epoch"] == 4 * costs["ann epoch"]
    of_image, balanced = costs["ann epoch"] / (3 * 55_000), config.convert.balance_images * config.convert.balance_steps
    assert costs["conversion"] == (balanced + 2_500 * 4) * of_image  # a factor on half of the validation images
    taught = operations_of_training(with_fields(config, {"finetune.distillation": 0.5}))
    assert taught["snn epoch"] == costs["snn epoch"] + costs["ann epoch"] / 3


@pytest.mark.parametrize(("preset", "num_steps"), [("fashion_mnist_cpu", 4), ("cifar10_cpu", 8)])
def test_from_scratch_the_operations_are_the_hybrid_runs_to_half_an_epoch(preset, num_steps):
    epochs = {t.name: t.fields["finetune.epochs"] for t in STUDIES[preset]["scratch"] if "lr" not in t.name}
    config = with_fields(PRESETS[preset].config, {"convert.num_steps": num_steps})
    costs = operations_of_training(config)
    hybrid = config.ann.epochs * costs["ann epoch"] + costs["conversion"] + config.finetune.epochs * costs["snn epoch"]
    times = {name: 2 if name.endswith("long") else 3 if name.endswith("longest") else 1 for name in epochs}
    assert sorted(times.values()) == {"fashion_mnist_cpu": [1, 1, 2], "cifar10_cpu": [1, 2, 3]}[preset]
    for name, number in epochs.items():
        assert abs(number - times[name] * hybrid / costs["snn epoch"]) <= times[name] / 2


def test_a_learning_curve_begins_with_the_converted_net(keep):
    history = [{"validation_accuracy": accuracy} for accuracy in (0.53, 0.48)]
    for seed, before in enumerate((0.4, None)):  # older runs kept what chose their factor
        hybrid = {"history": history, "validation_accuracy_before": before}
        runs = keep("harm-stdb", seed, converted={"validation_accuracy": 0.5}, hybrid=hybrid)
    curves = [learning_curve(run).to_dict() for _, run in runs.iterrows()]
    assert curves == [pytest.approx({0: start, 1: 0.53, 2: 0.48}) for start in (0.4, 0.5)]
