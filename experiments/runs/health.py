"""Numbers that go wrong: a loss or gradient that is not finite, a dead network."""

import math
from collections.abc import Mapping

from experiments.fields import Config
from experiments.networks import build_ann
from experiments.runs.progress import say
from jsnn.training.step import Metrics


def is_finite(config: Config, where: str, metrics: Metrics) -> bool:
    """Whether all numbers of a step are finite; else a warning, or FloatingPointError where `on_nan` is "stop"."""
    bad = {layer for layer, is_finite in metrics.finite.items() if not is_finite}
    if math.isfinite(metrics.loss) and not bad:
        return True
    # Gradients flow backward, so the problem began in the last of the layers that have it.
    backward = ["readout", *reversed(build_ann(config).spiking_layers)]
    layer = next((layer for layer in backward if layer in bad), min(bad, default=None))
    if math.isfinite(metrics.loss):
        problem = f"the gradient or the next value of {layer} is not finite"
    else:
        problem = f"the loss is {float(metrics.loss)}" + (f", the gradient of {layer} too" if bad else "")
    if config.run.on_nan == "stop":
        network = where.rpartition(" ")[2]
        raise FloatingPointError(
            f"in {where} {problem}: {advice(config, network)}, or skip such steps by --on-nan=skip; what was saved is "
            "kept."
        )
    say(f"warning: in {where} {problem}: skipped")
    return False


def warn_of_silent_layers(network: str, spikes: Mapping[str, float]) -> None:
    """Warn of layers without a spike for any image: their neurons have no say, and STDB can't train them."""
    silent = [layer for layer, count in spikes.items() if count == 0]
    if silent:
        say(
            f"warning: the {network} net is dead: no neuron of {', '.join(silent)} spikes for any image; train the ANN "
            "longer or with larger dense_std, raise num_steps or lower scaling_factor."
        )


def advice(config: Config, network: str) -> str:
    """What to change where the training of "ann" or "hybrid" goes wrong."""
    if network == "ann":
        return f"lower ann.lr ({config.ann.lr:g})"
    lower = f"lower finetune.lr ({config.finetune.lr:g})"
    if config.finetune.surrogate == "stdb":
        return f"{lower}, or take the linear surrogate, which few time steps suit better"
    return f"{lower} or finetune.epochs ({config.finetune.epochs}), or raise num_steps ({config.convert.num_steps})"
