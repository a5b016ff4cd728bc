"""Train the ANN.

python -m experiments.train_ann [PRESET] [--workdir DIR] [--field value ...]
"""

from functools import partial

import jax
import optax

from experiments import command, epochs
from experiments.networks import build_ann, init_variables, open_source, random_key
from experiments.workdir import Run, checkpoints, finish, require
from jsnn.checkpoint import restore
from jsnn.datasets import VALIDATION
from jsnn.evaluation import evaluate_ann
from jsnn.optimizers import learning_rate, optimizer
from jsnn.parallel import evaluate_split, parallel_evaluation
from jsnn.simulation import Variables
from jsnn.training import TrainState, ann_forward, init_state

MOMENTUM_SGD = "sgd"


def train_ann(run: Run) -> None:
    """Train the ANN of a run to its last epoch.

    Args:
        run: the run; gets checkpoints in ann/, metrics, and `ann` in results.json.
    """
    config = run.config
    model = build_ann(config)
    source = open_source(config, VALIDATION)
    evaluate = parallel_evaluation(partial(evaluate_ann, model, source))
    key = random_key(config, "validation")

    def validate(variables: Variables) -> float:
        return float(evaluate_split(evaluate, variables, source, config.eval_batch_size, key).accuracy[-1])

    rule = _optimizer(run)
    state = init_state(init_variables(config, "init"), rule)
    _, accuracy, seconds = epochs.train(run, "ann", state, ann_forward(model), rule, config.ann_epochs, validate)
    finish(run, "train_ann", seconds, {"ann": {"validation_accuracy": accuracy, "epochs": config.ann_epochs}})


def trained_ann(run: Run) -> Variables:
    """The variables of the run's trained ANN.

    Raises:
        ValueError: where it is not trained yet.
    """
    require(run, "train_ann")
    rule = _optimizer(run)
    expected: TrainState = jax.eval_shape(lambda: init_state(init_variables(run.config, "init"), rule))
    return {"params": restore(checkpoints(run, "ann"), expected).tree.params}


def _optimizer(run: Run) -> optax.GradientTransformation:
    config = run.config
    rate = learning_rate(config.ann_schedule, config.ann_lr, config.ann_epochs, epochs.steps_per_epoch(run))
    return optimizer(MOMENTUM_SGD, rate, config.ann_weight_decay)


if __name__ == "__main__":
    command.run_stage("train_ann", __doc__, train_ann)
