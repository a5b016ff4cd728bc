"""Fine-tune the converted net with a surrogate gradient (STDB), or train it from scratch for the control.

python -m experiments.finetune [PRESET] [--workdir DIR] [--field value ...]
"""

from functools import partial

import jax
import optax

from experiments import command, epochs
from experiments.convert import balance, chosen_factor, converted_snn
from experiments.networks import build_snn, encoding_of, init_variables, open_source, random_key, snn_like
from experiments.workdir import Run, checkpoints, finish, require
from jsnn.checkpoint import restore
from jsnn.conversion import convert, scale_thresholds
from jsnn.datasets import VALIDATION
from jsnn.evaluation import evaluate_snn
from jsnn.optimizers import learning_rate, optimizer
from jsnn.parallel import evaluate_split, parallel_evaluation
from jsnn.simulation import Variables
from jsnn.training import TrainState, init_state, snn_forward


def finetune(run: Run) -> None:
    """Fine-tune the converted net of a run to the last epoch.

    Args:
        run: the run, its ANN converted; gets checkpoints in hybrid/, metrics, and `hybrid` in results.json.
    """
    require(run, "convert")
    config = run.config
    model, encode = build_snn(config), encoding_of(config)
    source = open_source(config, VALIDATION)
    evaluate = parallel_evaluation(partial(evaluate_snn, model, encode, config.num_steps, config.chunk, source))
    key = random_key(config, "validation")

    def validate(variables: Variables) -> float:
        return float(evaluate_split(evaluate, variables, source, config.eval_batch_size, key).accuracy[-1])

    rule = _optimizer(run)
    state = init_state(_start(run), rule)
    forward = snn_forward(model, encode, config.num_steps, config.chunk)
    _, accuracy, seconds = epochs.train(run, "hybrid", state, forward, rule, config.hybrid_epochs, validate)
    found = {"validation_accuracy": accuracy, "epochs": config.hybrid_epochs}
    finish(run, "finetune", seconds, {"hybrid": found})


def finetuned_snn(run: Run) -> Variables:
    """The variables of the run's fine-tuned net.

    Raises:
        ValueError: where it is not fine-tuned yet.
    """
    require(run, "finetune")
    rule = _optimizer(run)
    expected: TrainState = jax.eval_shape(lambda: init_state(snn_like(run.config), rule))
    state = restore(checkpoints(run, "hybrid"), expected).tree
    return {"params": state.params, "neuron": state.neuron}


def _start(run: Run) -> Variables:
    """The net before the first epoch: thresholds scaled, leak as configured.

    From scratch, the thresholds are balanced for the random weights and scaled by the factor of the converted net.
    """
    if run.config.start == "scratch":
        ann = init_variables(run.config, "scratch")
        thresholds = balance(run, ann)
    else:
        ann = converted_snn(run)
        thresholds = {layer: values["threshold"] for layer, values in ann.pop("neuron").items()}
    return scale_thresholds(convert(ann, thresholds, run.config.leak), chosen_factor(run))


def _optimizer(run: Run) -> optax.GradientTransformation:
    config = run.config
    rate = learning_rate(config.hybrid_schedule, config.hybrid_lr, config.hybrid_epochs, epochs.steps_per_epoch(run))
    return optimizer(config.hybrid_optimizer, rate, config.hybrid_weight_decay)


if __name__ == "__main__":
    command.run_stage("finetune", __doc__, finetune)
