"""The study: its runs, what it counts, and what its tables make of results."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments.runs.presentation import present

from experiments.convert import converted_snn
from experiments.evaluate import score_ann
from experiments.finetune import finetuned_snn, last_snn
from experiments.presets import PRESETS
from experiments.runs.command_line import parse
from experiments.runs.networks import build_ann, build_snn, encoding_of, open_source, random_key
from experiments.runs.workdir import Run, read_results, saved_config
from experiments.study import __main__ as study
from experiments.study import accuracy, agreement, conversion, descent, operations, page, plan, silence
from experiments.study.results import results_path
from experiments.train_ann import trained_ann
from jsnn.augment import scale
from jsnn.conversion import scale_thresholds
from jsnn.datasets import TEST, VALIDATION
from jsnn.simulation import simulate
from jsnn.surrogate import stdb
from tests.commands import TINY, without_time


@pytest.fixture
def tiny_run(tiny):
    return Run(saved_config(tiny), tiny, None)


def test_operations_are_those_counted_by_hand(tiny_run):
    """VGG5 at 1/16 of the width on 8x8 images: 4, 8, 8 channels, pools after the first and the last, 16 units."""
    assert operations.macs(tiny_run.config) == {
        "conv0": 64 * 9 * 1 * 4,
        "conv1": 16 * 9 * 4 * 8,
        "conv2": 16 * 9 * 8 * 8,
        "dense0": 2 * 2 * 8 * 16,
        "readout": 16 * 10,
    }
    assert operations.neurons(tiny_run.config) == {"conv0": 256, "conv1": 128, "conv2": 128, "dense0": 16}


def test_a_spike_costs_its_synapses(tiny_run):
    none = dict.fromkeys(("conv0", "conv1", "conv2", "dense0"), 0.0)
    silent = operations.accumulates(tiny_run.config, none, input_spikes=0.5)
    assert silent == {"conv0": 64 * 0.5 * 9 * 4, "conv1": 0, "conv2": 0, "dense0": 0, "readout": 0}
    costs = operations.accumulates(tiny_run.config, none | {"conv0": 2.0, "conv2": 3.0}, input_spikes=0.0)
    assert costs["conv1"] == 256 * 2 * 9 * 8  # a pool hands a spike on to the synapses of one pixel
    assert costs["dense0"] == 128 * 3 * 16
    assert costs["conv2"] == costs["readout"] == 0


def test_training_counts_a_backward_pass_as_two_forward_passes(tiny_run):
    config = dataclasses.replace(tiny_run.config, dataset="fashion_mnist", hidden=(), num_steps=4)
    costs = operations.operations_of_training(config)
    assert costs["ann epoch"] == 3 * 55_000 * sum(operations.macs(config).values())
    assert costs["snn epoch"] == 4 * costs["ann epoch"]


def test_silence_is_what_the_spikes_show(tiny_run, monkeypatch):
    monkeypatch.setattr(silence, "IMAGES", 64)
    config = dataclasses.replace(tiny_run.config, eval_batch_size=32)
    snn, source = finetuned_snn(tiny_run), open_source(config, VALIDATION)
    found = silence.silence(config, snn)
    index = jnp.arange(64)
    images = scale(source.take(source.resident, index).images)
    inputs = partial(encoding_of(config), images, random_key(config, "validation"), index)
    seen = simulate(build_snn(config), snn, inputs, lambda _, c: c["spikes"], num_steps=4, chunk=4, collect=["spikes"])
    for layer, spikes in seen.items():
        train = np.asarray(spikes["spikes"])
        assert found["never"][layer] == pytest.approx((train.max(0) == 0).mean())
        had_fired = np.concatenate([np.zeros_like(train[:1]), np.maximum.accumulate(train)[:-1]])
        assert found["no gradient"][layer] == pytest.approx((had_fired == 0).mean())


def test_accuracies_over_streams_are_those_of_the_logits(tiny_run):
    """Of all validation images at once, by streams that training has not chosen on."""
    config, source = tiny_run.config, open_source(tiny_run.config, VALIDATION)
    index = jnp.arange(source.num_examples)
    batch, key = source.take(source.resident, index), random_key(config, VALIDATION)
    factor = read_results(tiny_run.directory)["converted"]["scaling_factor"]
    nets = {
        "converted": scale_thresholds(converted_snn(tiny_run), factor),
        "hybrid": last_snn(tiny_run),
    }
    found = accuracy.over_streams(tiny_run)
    for net, snn in nets.items():
        expected = []
        for stream in range(config.streams):
            noise = jax.random.fold_in(key, stream)
            spikes = encoding_of(config)(scale(batch.images), noise, index, jnp.arange(config.num_steps))
            logits = build_snn(config).apply(snn, spikes)[-1]
            expected.append(float((logits.argmax(-1) == batch.labels).mean()))
        assert found[net] == pytest.approx(expected)


def test_a_conversion_is_measured_on_the_first_stream(tiny_run):
    snn, key = converted_snn(tiny_run), random_key(tiny_run.config, TEST)
    found = conversion._test(tiny_run, snn, {"3": {"1": 0.5}}, None)["3"]
    expected = float(present(tiny_run.config, snn, 3, TEST, jax.random.fold_in(key, 0), "").accuracy[-1])
    assert found == {"factor_1": expected, "factor": 1, "chosen": expected}


def test_the_anns_accuracy_on_the_first_images_is_that_of_its_logits(tiny_run):
    run = tiny_run._replace(config=dataclasses.replace(tiny_run.config, eval_batch_size=32))
    ann, source = trained_ann(run), open_source(run.config, TEST)
    batch = source.take(source.resident, jnp.arange(64))
    logits = build_ann(run.config).apply(ann, scale(batch.images))
    assert score_ann(run, 64) == pytest.approx(float((logits.argmax(-1) == batch.labels).mean()))


@pytest.mark.parametrize(
    ("preset", "num_steps", "lengths"),
    [
        ("fashion_mnist_cpu", 4, {"scratch-stdb": 1, "scratch-linear": 1, "scratch-linear-long": 2}),
        ("cifar10_cpu", 8, {"scratch-linear": 1, "scratch-linear-long": 2, "scratch-linear-longest": 3}),
    ],
)
def test_from_scratch_the_operations_are_the_hybrid_runs_to_half_an_epoch(preset, num_steps, lengths):
    epochs = {t.name: t.fields["hybrid_epochs"] for t in plan.STUDIES[preset]["scratch"] if "lr" not in t.name}
    config = dataclasses.replace(PRESETS[preset](), num_steps=num_steps)
    costs = operations.operations_of_training(config)
    hybrid = config.ann_epochs * costs["ann epoch"] + costs["conversion"] + config.hybrid_epochs * costs["snn epoch"]
    assert epochs.keys() == lengths.keys()
    for name, times in lengths.items():
        assert abs(epochs[name] - times * hybrid / costs["snn epoch"]) <= times / 2


def test_the_beginning_of_a_split_fills_batches(tiny_run):
    config = dataclasses.replace(tiny_run.config, eval_batch_size=32)
    score = partial(present, config, last_snn(tiny_run), 3, VALIDATION, random_key(config, VALIDATION), "")
    part, whole, more = (score(images) for images in (64, None, 10**6))
    assert part.count == 64 < whole.count == more.count
    with pytest.raises(ValueError, match="65 images do not fill batches of 32"):
        score(65)


def test_a_step_along_an_exact_gradient_goes_downhill_as_far_as_it_says(tiny_run, monkeypatch):
    """The loss is a smooth function of the readout's weights, whatever the surrogate; seen on the same images."""
    monkeypatch.setattr(descent, "IMAGES", 32)
    snn, images = finetuned_snn(tiny_run), descent.half_of_validation(tiny_run.config, 0, 16)
    gradients = descent.mean_gradient(descent.batch_gradients(tiny_run.config, stdb(), snn, images, 0.5))
    scores = descent.scores_on(images, tiny_run.config, snn, 0.5)
    changes = descent.changes(scores, snn["params"], gradients)
    norms = [np.linalg.norm(tree["readout"]["kernel"]) for tree in (snn["params"], gradients)]
    assert changes["loss"]["readout"] == pytest.approx(-descent.MOVE * np.prod(norms), rel=0.02)
    assert set(changes["accuracy"]) == set(snn["params"])
    nowhere = descent.changes(scores, snn["params"], jax.tree.map(jnp.zeros_like, gradients))
    assert not any(nowhere["loss"].values())


def test_batches_agree_where_all_push_alike():
    """Weights that nothing pushes don't count."""
    alike, opposite = jnp.array([[1.0, 2.0, 0.0]] * 4), jnp.array([[1.0, -2.0, 0.0], [-1.0, 2.0, 0.0]])
    assert agreement.share(alike) == pytest.approx(1)
    assert agreement.share(opposite) == agreement.share(jnp.zeros((4, 3))) == 0
    noise = np.random.default_rng(0).normal(size=(32, 10_000))
    assert agreement.share(jnp.asarray(noise)) == pytest.approx((2 / np.pi / 32) ** 0.5, rel=0.02)


def test_agreement_is_of_the_runs_own_surrogate_and_loss_and_steps_are_on_other_images(tiny_run, monkeypatch):
    """The surrogate as configured, by stdb(), gives the same mean gradient however the images are batched."""
    monkeypatch.setattr(descent, "IMAGES", 32)
    monkeypatch.setattr(agreement, "BATCH", 16)
    config = dataclasses.replace(tiny_run.config, hybrid_logit_scale=0.5, beta=1.0)
    snn = finetuned_snn(tiny_run)
    first, second = (descent.half_of_validation(config, half, 16) for half in range(2))
    mean = descent.mean_gradient(descent.batch_gradients(config, stdb(config.alpha, 1.0), snn, first, 0.5))
    few, many = (
        agreement.agreement(tiny_run._replace(config=dataclasses.replace(config, batch_size=size)), snn)
        for size in (16, 4)
    )
    expected = descent.changes(descent.scores_on(second, config, snn, 0.5), snn["params"], mean)["loss"]
    assert few["loss"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert many["loss"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert all(0 < many["share"][layer] < share <= 1 for layer, share in few["share"].items())


def test_nets_before_and_after_the_fine_tune_are_told_apart(tiny_run, monkeypatch):
    for name, of in (("validated", lambda _: {}), ("starting_snn", lambda _: "start"), ("last_snn", lambda _: "last")):
        monkeypatch.setattr(plan, name, of)
    for name in ("silence", "agreement"):
        monkeypatch.setattr(plan, name, lambda _, snn: snn)
    nets = {"before": "start", "after": "last"}
    assert plan._watched(tiny_run) == {"silence": nets, "agreement": nets}


@pytest.fixture
def tiny_study(monkeypatch):
    """A study of two trials and the conversion, of the tiny preset."""
    monkeypatch.setitem(study.PRESETS, "tiny", lambda: parse("test", "", TINY).config)
    monkeypatch.setattr("experiments.study.conversion.SHORT", (8,))
    monkeypatch.setattr("experiments.study.conversion.LONG", (16,))
    trials = (
        plan.Trial("whole", {}, plan.tested, (0,)),
        plan.Trial("leaky", {"leak": 0.5}, seeds=(0,)),
        plan.Trial("conversion", {}, partial(conversion.conversion, images=256), (0,)),
    )
    monkeypatch.setitem(study.STUDIES, "tiny", {"all": trials})


def test_a_study_keeps_results_and_runs_nothing_twice(tiny_study, tiny, tmp_path, capsys):
    arguments = study.Arguments("tiny", workdir=tmp_path / "runs", results=tmp_path / "results")
    assert study.main(arguments) == 0
    output = capsys.readouterr().out
    assert output.count("ann epoch 1/3") == 1
    assert output.count("convert: taken over") == 2
    kept = {n: json.loads(results_path(arguments.results, "tiny", n, 0).read_text()) for n in ("whole", "leaky")}
    expected = without_time(read_results(tiny))
    assert kept["whole"]["hybrid"]["accuracy"] == pytest.approx(expected["hybrid"]["accuracy"], rel=1e-5)
    assert len(kept["whole"]["hybrid"]["history"]) == 2
    assert 0 < kept["whole"]["input_rate"] < 1
    assert kept["leaky"]["config"]["leak"] == 0.5
    assert len(kept["leaky"]["streams"]["hybrid"]) == kept["leaky"]["config"]["streams"]
    assert "accuracy" not in kept["leaky"]["ann"]  # the test split was not looked at
    found = json.loads(results_path(arguments.results, "tiny", "conversion", 0).read_text())
    assert found["ann"]["accuracy"] == pytest.approx(expected["ann"]["accuracy"], rel=1e-5)
    test = found["percentiles"]["100"]
    assert set(test["validation"]) == set(test["test"]) == {"8", "16"}
    best = max(test["validation"]["8"].values())
    assert test["validation"]["8"][str(test["test"]["8"]["factor"])] == best
    assert study.main(arguments) == 0
    assert capsys.readouterr().out == ""


def test_a_study_refuses_what_it_does_not_know(tiny_study, capsys):
    assert study.main(study.Arguments("digits")) == 2
    assert "there is no study of 'digits'" in capsys.readouterr().err
    assert study.main(study.Arguments("tiny", questions=("why",))) == 2
    assert "there is no question 'why', only all" in capsys.readouterr().err


def test_a_page_without_a_block_is_refused(tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text("<!-- paper -->\n\n<!-- end -->\n")
    with pytest.raises(ValueError, match="must have one block for each of paper, "):
        page.rebuild(copy)
