"""Numbers that go wrong: a loss or gradient that is not finite, a dead network, a fine-tune that harms."""

import math
from collections.abc import Mapping, Sequence

from experiments.fields import Config
from experiments.runs.journal import Journal
from experiments.runs.networks import build_ann
from experiments.runs.progress import say
from jsnn.data.datasets import info
from jsnn.training.metrics import Record
from jsnn.training.step import Metrics

PATIENCE = 3  # epochs that a fine-tune may stay below the net that it started from
REVIVE = "train the ANN longer or with larger dense_std, raise num_steps or lower scaling_factor"


def with_step(config: Config, network: str, journal: Journal, metrics: Metrics) -> Journal:
    """The journal with one step more, which counts as skipped where a number is not finite.

    FloatingPointError, naming the step, the layer and what to change, where `on_nan` is "stop".
    """
    journal = journal._replace(steps=journal.steps + 1)
    problem = _problem(config, metrics)
    if problem is None:
        loss, accuracy = journal.loss + float(metrics.loss), journal.accuracy + float(metrics.scores["accuracy"])
        return journal._replace(loss=loss, accuracy=accuracy)
    where = f"in step {journal.steps} of epoch {journal.epoch} of {network} {problem}"
    if config.run.on_nan == "stop":
        raise FloatingPointError(
            f"{where}: {_advice(config, network)}, or skip such steps by --on-nan=skip; what was saved is kept."
        )
    say(f"warning: {where}: skipped")
    return journal._replace(skipped=journal.skipped + 1)


def mean_metrics(config: Config, network: str, journal: Journal) -> tuple[float, float]:
    """Mean loss and training accuracy of the epoch's steps that were not skipped; FloatingPointError if all were."""
    counted = journal.steps - journal.skipped
    if not counted:
        raise FloatingPointError(
            f"all {journal.steps} steps of epoch {journal.epoch} of {network} were skipped: "
            f"{_advice(config, network)}; what was saved is kept."
        )
    return journal.loss / counted, journal.accuracy / counted


def warn_of_silent_layers(network: str, spikes: Mapping[str, float]) -> None:
    """Warn of layers without a spike for any image: their neurons have no say, and STDB can't train them."""
    silent = [layer for layer, count in spikes.items() if count == 0]
    if silent:
        say(f"warning: the {network} net is dead: no neuron of {', '.join(silent)} spikes for any image; {REVIVE}.")


def warn_of_indifference(config: Config, network: str, history: Sequence[Record]) -> None:
    """Warn once of a network whose logits are all equal, by its loss of ln(number of classes) in the last epoch."""
    loss = math.log(info(config.data.dataset).num_classes)
    is_indifferent = [math.isclose(record["loss"], loss, rel_tol=1e-6) for record in history]
    if is_indifferent[-1] and sum(is_indifferent) == 1:
        advice = "train it with larger dense_std or ann.lr" if network == "ann" else REVIVE
        say(f"warning: {network} gives all classes the same logit, loss {loss:.4f}: it is dead; {advice}.")


def diverging(history: Sequence[Record], converted_accuracy: float) -> int | None:
    """The first epoch, from 1, at whose end a fine-tune was below the converted net for PATIENCE epochs in a row."""
    below = 0
    for epoch, record in enumerate(history, start=1):
        below = below + 1 if record["validation_accuracy"] < converted_accuracy else 0
        if below == PATIENCE:
            return epoch
    return None


def divergence_warning(config: Config, epoch: int, converted_accuracy: float) -> str:
    """The warning of a diverging fine-tune."""
    return (
        f"for {PATIENCE} epochs up to epoch {epoch} the validation accuracy of the fine-tuned net was below the "
        f"{converted_accuracy:.2%} of the converted net that it started from: {_advice(config, 'hybrid')}."
    )


def loss_warning(config: Config, accuracy: float, converted_accuracy: float) -> str:
    """The warning of a fine-tune that ends below the converted net, which is kept instead."""
    return (
        f"fine-tuning ended at {accuracy:.2%} on validation images and noise that chose nothing, below the "
        f"{converted_accuracy:.2%} of the converted net that it started from, which is kept instead: "
        f"{_advice(config, 'hybrid')}."
    )


def _problem(config: Config, metrics: Metrics) -> str | None:
    """Which number of a step is not finite, or None."""
    bad = {layer for layer, is_finite in metrics.finite.items() if not is_finite}
    if math.isfinite(metrics.loss):
        return f"the gradient or the next value of {_origin(config, bad)} is not finite" if bad else None
    return f"the loss is {float(metrics.loss)}" + (f", the gradient of {_origin(config, bad)} too" if bad else "")


def _origin(config: Config, bad: set[str]) -> str:
    """The layer where it began: gradients flow backward, so it is the last of those that have it."""
    backward = ["readout", *reversed(build_ann(config).spiking_layers)]
    return next((layer for layer in backward if layer in bad), min(bad))


def _advice(config: Config, network: str) -> str:
    if network == "ann":
        return f"lower ann.lr ({config.ann.lr:g})"
    lower = f"lower finetune.lr ({config.finetune.lr:g})"
    if config.finetune.surrogate == "stdb":
        return f"{lower}, or take the linear surrogate, which few time steps suit better"
    return f"{lower} or finetune.epochs ({config.finetune.epochs}), or raise num_steps ({config.convert.num_steps})"
