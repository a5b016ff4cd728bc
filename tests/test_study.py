"""The study: its runs, and what it counts and measures beside theirs."""

import json
from functools import partial
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.config import check, difference, with_fields
from experiments.convert import converted_snn
from experiments.finetune import last_snn
from experiments.presets import PRESETS, Preset
from experiments.runs.command_line import guarded, parse
from experiments.runs.networks import build_ann, build_snn, encoding_of, logit_unit, random_key, scaled
from experiments.runs.records import read_results, saved_config
from experiments.runs.scoring import score_ann, score_snn
from experiments.runs.splits import open_source
from experiments.runs.workdir import Run, finish
from experiments.study import __main__ as study
from experiments.study import conversion, gradients, trials
from experiments.study.plan import STUDIES
from experiments.study.results import neurons, operations_of_training, results_path, shapes
from experiments.train_ann import trained_ann
from jsnn.data.augment import scale
from jsnn.data.datasets import TEST, VALIDATION
from jsnn.network import operations
from jsnn.network.simulation import simulate
from jsnn.network.transformation import NEURONS
from jsnn.training import diagnostics
from tests.commands import TINY, without_time


@pytest.fixture
def tiny_run(tiny):
    """The tiny run, with batches that its splits fill several times."""
    return Run(with_fields(saved_config(tiny), {"run.eval_batch_size": 32}), tiny, None)


def test_fields_are_changed_in_their_groups_alone():
    preset = PRESETS["digits"].config
    config = with_fields(preset, {"finetune.lr": 0.5, "convert.num_steps": 7})
    assert (config.finetune.lr, config.convert.num_steps, config.ann) == (0.5, 7, preset.ann)
    assert with_fields(config, {"finetune.lr": preset.finetune.lr, "convert.num_steps": 2}) == preset


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


@pytest.mark.parametrize("preset", STUDIES)
def test_all_trials_are_valid_and_take_over_an_ann_that_is_trained_as_theirs(preset):
    """A run of hours that starts from another ANN is refused only when that one is trained."""
    planned = {trial.name: trial for of_question in STUDIES[preset].values() for trial in of_question}
    planned |= {trials.ANN.name: trials.ANN}
    for trial in planned.values():
        config, of_ann = (trials.config_of_trial(preset, one, 0) for one in (trial, planned[trial.ann]))
        check(config)
        assert difference(of_ann, config, "ann") is None, trial.name


def test_silent_neurons_are_those_without_a_spike(tiny_run, monkeypatch):
    monkeypatch.setattr(gradients, "IMAGES_FOR_SILENCE", 64)
    snn, config, index = last_snn(tiny_run), tiny_run.config, jnp.arange(64)
    shares = gradients.silent_neurons(config, snn)
    source = open_source(config, VALIDATION)
    inputs = partial(encoding_of(config), scale(source.take(source.resident, index).images))
    inputs = partial(inputs, random_key(config, VALIDATION), index)
    of_steps = {"num_steps": 4, "chunk": 4, "collect": ["spikes"]}
    run = partial(
        simulate, build_snn(config), inputs=inputs, observe=lambda observed: observed.layers["spikes"], **of_steps
    )
    spikes = jax.device_get(jax.jit(run)(snn))
    assert spikes.keys() == shares["never"].keys()
    for layer, train in spikes.items():
        assert shares["never"][layer] == pytest.approx((train.max(0) == 0).mean())
        had_fired = np.concatenate([np.zeros_like(train[:1]), np.maximum.accumulate(train)[:-1]])
        assert shares["no gradient"][layer] == pytest.approx((had_fired == 0).mean())


def test_accuracies_over_streams_are_those_of_the_logits(tiny_run):
    """Of all validation images at once, by streams that training has not chosen on."""
    config, source = tiny_run.config, open_source(tiny_run.config, VALIDATION)
    index = jnp.arange(source.num_examples)
    batch, key = source.take(source.resident, index), random_key(config, VALIDATION)
    factor = read_results(tiny_run.directory)["converted"]["scaling_factor"]
    nets = {"converted": scaled(config, converted_snn(tiny_run), factor), "hybrid": last_snn(tiny_run)}
    snn = build_snn(config)

    @jax.jit
    def accuracy(variables, noise):
        spikes = encoding_of(config)(scale(batch.images), noise, index, jnp.arange(config.convert.num_steps))
        results, _ = snn.apply(variables, snn.initial_state(variables, spikes[0]), spikes)
        return (results.sum(0).argmax(-1) == batch.labels).mean()

    measured = trials.over_streams(tiny_run)
    for net, variables in nets.items():
        noises = [jax.random.fold_in(key, stream) for stream in range(config.evaluate.streams)]
        assert measured[net] == pytest.approx([float(accuracy(variables, noise)) for noise in noises])


def test_losses_are_of_the_papers_logits(tiny_run):
    """Sums over time, in units of the last layer's threshold."""
    config, source, variables = tiny_run.config, open_source(tiny_run.config, VALIDATION), last_snn(tiny_run)
    batch, key, snn = source.take(source.resident, jnp.arange(64)), random_key(config, VALIDATION), build_snn(config)

    @jax.jit
    def loss(variables):
        spikes = encoding_of(config)(scale(batch.images), key, batch.index, jnp.arange(4))
        results, _ = snn.apply(variables, snn.initial_state(variables, spikes[0]), spikes)
        logits = results.sum(0) / variables[NEURONS]["dense0"]["threshold"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()

    scores = score_snn(config, variables, 4, VALIDATION, key, images=range(64))
    assert float(scores.loss[-1]) == pytest.approx(float(loss(variables)), rel=1e-5)


def test_a_conversion_is_measured_on_the_first_stream(tiny_run):
    snn, key = converted_snn(tiny_run), random_key(tiny_run.config, TEST)
    measured = conversion.on_test(tiny_run, snn, {"3": {"1": 0.5}}, None)["3"]
    expected = float(score_snn(tiny_run.config, snn, 3, TEST, jax.random.fold_in(key, 0)).accuracy[-1])
    assert measured == {"factor_1": expected, "factor": 1, "chosen": expected}


def test_the_factor_is_the_best_on_validation_and_the_largest_of_equals(tiny_run, monkeypatch):
    def score(config, snn, num_steps, split, key, images):
        assert images is None or images == range(64)
        return SimpleNamespace(accuracy=snn + np.arange(1, num_steps + 1))

    monkeypatch.setattr(conversion, "score_snn", score)
    monkeypatch.setattr(conversion, "scaled", lambda config, snn, factor: snn * factor)
    by_factor = {"0.4": 0.7, "0.55": 0.8, "0.7": 0.8, "1": 0.6}
    measured = conversion.on_test(tiny_run, 10, {"2": by_factor, "3": {"0.4": 0.9, "1": 0.1}}, None)
    assert measured == {
        "2": {"factor_1": 12, "factor": 0.7, "chosen": 9},
        "3": {"factor_1": 13, "factor": 0.4, "chosen": 7},
    }
    swept = conversion._sweep(tiny_run, 10, (2, 3), (0.5, 1.0), 64)
    assert swept == {"2": {"0.5": 7, "1": 12}, "3": {"0.5": 8, "1": 13}}


def test_the_anns_accuracy_on_the_first_images_is_that_of_its_logits(tiny_run):
    ann, source = trained_ann(tiny_run), open_source(tiny_run.config, TEST)
    batch = source.take(source.resident, jnp.arange(64))
    logits = jax.jit(build_ann(tiny_run.config).apply)(ann, scale(batch.images))
    assert score_ann(tiny_run.config, ann, TEST, range(64)) == pytest.approx(
        float((logits.argmax(-1) == batch.labels).mean())
    )


def test_some_images_of_a_split_are_scored_alone(tiny_run):
    config = tiny_run.config
    score = partial(score_snn, config, last_snn(tiny_run), 3, TEST, random_key(config, TEST))
    part, rest, everything, more = (score(images=images) for images in (range(65), range(65, 999), None, range(10**6)))
    assert [scores.count for scores in (part, rest, everything, more)] == [65, 295, 360, 360]
    of_parts = (65 * part.accuracy + 295 * rest.accuracy) / 360
    np.testing.assert_allclose(of_parts, everything.accuracy, rtol=1e-6)


@pytest.fixture
def few_images(tiny_run, monkeypatch):
    """The tiny run with another surrogate, loss and batches; 32 images in each half of the validation split."""
    monkeypatch.setattr(gradients, "IMAGES", 32)
    monkeypatch.setattr(gradients, "BATCH", 16)
    fields = {"finetune.logit_scale": 0.5, "finetune.beta": 1.0, "data.batch_size": 16}
    return tiny_run._replace(config=with_fields(tiny_run.config, fields))


def test_steps_are_compared_for_both_surrogates_and_losses(tiny_run, monkeypatch):
    """Changes are of the calibrated loss."""
    scale_of_run = read_results(tiny_run.directory)["converted"]["logit_scale"]
    monkeypatch.setattr(gradients, "starting_snn", lambda run: "net")
    monkeypatch.setattr(gradients, "batch_gradients", lambda config, *rest: (config.finetune.surrogate, *rest))
    monkeypatch.setattr(gradients, "changes", lambda config, *rest: rest)
    assert gradients.descent(tiny_run) == {
        f"{surrogate}, {kind}": ("net", (surrogate, "net", 256, factor), scale_of_run)
        for surrogate in ("stdb", "linear")
        for kind, factor in (("plain", 1.0), ("calibrated", scale_of_run))
    }


def test_gradients_are_of_one_half_of_the_images_and_changes_of_the_other(few_images, tiny_run):
    config, snn = few_images.config, last_snn(tiny_run)
    (presentation, first, key), (_, second, _) = (gradients.validation(config, start, 32, 16) for start in (0, 32))
    assert np.array_equal(jnp.concatenate([first.index, second.index]).ravel(), np.arange(64))
    factor = 0.5 * logit_unit(config, snn)
    own = diagnostics.batch_gradients(presentation, snn, first, key, factor)
    chex.assert_trees_all_equal(gradients.batch_gradients(config, snn, 16, 0.5), own)
    score = partial(diagnostics.mean_scores, presentation, batches=second, key=key, logit_scale=factor)
    expected = diagnostics.step_changes(score, snn, own, gradients.MOVE)
    changes = gradients.changes(config, snn, own, 0.5)
    chex.assert_trees_all_close(changes, expected._asdict())


def test_agreement_is_of_the_runs_own_surrogate_and_loss_and_batches(few_images, tiny_run):
    """The mean gradient is the same however the images are batched; that of another surrogate is another."""
    config, snn = few_images.config, last_snn(tiny_run)
    more_batches = few_images._replace(config=with_fields(config, {"data.batch_size": 4}))
    few, many = (gradients.agreement(run, snn) for run in (few_images, more_batches))
    own, other = (gradients.batch_gradients(one, snn, 16, 0.5) for one in (config, tiny_run.config))
    expected = gradients.changes(config, snn, own, 0.5)["loss"]
    assert few["loss"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert many["loss"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert all(0 < many["share"][layer] < share <= 1 for layer, share in few["share"].items())
    assert not np.allclose(own["conv0"]["kernel"].mean(0), other["conv0"]["kernel"].mean(0), rtol=1e-2)


def test_nets_before_and_after_the_fine_tune_are_told_apart(tiny_run, monkeypatch):
    for name, of in (("validated", lambda _: {}), ("starting_snn", lambda _: "start"), ("last_snn", lambda _: "last")):
        monkeypatch.setattr(trials, name, of)
    for name in ("silent_neurons", "agreement"):
        monkeypatch.setattr(trials, name, lambda _, snn: snn)
    nets = {"before": "start", "after": "last"}
    assert trials.diagnosed(tiny_run) == {"silence": nets, "agreement": nets}


def main(arguments):
    """The exit status of the study's command."""
    return guarded(partial(study.study, arguments))


@pytest.fixture
def tiny_study(monkeypatch):
    """A study of two trials and the conversion, of the tiny preset."""
    monkeypatch.setitem(trials.PRESETS, "tiny", Preset("", parse("test", "", TINY).config))
    monkeypatch.setattr(conversion, "SHORT", (8,))
    monkeypatch.setattr(conversion, "LONG", (16,))
    own = (
        trials.Trial("everything", {}, trials.tested, (0,)),
        trials.Trial("leaky", {"finetune.leak": 0.5}, seeds=(0,)),
        trials.Trial("conversion", {}, partial(conversion.conversion, images=256), (0,)),
    )
    monkeypatch.setitem(study.STUDIES, "tiny", {"all": own})


def test_a_trial_runs_from_the_seeds_ann_and_only_where_nothing_is_kept(tiny_study, monkeypatch, tmp_path):
    """Which runs there are, from whose ANN and conversion each starts, and with which fields."""
    runs, numbers = [], {"validation_accuracy": 0.5, "epochs": 1, "history": []}
    numbers |= {"scaling_factor": 1.0, "logit_scale": 1.0, "thresholds": {}}

    def work(name):
        def note(run):
            for stage, net in (("train_ann", "ann"), ("convert", "converted"))[: 1 if name == "ann" else 2]:
                finish(run, stage, 1.0, {net: numbers})
            runs.append((name, run.config))
            return read_results(run.directory)

        return note

    donors = []
    monkeypatch.setattr(study, "adopt", lambda run, donor: donors.append(donor.parts[-2]))
    monkeypatch.setattr(study, "ANN", trials.ANN._replace(work=work("ann")))
    fields = {"first": {"convert.num_steps": 3}, "other": {"convert.num_steps": 2}, "leaky": {"finetune.leak": 0.5}}
    fields["leaky"] |= fields["first"]
    own = [trials.Trial(name, changed, work(name), (0, 1)) for name, changed in fields.items()]
    monkeypatch.setitem(study.STUDIES, "tiny", {"why": own[:2], "how": own[2:]})
    arguments = study.Arguments("tiny", seeds=(1,), workdir=tmp_path / "runs", results=tmp_path / "results")
    assert main(arguments) == 0
    assert [name for name, _ in runs] == ["ann", "first", "other", "leaky"]
    assert donors == ["ann", "ann", "first"]  # whose conversion is the same
    configs = dict(runs)
    assert {config.seed for config in configs.values()} == {1}
    assert configs["leaky"].finetune.leak == 0.5
    assert configs["first"] == with_fields(configs["ann"], fields["first"])
    assert results_path(arguments.results, "tiny", "leaky", 1).exists()
    assert main(arguments) == 0
    assert len(runs) == 4  # nothing runs twice


@pytest.mark.slow
def test_a_study_keeps_results_and_runs_nothing_twice(tiny_study, tiny, tmp_path, capsys):
    """Its parts are covered above; this is a whole one, with what it writes, and takes a minute to compile and run."""
    arguments = study.Arguments("tiny", workdir=tmp_path / "runs", results=tmp_path / "results")
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert output.count("ann epoch 1/3") == 1
    assert output.count("convert: taken over") == 2
    names = ("everything", "leaky", "conversion")
    kept = {n: json.loads(results_path(arguments.results, "tiny", n, 0).read_text()) for n in names}
    expected, everything, leaky = without_time(read_results(tiny)), kept["everything"], kept["leaky"]
    assert everything["hybrid"]["accuracy"] == pytest.approx(expected["hybrid"]["accuracy"], rel=1e-5)
    assert len(everything["hybrid"]["history"]) == 2
    assert 0 < everything["input_rate"] < 1
    assert leaky["config"]["finetune"]["leak"] == 0.5
    assert len(leaky["streams"]["hybrid"]) == leaky["config"]["evaluate"]["streams"]
    assert "accuracy" not in leaky["ann"]  # the test split was not looked at
    assert kept["conversion"]["ann"]["accuracy"] == pytest.approx(expected["ann"]["accuracy"], rel=1e-5)
    test = kept["conversion"]["percentiles"]["100"]
    assert set(test["validation"]) == set(test["test"]) == {"8", "16"}
    best = max(test["validation"]["8"].values())
    assert test["validation"]["8"][str(test["test"]["8"]["factor"])] == best
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""


def test_a_study_refuses_what_it_does_not_know(tiny_study, capsys):
    assert main(study.Arguments("digits")) == 2
    assert "there is no study of 'digits'" in capsys.readouterr().err
    assert main(study.Arguments("tiny", questions=("why",))) == 2
    assert "there is no question 'why', only all" in capsys.readouterr().err
    assert main(study.Arguments("tiny", seeds=(7,))) == 2
    assert "no trial has the seed 7, only 0" in capsys.readouterr().err
