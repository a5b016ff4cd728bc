"""Fine-tune the converted net with a surrogate gradient, or train it from scratch for the control.

python -m experiments.finetune [PRESET] [--workdir DIR] [--field value ...]
"""

import jax
import optax

from experiments.config import AUTO, Config
from experiments.convert import balance, calibrated_scale, chosen_factor, converted_snn, scaled_snn
from experiments.runs import command_line
from experiments.runs.epochs import Training, train
from experiments.runs.health import divergence_warning, diverging, loss_warning
from experiments.runs.journal import Journal
from experiments.runs.networks import init_variables, presentation_of, snn_like, steps_per_epoch
from experiments.runs.progress import say
from experiments.runs.scoring import snn_program, validator
from experiments.runs.workdir import Run, finish, read_results, require, restored
from jsnn.conversion import convert, scale_thresholds
from jsnn.datasets import VALIDATION
from jsnn.simulation import Variables
from jsnn.training.optimizers import learning_rate, optimizer
from jsnn.training.step import TrainState, init_state, snn_forward

FINETUNED, CONVERTED = "fine-tuned", "converted"  # the net that a run keeps


def finetune(run: Run) -> None:
    """Fine-tune the converted net of a run to the last epoch: checkpoints in hybrid/, and `hybrid` in results.json.

    Where the validation accuracy then is below the converted net's, the run keeps that one.
    """
    require(run, "convert")
    config, rule, num_steps = run.config, _optimizer(run.config), run.config.convert.num_steps
    before = _accuracy_to_keep(run)

    def warn(journal: Journal) -> None:
        epoch = len(journal.history)
        if diverging(journal.history, before) == epoch:
            say(f"warning: {divergence_warning(config, epoch, before)}")

    forward = snn_forward(*presentation_of(config, num_steps), logit_scale(run))
    validate = validator(config, snn_program(config, num_steps, VALIDATION))
    training = Training("hybrid", forward, rule, config.finetune.epochs, validate, warn)
    journal = train(run, training, init_state(starting_snn(run), rule))
    results = journal.summary() | {"kept": FINETUNED}
    if results["validation_accuracy"] < before:
        results |= {"kept": CONVERTED, "warning": loss_warning(config, results["validation_accuracy"], before)}
        say(f"warning: {results['warning']}")
    finish(run, "finetune", journal.total("seconds"), {"hybrid": results})


def finetuned_snn(run: Run) -> Variables:
    """The variables of the run's fine-tuned net, or of the converted one where that was kept; ValueError before."""
    require(run, "finetune")
    return scaled_snn(run) if handed_back(run) else last_snn(run)


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


def _optimizer(config: Config) -> optax.GradientTransformation:
    options = config.finetune
    rate = learning_rate(options.schedule, options.lr, options.epochs, steps_per_epoch(config), options.warmup)
    return optimizer(options.optimizer, rate, options.weight_decay, options.clip)


if __name__ == "__main__":
    command_line.run_stage("finetune", __doc__, finetune)
