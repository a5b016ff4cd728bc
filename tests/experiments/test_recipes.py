"""Recipes as fields of a config, on the command line, and through every stage."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import finetune
from experiments.config import check, with_fields
from experiments.evaluate import evaluate
from experiments.fields import AUTO, Config
from experiments.finetune import last_snn
from experiments.hybrid import hybrid
from experiments.machine import this_machine
from experiments.networks import ann_function, build_snn
from experiments.presets import PRESETS
from experiments.recipes import FEW_STEPS, RECIPES, recipe_for, with_recipe
from experiments.runs.command_line import parse
from experiments.runs.workdir import read_results
from experiments.train_ann import trained_ann
from jsnn.conversion import parameters_by_channel
from jsnn.data.sources import Batch
from jsnn.network.transformation import NEURONS
from jsnn.training.forward import TEACHER
from jsnn.training.loss import Outputs, cross_entropy, few_steps_loss
from tests.experiments.commands import again, opened, run

TINY = """
    --width 0.0625 --hidden 16 --dense-std 0.2 --ann.epochs 3 --finetune.epochs 1 --balance-images 64 --balance-steps 4
    --num-steps 3 --eval-steps 4 --streams 1 --levels 3
""".split()
DATA = Batch(None, jnp.array([0, 2]), None)
LOGITS, TAUGHT = jnp.array([[1.0, 0.5, -1], [0.2, 0.1, 0.3]]), jnp.array([[2.0, 0, -1], [1.0, 0, 0.5]])


def parsed(*arguments):
    return parse("test", "", arguments).config


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_goes_with_every_preset_and_a_field_over_it(name):
    for preset in PRESETS.values():
        check(with_recipe(preset.config, name))
    config = parsed("cifar10_cpu", "--recipe", name, "--initial", "0.25")
    assert config == with_fields(with_recipe(PRESETS["cifar10_cpu"].config, name), {"convert.initial": 0.25})
    assert parsed("--recipe", name, "--workdir", "nowhere") == with_recipe(PRESETS["digits"].config, name)


def test_all_recipes_set_the_same_fields():
    first, *others = RECIPES.values()
    assert all(set(fields) == set(first) for fields in others)
    over_another = with_recipe(with_recipe(Config(), "qcfs"), "linear")
    assert over_another == with_recipe(Config(), "linear")
    assert parsed("--dataset", "mnist", "--num-steps", "4", "--recipe", "linear").convert.scaling_factor == AUTO


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"finetune.by_channel": True}, "of which none is trained"),
        ({"finetune.by_channel": True, "finetune.trained": ("threshold",)}, "use logits mean"),
        (
            {"finetune.residuals": "byte", "finetune.surrogate": "stdb", "finetune.trained": ("weights", "leak")},
            "trained is weights, leak: use residuals exact",
        ),
        ({"finetune.start": "scratch", "finetune.trained": ()}, "nothing but what is trained"),
        ({"finetune.start": "scratch", "network.levels": 4}, "use ReLU"),
        ({"convert.fold": True}, "set norm batch"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, what):
    with pytest.raises(ValueError, match=what):
        check(with_fields(Config(), fields))


@pytest.mark.parametrize("num_steps", [4, FEW_STEPS, FEW_STEPS + 1, None])
def test_without_a_preset_time_steps_choose_the_recipe(num_steps):
    steps = () if num_steps is None else ("--num-steps", str(num_steps))
    expected = with_recipe(Config(), recipe_for(num_steps or Config().convert.num_steps))
    actual = parsed("--dataset", "mnist", *steps)
    assert (actual.network, actual.finetune) == (expected.network, expected.finetune)
    assert (actual.network.levels is None) == (num_steps is None or num_steps > FEW_STEPS)


def test_everything_at_once_through_every_stage(tmp_path):
    options = (
        "--norm batch --fold --finetune.by-channel --finetune.distillation 0.5 --finetune.rate-penalty 0.1".split()
    )
    assert run(hybrid, tmp_path, *TINY, "--recipe", "qcfs-diet", *options) == 0
    results = read_results(tmp_path)
    snn = last_snn(opened(tmp_path))
    assert set(snn) == {"params", NEURONS}
    assert set(snn["params"]["conv0"]) == {"kernel", "bias"}
    moved = 0.0
    for parameters in snn[NEURONS].values():
        assert parameters["initial"].shape == parameters["threshold"].shape == parameters["leak"].shape != ()
        moved += float(jnp.abs(parameters["initial"] - 0.5).max())
        assert bool((parameters["leak"] <= 1).all() & (parameters["threshold"] > 0).all())
    assert moved > 0
    assert 1 <= results["early_exit"]["steps"] <= 3
    exits = results["early_exit"]
    assert exits["mean_steps"][0] == 1
    assert exits["mean_steps"][-1] == 3
    assert len(exits["accuracies"]) == len(exits["confidences"])


def test_where_nothing_is_trained_the_converted_net_stays(tmp_path):
    options = "digits --recipe qcfs".split()
    assert run(hybrid, tmp_path, *options, *TINY) == 0
    results = read_results(tmp_path)
    assert results["hybrid"]["kept"] == "converted"
    assert results["hybrid"]["history"] == []
    assert results["hybrid"]["accuracy"] == results["converted"]["accuracy"]
    assert results["converted"]["scaling_factor"] == 1
    assert run(lambda run: again("evaluate", evaluate, run), tmp_path) == 0


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def test_the_loss_of_few_steps_is_that_of_the_formula():
    rates = {"a": jnp.array([0.1, 0.3]), "b": jnp.array([0.5, 0.7])}
    loss, _ = few_steps_loss(0.25, 2.0, 3.0)(Outputs(LOGITS, TAUGHT, rates), DATA)
    plain, _ = cross_entropy(LOGITS, DATA)
    taught, own = softmax(np.asarray(TAUGHT) / 2), softmax(np.asarray(LOGITS) / 2)
    apart = (taught * np.log(taught / own)).sum(-1).mean()
    np.testing.assert_allclose(loss, 0.75 * plain + 0.25 * 4 * apart + 3 * 0.4, rtol=1e-5)
    alone, _ = few_steps_loss()(Outputs(LOGITS, None, {}), DATA)
    np.testing.assert_allclose(alone, plain)


def test_a_teacher_alone_is_imitated():
    loss = few_steps_loss(1.0)
    gradient = jax.grad(lambda logits: loss(Outputs(logits, TAUGHT, {}), DATA)[0])
    np.testing.assert_allclose(gradient(TAUGHT), 0, atol=1e-7)
    assert float(jnp.abs(gradient(LOGITS)).max()) > 0.01


@pytest.mark.parametrize("numbers", [(1.5, 1.0, 0.0), (0.5, 0.0, 0.0), (0.5, 1.0, -1.0), (math.nan, 1.0, 0.0)])
def test_numbers_out_of_their_ranges_are_refused(numbers):
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
    state = finetune.state_of(config, finetune.starting_snn(run), ann, finetune.rule_of(config, 3))
    images, index = jnp.linspace(-1, 1, 128).reshape(2, 8, 8, 1), jnp.arange(2)
    forward = finetune.forward_of(config, 1.0, this_machine())

    def imitation(trained):
        outputs, _ = forward({**state.variables(), **trained}, images, index, jax.random.key(0))
        return few_steps_loss(1.0)(outputs, DATA)[0], outputs.teacher

    trained = {name: state.variables()[name] for name in ("params", TEACHER)}
    gradients, teacher = jax.jit(jax.grad(imitation, has_aux=True))(trained)
    np.testing.assert_allclose(teacher, ann_function(config)(ann, images), rtol=1e-5)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients[TEACHER]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradients["params"]))


def test_parameters_by_channel_compute_the_same(tiny):
    run = opened(tiny)
    snn, net = finetune.starting_snn(run), build_snn(run.config)
    images = jnp.linspace(-1, 1, 128).reshape(1, 2, 8, 8, 1)
    apart = parameters_by_channel(net, snn, images[0], ("threshold", "initial"))
    assert apart[NEURONS]["conv0"]["threshold"].shape == (4,)
    assert apart[NEURONS]["conv0"]["leak"].shape == ()
    results = [net.apply(one, net.initial_state(one, images[0]), images)[0] for one in (snn, apart)]
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)
