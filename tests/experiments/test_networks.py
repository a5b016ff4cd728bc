"""Networks of a run and their recipes: scored by shared programs, started, taught and trained as the config says."""

import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import finetune
from experiments.config import check, with_fields
from experiments.fields import AUTO, Config
from experiments.finetune import last_snn, starting_snn
from experiments.hybrid import hybrid
from experiments.machine import this_machine
from experiments.networks import ann_function, build_snn, logit_unit, presentation_of, random_key, stream_keys
from experiments.presets import PRESETS
from experiments.recipes import FEW_STEPS, RECIPES, recipe_for, with_recipe
from experiments.runs.command_line import parse
from experiments.runs.data import evaluated_images, open_source
from experiments.runs.workdir import read_results
from experiments.scoring import score_ann, score_exits
from experiments.train_ann import trained_ann
from jsnn.conversion import parameters_by_channel
from jsnn.data.augment import scale
from jsnn.data.datasets import TEST, TRAIN, VALIDATION
from jsnn.data.sources import Batch
from jsnn.network.bptt import Keys, present
from jsnn.network.transformation import NEURONS
from jsnn.training.early_exit import exit_evaluation
from jsnn.training.evaluation import mean
from jsnn.training.forward import TEACHER
from jsnn.training.loss import Outputs, cross_entropy, few_steps_loss
from tests.experiments.commands import TINY, opened, run

DATA = Batch(None, jnp.array([0, 2]), None)
IMAGES = jnp.linspace(-1, 1, 128).reshape(2, 8, 8, 1)
OF_FEW_STEPS = """
    --width 0.0625 --hidden 16 --dense-std 0.2 --ann.epochs 2 --finetune.epochs 1 --balance-images 64 --balance-steps 4
    --num-steps 2 --eval-steps 2 --streams 1 --levels 2
""".split()


def parsed(*arguments):
    return parse("test", "", arguments).config


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_goes_with_every_preset_and_a_field_over_it(name):
    for preset in PRESETS.values():
        check(with_recipe(preset.config, name))
    config = parsed("cifar10_cpu", "--recipe", name, "--initial", "0.25")
    assert config == with_fields(with_recipe(PRESETS["cifar10_cpu"].config, name), {"convert.initial": 0.25})
    assert parsed("--recipe", name, "--workdir", "nowhere") == with_recipe(PRESETS["digits"].config, name)
    assert set(RECIPES[name]) == set(RECIPES["paper"])
    assert with_recipe(with_recipe(Config(), "qcfs"), name) == with_recipe(Config(), name)


@pytest.mark.parametrize(("num_steps", "recipe"), [(FEW_STEPS, "qcfs-diet"), (FEW_STEPS + 1, "linear")])
def test_without_a_preset_time_steps_choose_the_recipe(num_steps, recipe):
    words = ("--dataset", "mnist", "--num-steps", str(num_steps))
    expected, actual = with_recipe(Config(), recipe), parsed(*words)
    assert recipe_for(num_steps) == recipe
    assert (actual.network, actual.finetune) == (expected.network, expected.finetune)
    assert parsed(*words, "--recipe", "linear").convert.scaling_factor == AUTO


def test_everything_at_once_through_every_stage(tmp_path):
    options = "--norm batch --fold --finetune.by-channel --finetune.distillation 0.5 --finetune.rate-penalty 0.1"
    assert run(hybrid, tmp_path, *OF_FEW_STEPS, "--recipe", "qcfs-diet", *options.split()) == 0
    snn, exits = last_snn(opened(tmp_path)), read_results(tmp_path)["early_exit"]
    assert set(snn) == {"params", NEURONS}
    assert set(snn["params"]["conv0"]) == {"kernel", "bias"}
    for parameters in snn[NEURONS].values():
        assert parameters["initial"].shape == parameters["threshold"].shape == parameters["leak"].shape != ()
        assert bool((parameters["leak"] <= 1).all() & (parameters["threshold"] > 0).all())
    assert any(bool((parameters["initial"] != 0.5).any()) for parameters in snn[NEURONS].values())
    assert 1 == exits["mean_steps"][0] <= exits["steps"] <= exits["mean_steps"][-1] == 2
    assert len(exits["accuracies"]) == len(exits["confidences"])


def test_where_nothing_is_trained_the_converted_net_stays(tmp_path):
    assert run(hybrid, tmp_path, *"digits --recipe qcfs".split(), *OF_FEW_STEPS) == 0
    results = read_results(tmp_path)
    assert results["hybrid"]["kept"] == "converted"
    assert results["hybrid"]["history"] == []
    assert results["hybrid"]["accuracy"] == results["converted"]["accuracy"]
    assert results["converted"]["scaling_factor"] == 1


def test_splits_of_several_sizes_share_a_program_and_have_their_own_scores(tiny):
    config, ann = opened(tiny).config, trained_ann(opened(tiny))
    sizes = {split: open_source(config, split).num_examples for split in (VALIDATION, TEST)}
    assert sizes[VALIDATION] < sizes[TEST] == evaluated_images(config)
    assert len(open_source(config, TRAIN).resident.labels) == open_source(config, TRAIN).num_examples
    for split, size in sizes.items():
        images, labels = open_source(config, split).resident
        logits = ann_function(config)(ann, scale(jnp.asarray(images)[:size]))
        expected = (logits.argmax(-1) == jnp.asarray(labels)[:size]).mean()
        assert score_ann(config, ann, split) == pytest.approx(float(expected))
    validation, test = (open_source(config, split).resident for split in sizes)
    chex.assert_trees_all_equal_shapes_and_dtypes(validation, test)  # else the program would be compiled for each


def test_early_exits_are_those_of_the_split_alone(tiny):
    config, snn, factor = opened(tiny).config, last_snn(opened(tiny)), 0.7
    presentation, source = presentation_of(config, config.convert.num_steps), open_source(config, VALIDATION)
    evaluate = exit_evaluation(presentation, source, lambda v: presentation.num_steps * factor * logit_unit(config, v))
    index = np.arange(source.num_examples, dtype=np.int32)
    expected = mean(jax.jit(evaluate)(snn, source.resident, index, random_key(config, VALIDATION)))
    actual = score_exits(config, snn, VALIDATION, factor)
    np.testing.assert_allclose(actual.accuracy, expected.accuracy, atol=1e-6)
    np.testing.assert_allclose(actual.steps, expected.steps, atol=1e-6)


def test_a_constant_input_has_one_stream_the_first_of_any_number(tiny):
    """Nets are then scored once, for without noise all streams are the same."""
    config = opened(tiny).config
    keys = stream_keys(config, TEST, 5)
    (key,) = stream_keys(with_fields(config, {"convert.encoding": "constant"}), TEST, 5)
    assert len({*map(str, map(jax.random.key_data, keys))}) == 5
    chex.assert_trees_all_equal(jax.random.key_data(key), jax.random.key_data(keys[0]))


def test_training_from_scratch_starts_from_other_weights(tiny, tmp_path):
    assert run(hybrid, tmp_path, *TINY, "--finetune.start", "scratch", "--from-run", str(tiny)) == 0
    results, converted = read_results(tmp_path), read_results(tiny)
    assert results["ann"]["accuracy"] == converted["ann"]["accuracy"]
    assert results["hybrid"]["accuracy_by_step"] != converted["hybrid"]["accuracy_by_step"]


def test_the_control_from_scratch_has_no_logits_to_calibrate(tiny):
    run, scale = opened(tiny), read_results(tiny)["converted"]["logit_scale"]
    for fields, expected in (({}, scale), ({"start": "scratch"}, 1.0), ({"logit_scale": 0.1}, 0.1)):
        config = with_fields(run.config, {f"finetune.{name}": value for name, value in fields.items()})
        assert finetune.logit_scale(run._replace(config=config)) == expected


def test_a_fine_tune_has_the_papers_logits_calibrated_in_its_loss(tiny):
    """Sums over time, in units of the last layer's threshold, times the factor that the conversion found."""
    run, index, key = opened(tiny), jnp.arange(8), jax.random.key(0)
    images = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)
    forward = finetune.forward_of(run.config, finetune.logit_scale(run), this_machine())
    logits = jax.jit(forward)(starting_snn(run), images, index, key)[0].logits
    what = presentation_of(run.config, run.config.convert.num_steps)
    outcome = jax.jit(partial(present, what))(starting_snn(run), images, index, Keys(*jax.random.split(key)))
    unit = starting_snn(run)[NEURONS]["dense0"]["threshold"] / read_results(tiny)["converted"]["logit_scale"]
    assert np.abs(logits).max() > 0
    np.testing.assert_allclose(logits, outcome.results.sum(0) / unit, rtol=1e-5)


def test_the_loss_of_few_steps_is_that_of_the_formula():
    logits, taught = np.array([[1, 0.5, -1], [0.2, 0.1, 0.3]]), np.array([[2, 0, -1], [1, 0, 0.5]])
    rates = {"a": jnp.array([0.1, 0.3]), "b": jnp.array([0.5, 0.7])}
    loss, _ = few_steps_loss(0.25, 2.0, 3.0)(Outputs(jnp.array(logits), jnp.array(taught), rates), DATA)
    plain, _ = cross_entropy(jnp.array(logits), DATA)
    softened, own = (np.asarray(jax.nn.softmax(of_net / 2)) for of_net in (taught, logits))
    apart = (softened * np.log(softened / own)).sum(-1).mean()
    np.testing.assert_allclose(loss, 0.75 * plain + 0.25 * 4 * apart + 3 * 0.4, rtol=1e-5)
    alone, _ = few_steps_loss()(Outputs(jnp.array(logits), None, {}), DATA)
    np.testing.assert_allclose(alone, plain)
    for numbers in ((1.5, 1.0, 0.0), (0.5, 0.0, 0.0), (0.5, 1.0, -1.0), (math.nan, 1.0, 0.0)):
        with pytest.raises(ValueError, match="few_steps_loss"):
            few_steps_loss(*numbers)


def test_a_gradient_is_clipped_as_a_whole_where_neurons_are_trained_too():
    fields = {"finetune.trained": ("weights", "leak"), "finetune.clip": 1.0, "finetune.optimizer": "sgd"}
    fields |= {"finetune.lr": 1.0, "finetune.neuron_lr": 1.0, "finetune.weight_decay": 0.0}
    rule = finetune.rule_of(with_fields(Config(), fields), 100)
    params = {"params": {"a": jnp.zeros(())}, NEURONS: {"a": {"leak": jnp.array(0.9)}}}
    gradients = {"params": {"a": jnp.array(6.0)}, NEURONS: {"a": {"leak": jnp.array(8.0)}}}
    updates, _ = rule.update(gradients, rule.init(params), params)
    np.testing.assert_allclose([updates["params"]["a"], updates[NEURONS]["a"]["leak"]], [-0.6, -0.8], rtol=1e-6)


def test_a_teacher_is_the_ann_without_noise_and_gets_no_gradient(tiny):
    run = opened(tiny)
    ann, config = trained_ann(run), with_fields(run.config, {"finetune.distillation": 0.5})
    variables, forward = {**starting_snn(run), TEACHER: ann}, finetune.forward_of(config, 1.0, this_machine())

    def imitation(trained):
        outputs, _ = forward({**variables, **trained}, IMAGES, jnp.arange(2), jax.random.key(0))
        return few_steps_loss(1.0)(outputs, DATA)[0], outputs.teacher

    trained = {name: variables[name] for name in ("params", TEACHER)}
    gradients, teacher = jax.jit(jax.grad(imitation, has_aux=True))(trained)
    np.testing.assert_allclose(teacher, ann_function(config)(ann, IMAGES), rtol=1e-5)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients[TEACHER]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradients["params"]))


def test_parameters_by_channel_compute_the_same(tiny):
    snn, net = starting_snn(opened(tiny)), build_snn(opened(tiny).config)
    apart = parameters_by_channel(net, snn, IMAGES, ("threshold", "initial"))
    assert apart[NEURONS]["conv0"]["threshold"].shape == (4,)
    assert apart[NEURONS]["conv0"]["leak"].shape == ()
    results = [net.apply(one, net.initial_state(one, IMAGES), IMAGES[None])[0] for one in (snn, apart)]
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)
