"""Fine-tune the converted net with a surrogate gradient, or train it from scratch for the control.

python -m experiments.finetune [PRESET] [--workdir DIR] [--field value ...]
"""

from functools import partial

import jax
import optax

from experiments.config import AUTO, Config
from experiments.convert import balance, calibrated_scale, chosen_factor, converted_snn
from experiments.runs import command_line, epochs
from experiments.runs.health import divergence_warning, diverging, loss_warning
from experiments.runs.journal import Journal
from experiments.runs.networks import (
    build_snn,
    chunk_of,
    encoding_of,
    init_variables,
    open_source,
    snn_like,
    steps_per_epoch,
)
from experiments.runs.progress import say
from experiments.runs.workdir import Run, finish, read_results, require, restored
from jsnn.conversion import convert, scale_thresholds
from jsnn.datasets import VALIDATION
from jsnn.simulation import Variables
from jsnn.training.evaluation import evaluate_snn
from jsnn.training.optimizers import learning_rate, optimizer
from jsnn.training.step import TrainState, init_state, snn_forward

FINETUNED, CONVERTED = "fine-tuned", "converted"  # the net that a run keeps


def finetune(run: Run) -> None:
    """Fine-tune the converted net of a run to the last epoch.

    Where the validation accuracy then is below the converted net's, the run keeps that one.

    Args:
        run: the run, its ANN converted; gets checkpoints in hybrid/, metrics, and `hybrid` in results.json.
    """
    require(run, "convert")
    config = run.config
    model, encode = build_snn(config), encoding_of(config)
    num_steps, chunk = config.convert.num_steps, chunk_of(config, config.convert.num_steps)
    present = partial(evaluate_snn, model, encode, num_steps, chunk, open_source(config, VALIDATION))
    rule = _optimizer(config)
    state = init_state(starting_snn(run), rule)
    forward = snn_forward(model, encode, num_steps, chunk, logit_scale(run))
    validate = epochs.validator(run, present)
    accuracy = _accuracy_to_keep(run)
    heed = partial(_heed, config, accuracy)
    _, journal = epochs.train(run, "hybrid", state, forward, rule, config.finetune.epochs, validate, heed)
    found = journal.summary() | {"kept": FINETUNED}
    if found["validation_accuracy"] < accuracy:
        found |= {"kept": CONVERTED, "warning": loss_warning(config, found["validation_accuracy"], accuracy)}
        say(f"warning: {found['warning']}")
    finish(run, "finetune", journal.total("seconds"), {"hybrid": found})


def finetuned_snn(run: Run) -> Variables:
    """The variables of the run's fine-tuned net, or of the converted net where that one was kept.

    Raises:
        ValueError: where it is not fine-tuned yet.
    """
    require(run, "finetune")
    return scale_thresholds(converted_snn(run), chosen_factor(run)) if handed_back(run) else last_snn(run)


def handed_back(run: Run) -> bool:
    """Whether fine-tuning lost accuracy, so that the run kept the converted net."""
    return read_results(run.directory)["hybrid"]["kept"] == CONVERTED


def last_snn(run: Run) -> Variables:
    """The variables of the run's net after the last epoch of fine-tuning, be they better or worse than before."""
    rule = _optimizer(run.config)
    expected: TrainState = jax.eval_shape(lambda: init_state(snn_like(run.config), rule))
    state = restored(run, "hybrid", expected)
    return {"params": state.params, "neuron": state.neuron}


def starting_snn(run: Run) -> Variables:
    """The net before the first epoch: thresholds scaled, leak as configured.

    From scratch, the thresholds are balanced for the random weights and scaled by the factor of the converted net.
    """
    if run.config.finetune.start == "scratch":
        ann = init_variables(run.config, "scratch")
        thresholds = balance(run, ann)
    else:
        ann = converted_snn(run)
        thresholds = {layer: values["threshold"] for layer, values in ann.pop("neuron").items()}
    return scale_thresholds(convert(ann, thresholds, run.config.finetune.leak), chosen_factor(run))


def logit_scale(run: Run) -> float:
    """The factor on the logits in the loss; random weights have nothing to calibrate."""
    if run.config.finetune.logit_scale != AUTO:
        return run.config.finetune.logit_scale
    return 1.0 if run.config.finetune.start == "scratch" else calibrated_scale(run)


def _accuracy_to_keep(run: Run) -> float:
    """The validation accuracy of the net that fine-tuning starts from; random weights have none to keep."""
    if run.config.finetune.start == "scratch":
        return 0.0
    return read_results(run.directory)["converted"]["validation_accuracy"]


def _heed(config: Config, accuracy: float, journal: Journal) -> None:
    """Warn after the epoch that shows the net to diverge."""
    epoch = len(journal.history)
    if diverging(journal.history, accuracy) == epoch:
        say(f"warning: {divergence_warning(config, epoch, accuracy)}")


def _optimizer(config: Config) -> optax.GradientTransformation:
    steps = steps_per_epoch(config)
    rate = learning_rate(
        config.finetune.schedule, config.finetune.lr, config.finetune.epochs, steps, config.finetune.warmup
    )
    return optimizer(config.finetune.optimizer, rate, config.finetune.weight_decay, config.finetune.clip)


if __name__ == "__main__":
    command_line.run_stage("finetune", __doc__, finetune)
