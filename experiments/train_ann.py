"""Train the ANN.

python -m experiments.train_ann [PRESET] [--workdir DIR] [--field value ...]
"""

from functools import cache, partial
from typing import Any

import jax
import optax

from experiments.fields import Config
from experiments.networks import ann_function, init_variables
from experiments.runs import command_line
from experiments.runs.data import open_source, steps_per_epoch
from experiments.runs.loop import Training, train
from experiments.runs.stages import finish, require, restored
from experiments.runs.workdir import Run
from experiments.scoring import score_ann
from jsnn.data.datasets import TRAIN, VALIDATION
from jsnn.models import dropout_of
from jsnn.network.transformation import Variables
from jsnn.training.forward import Forward, ann_forward
from jsnn.training.optimizers import learning_rate, optimizer
from jsnn.training.parallel import parallel_train_step
from jsnn.training.step import Step, TrainState, init_state


def train_ann(run: Run) -> None:
    """Train the ANN of a run to its last epoch: checkpoints in ann/, metrics, and `ann` in results.json."""
    check_accumulate(run.config)
    config = run.config
    training = Training("ann", _step(config), config.ann.epochs, partial(score_ann, config, split=VALIDATION))
    journal = train(run, training, init_state(init_variables(config, "init"), rule_of(config)))
    found = journal.summary()
    summary = f"validation {found['validation_accuracy']:.2%} after {found['epochs']} epochs"
    finish(run, "train_ann", journal.total("seconds"), {"ann": found}, summary)


@cache
def _step(config: Config) -> Step:
    """The compiled step of training the ANN."""
    source, parts = open_source(config, TRAIN), config.run.accumulate
    return parallel_train_step(source, forward_of(config), rule_of(config), accumulate=parts)


def check_accumulate(config: Config) -> None:
    """Refuse batch norm over parts of a batch, each with statistics of its own: another net, down to one of chance."""
    if config.network.norm == "batch" and config.run.accumulate > 1:
        raise ValueError(
            f"accumulate {config.run.accumulate} would give each part of a batch a batch norm of its own: train the "
            "ANN with accumulate 1, on a smaller batch or more devices; the SNN may take any."
        )


def trained_ann(run: Run) -> Variables:
    """The variables of the run's trained ANN; ValueError where it is not trained yet."""
    require(run, "train_ann")
    rule = rule_of(run.config)
    expected: TrainState = jax.eval_shape(lambda: init_state(init_variables(run.config, "init"), rule))
    return restored(run, "ann", expected).variables()


def forward_of(config: Config) -> Forward:
    """The forward function of the ANN of a config."""

    def noise(index: jax.Array, key: jax.Array) -> dict[str, Any]:
        return {**dropout_of(index, key), "train": True, "mutable": ["batch_stats"]}

    return ann_forward(ann_function(config), dropout_of if config.network.norm == "none" else noise)


def rule_of(config: Config, steps: int | None = None) -> optax.GradientTransformation:
    """The optimiser of the ANN of a config, of epochs of so many steps, or of as many as its data make."""
    ann, steps = config.ann, steps or steps_per_epoch(config)
    return optimizer("sgd", learning_rate(ann.schedule, ann.lr, ann.epochs, steps), ann.weight_decay)


if __name__ == "__main__":
    command_line.run_stage("train_ann", __doc__, train_ann)
