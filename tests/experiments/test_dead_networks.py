"""Networks that are dead are told of, and all-equal logits are no vote for class 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.fields import Config
from experiments.hybrid import hybrid
from experiments.runs.health import warn_of_indifference, warn_of_silent_layers
from experiments.runs.records import read_results
from jsnn.data.datasets import Split
from jsnn.data.sources import resident_source
from jsnn.encoding import poisson
from jsnn.network.simulation import Presentation
from jsnn.network.transformation import NEURONS
from jsnn.training.evaluation import ann_evaluation, mean, snn_evaluation
from jsnn.training.forward import snn_forward, summed
from jsnn.training.loss import correct
from jsnn.training.optimizers import optimizer
from jsnn.training.step import init_state, train_step
from tests.experiments.commands import TINY, run
from tests.networks import IMAGE_SHAPE, TINY_VGG, random_snn


@pytest.mark.parametrize("shape", [(6,), (3, 6)])
def test_only_a_largest_logit_is_a_decision(shape):
    labels = jnp.zeros(shape[-1], jnp.int32)
    undecided = jnp.broadcast_to(jnp.array([0.0, 2.0, -3.0, 1e9, -0.0, 7.5])[:, None], (*shape, 4))
    assert not correct(undecided, labels).any()
    assert correct(undecided.at[..., 0].add(jnp.abs(undecided[..., 0]) + 1), labels).all()
    assert not correct(undecided.at[..., 1].add(jnp.abs(undecided[..., 1]) + 1), labels).any()


def dead():
    """A network whose thresholds no current reaches, with images of class 0."""
    snn, variables = random_snn(TINY_VGG, seed=0, leak=1.0)
    for values in variables[NEURONS].values():
        values["threshold"] = jnp.full_like(values["threshold"], 1e9)
    images = np.full((8, *IMAGE_SHAPE), 200, np.uint8)
    return Presentation(snn, poisson, 3, 3), variables, resident_source(Split(images, np.zeros(8, np.int32)))


def test_a_dead_network_classifies_nothing():
    presentation, variables, source = dead()
    evaluate = jax.jit(snn_evaluation(presentation, source))
    scores = mean(evaluate(variables, source.resident, jnp.arange(8), jax.random.key(0)))
    assert not np.asarray(scores.accuracy).any()
    np.testing.assert_allclose(scores.loss, np.log(3), rtol=1e-6)
    rule = optimizer("adam", lambda _: 1e-3, 0.0)
    step = jax.jit(train_step(source, snn_forward(presentation, summed), rule))
    _, metrics = step(init_state(variables, rule), source.resident, jnp.arange(8), jax.random.key(0))
    assert float(metrics.scores["accuracy"]) == 0
    nothing = {"params": jax.tree.map(jnp.zeros_like, variables["params"])}
    of_ann = ann_evaluation(TINY_VGG.apply, source)(nothing, source.resident, jnp.arange(8), jax.random.key(0))
    assert float(of_ann.accuracy[0]) == 0


def test_silent_layers_are_named(capsys):
    warn_of_silent_layers("hybrid", {"conv0": 0.2, "conv1": 0.0, "dense0": 0.0})
    assert "warning: the hybrid net is dead: no neuron of conv1, dense0 spikes for any image" in capsys.readouterr().out
    warn_of_silent_layers("hybrid", {"conv0": 1e-9})
    assert capsys.readouterr().out == ""


def test_equal_logits_are_told_by_their_loss(capsys):
    dead, alive = {"loss": float(np.float32(np.log(10)))}, {"loss": 2.3027}
    for history in ([dead], [alive, dead]):
        warn_of_indifference(Config(), "ann", history)
        assert "warning: ann gives all classes the same logit, loss 2.3026: it is dead" in capsys.readouterr().out
    for history in ([alive], [dead, alive], [dead, dead]):  # it is said once
        warn_of_indifference(Config(), "ann", history)
        assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_run_whose_layers_fall_silent_says_so(tiny, tmp_path, capsys):
    fields = ["--scaling-factor", "50", "--finetune.epochs", "1", "--from-run", str(tiny)]
    assert run(hybrid, tmp_path, *TINY, *fields) == 0
    output = capsys.readouterr().out
    for words in ("the converted net is dead", "the fine-tuned net is dead", "hybrid gives all classes the same logit"):
        assert f"warning: {words}" in output
    results = read_results(tmp_path)
    assert results["converted"]["accuracy"] == results["hybrid"]["accuracy"] == 0
