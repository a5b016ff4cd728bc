"""Fine-tune the converted net with a surrogate gradient, or train it from scratch for the control.

Then the run keeps the better one of the converted and the fine-tuned net. They are compared on validation images that
have chosen nothing: the second half of the split, or all of it if the thresholds' factor and the logits' scale were
given. With a penalty on rates the run always keeps the fine-tuned net, which was asked for fewer spikes.

python -m experiments.finetune [PRESET] [--workdir DIR] [--field value ...]
"""

import time
from functools import cache
from statistics import mean

import jax
import optax

from experiments import networks
from experiments.convert import balance, calibrated_scale, converted_snn, scaled_snn
from experiments.fields import AUTO, Config
from experiments.machine import Machine, this_machine
from experiments.runs import command_line
from experiments.runs.data import open_source, steps_per_epoch
from experiments.runs.loop import Training, advice, train
from experiments.runs.progress import say
from experiments.runs.stages import finish, require, restored, save_network
from experiments.runs.workdir import CONVERTED, FINETUNED, Results, Run, read_results
from experiments.scoring import images_for_comparison, score_snn, validator, warn_of_silent_layers
from experiments.train_ann import trained_ann
from jsnn.conversion import convert
from jsnn.data.datasets import TRAIN, VALIDATION
from jsnn.network.transformation import NEURONS, Variables
from jsnn.training.forward import TEACHER, Forward, snn_forward, summed, with_rates, with_teacher
from jsnn.training.loss import Loss, Outputs, few_steps_loss
from jsnn.training.optimizers import learning_rate, optimizer
from jsnn.training.parallel import parallel_train_step
from jsnn.training.step import Step, TrainState, init_state
from jsnn.training.within_bounds import weights_and_neurons


def finetune(run: Run) -> None:
    """Fine-tune the converted net of a run to the last epoch: checkpoints in hybrid/, and `hybrid` in results.json."""
    require(run, "convert")
    config, begin = run.config, time.perf_counter()
    score, is_scratch = validator(config), config.finetune.start == "scratch"
    before = 0.0 if is_scratch else score(scaled_snn(run))  # random weights have no accuracy to keep
    if not config.finetune.trained:
        save_network(run, "hybrid", 0, scaled_snn(run), {})
        results = {"validation_accuracy": before, "epochs": 0, "history": [], "kept": CONVERTED}
        finish(run, "finetune", time.perf_counter() - begin, {"hybrid": results}, "nothing is trained")
        return
    step = _step(config, logit_scale(run))
    training = Training("hybrid", step, config.finetune.epochs, lambda variables: score(_without_teacher(variables)))
    journal = train(run, training, state_of(config, starting_snn(run), trained_ann(run), rule_of(config)))
    results, begin = journal.summary() | {"kept": FINETUNED}, time.perf_counter()
    if not is_scratch:
        results |= {"validation_accuracy_before": before} | _kept(run)
    summary = f"validation {results['validation_accuracy']:.2%} after {results['epochs']} epochs"
    finish(run, "finetune", journal.total("seconds") + time.perf_counter() - begin, {"hybrid": results}, summary)


@cache
def _step(config: Config, factor: float) -> Step:
    """The compiled step of fine-tuning an SNN whose logits count times a factor."""
    source, forward = open_source(config, TRAIN), forward_of(config, factor, this_machine())
    return parallel_train_step(source, forward, rule_of(config), loss_of(config), config.run.accumulate)


def _kept(run: Run) -> Results:
    """Which net the run keeps, and the accuracies that decide it: means over streams of noise, at num_steps."""
    config, num_steps = run.config, run.config.convert.num_steps
    keys = networks.stream_keys(config, "comparison", config.finetune.comparison_streams)
    images, accuracies = images_for_comparison(config), {}
    for name, snn in ((CONVERTED, scaled_snn(run)), (FINETUNED, last_snn(run))):
        streams = [score_snn(config, snn, num_steps, VALIDATION, key, images) for key in keys]
        accuracies[name] = mean(float(scores.accuracy[-1]) for scores in streams)
        warn_of_silent_layers(name, {layer: float(spikes.sum()) for layer, spikes in streams[0].spikes.items()})
    if accuracies[FINETUNED] >= accuracies[CONVERTED] or config.finetune.rate_penalty:
        return {"comparison": accuracies}
    warning = (
        f"fine-tuning ended at {accuracies[FINETUNED]:.2%} on validation images and noise that chose nothing, below "
        f"the {accuracies[CONVERTED]:.2%} of the converted net that it started from, which is kept instead: "
        f"{advice(config, 'hybrid')}."
    )
    say(f"warning: {warning}")
    return {"comparison": accuracies, "kept": CONVERTED, "warning": warning}


def finetuned_snn(run: Run) -> Variables:
    """The variables of the run's fine-tuned net, or of the converted one where that was kept; ValueError before."""
    require(run, "finetune")
    return scaled_snn(run) if read_results(run.directory)["hybrid"]["kept"] == CONVERTED else last_snn(run)


def last_snn(run: Run) -> Variables:
    """The variables of the run's net after the last epoch of fine-tuning, be they better or worse than before."""
    if not run.config.finetune.trained:
        return scaled_snn(run)
    config, rule = run.config, rule_of(run.config)
    expected: TrainState = jax.eval_shape(
        lambda: state_of(config, networks.snn_like(config), networks.init_variables(config, "init"), rule)
    )
    return _without_teacher(restored(run, "hybrid", expected).variables())


def _without_teacher(variables: Variables) -> Variables:
    return {name: value for name, value in variables.items() if name != TEACHER}


def starting_snn(run: Run) -> Variables:
    """The net before the first epoch: thresholds scaled by the factor of the converted net, leak as configured."""
    if run.config.finetune.start == "scratch":
        ann = networks.folded(run.config, networks.init_variables(run.config, "scratch"))
        thresholds = balance(run, ann)  # for its random weights
    else:
        ann = dict(converted_snn(run))
        thresholds = {layer: values["threshold"] for layer, values in ann.pop(NEURONS).items()}
    leak, initial = run.config.finetune.leak, run.config.convert.initial
    return scaled_snn(run, convert(networks.build_snn(run.config), ann, thresholds, leak=leak, initial=initial))


def logit_scale(run: Run) -> float:
    """The factor on the logits in the loss; random weights have nothing to calibrate."""
    if run.config.finetune.logit_scale != AUTO:
        return run.config.finetune.logit_scale
    return 1.0 if run.config.finetune.start == "scratch" else calibrated_scale(run)


def state_of(config: Config, snn: Variables, teacher: Variables, rule: optax.GradientTransformation) -> TrainState:
    """The state before the first step of fine-tuning an SNN, with the ANN beside it where that teaches."""
    taught = {TEACHER: teacher} if config.finetune.distillation else {}
    return init_state({**networks.with_channels(config, snn), **taught}, rule, networks.trained_collections(config))


def forward_of(config: Config, factor: float, machine: Machine) -> Forward:
    """The forward function of the SNN of a config, its logits times a factor."""
    presentation, trained = networks.training_presentation(config, machine), networks.trained_collections(config)
    present = snn_forward(presentation, lambda outcome: outcome, trained, config.finetune.residuals)

    def forward(snn: Variables, *inputs: jax.Array) -> tuple[Outputs, Variables]:
        outcome, changed = present(snn, *inputs)
        return with_rates(outcome)._replace(logits=factor * networks.logit_unit(config, snn) * summed(outcome)), changed

    return with_teacher(forward, networks.ann_function(config)) if config.finetune.distillation else forward


def loss_of(config: Config) -> Loss:
    """What fine-tuning minimises."""
    options = config.finetune
    return few_steps_loss(options.distillation, options.temperature, options.rate_penalty)


def rule_of(config: Config, steps: int | None = None) -> optax.GradientTransformation:
    """The optimiser of the SNN of a config, of epochs of so many steps, or of as many as its data make."""
    options, steps = config.finetune, steps or steps_per_epoch(config)

    def rule(lr: float, weight_decay: float, clip: float | None = None) -> optax.GradientTransformation:
        rate = learning_rate(options.schedule, lr, options.epochs, steps, options.warmup)
        return optimizer(options.optimizer, rate, weight_decay, clip)

    if options.trained == ("weights",):
        return rule(options.lr, options.weight_decay, options.clip)
    weights, neurons = rule(options.lr, options.weight_decay), rule(options.neuron_lr, 0.0)
    first = () if options.clip is None else (optax.clip_by_global_norm(options.clip),)
    return optax.chain(*first, weights_and_neurons(weights, neurons, options.trained))


if __name__ == "__main__":
    command_line.run_stage("finetune", __doc__, finetune)
