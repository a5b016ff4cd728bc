"""From a config to what jsnn works with: networks, encodings, random keys."""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from experiments.fields import AUTO, Config
from experiments.machine import Machine, this_machine
from jsnn import encoding
from jsnn.conversion import parameters_by_channel, scale_paper_thresholds, scale_thresholds
from jsnn.data.datasets import info
from jsnn.models import VGG, ResNet, build, dropout_of, fold_batch_norm
from jsnn.network.acceleration import accelerate
from jsnn.network.chunks import fitting_chunk
from jsnn.network.simulation import Presentation
from jsnn.network.transformation import NEURONS, SNN, Variables, spiking
from jsnn.neurons import lif, surrogate
from jsnn.training.forward import residuals_of
from jsnn.training.within_bounds import WEIGHTS

OPERANDS = {"float32": None, "bfloat16": jnp.dtype("bfloat16")}  # of matrix products, by precision; None leaves them
BYTES_OF_MEMBRANE = 4
# Of a device's memory, what the largest layer's currents may take in a chunk: a training step holds some tens of such
# arrays beside spikes and weights, an evaluation a few.
TRAINING_SHARE, EVALUATION_SHARE = 1 / 256, 1 / 32
PURPOSES = ("init", "ann", "balance", "validation", "scratch", "hybrid", "test", "comparison")


def build_ann(config: Config, is_folded: bool = False) -> VGG | ResNet:
    """The ANN of a config, as it is trained or with its batch norm folded."""
    fields = asdict(config.network)
    norm, _ = fields.pop("norm"), fields.pop("precision")
    norm = "folded" if is_folded else None if norm == "none" else norm
    return build(num_classes=info(config.data.dataset).num_classes, norm=norm, **fields)


def folded(config: Config, ann: Variables) -> Variables:
    """The variables of a config's ANN as it is converted: its batch norm folded where that is asked for."""
    return fold_batch_norm(ann) if config.convert.fold else ann


def ann_function(config: Config) -> Callable[..., Any]:
    """The function of a config's ANN, (variables, images, **kwargs) -> logits, fast on the platform."""
    return accelerate(build_ann(config).apply, OPERANDS[config.network.precision])


def build_snn(config: Config) -> SNN:
    """The SNN of a config, with its surrogate."""
    options, model = config.finetune, build_ann(config, config.convert.fold)
    stdb, linear = surrogate.stdb(options.alpha, options.beta), surrogate.linear(options.gamma)
    neuron = lif(stdb if options.surrogate == "stdb" else linear)
    return spiking(model.apply, neuron, OPERANDS[config.network.precision])


def training_presentation(config: Config, machine: Machine) -> Presentation:
    """How the SNN of a config is presented images in training."""
    samples = config.data.batch_size // machine.num_devices // config.run.accumulate
    of_memory = machine, samples, TRAINING_SHARE
    presentation = _presentation(config, config.convert.num_steps, *of_memory)
    if residuals_of(presentation, trained_collections(config), config.finetune.residuals) is not None:
        return presentation
    # Membranes are kept at every border of chunks: longer ones take less memory.
    return _presentation(config, config.convert.num_steps, *of_memory, at_least=8)


def presentation_of(config: Config, num_steps: int, machine: Machine | None = None) -> Presentation:
    """How the SNN of a config is presented images for `num_steps` steps, without a gradient."""
    machine = machine or this_machine()
    samples = config.run.eval_batch_size // machine.num_devices
    return _presentation(config, num_steps, machine, samples, EVALUATION_SHARE)


def trained_collections(config: Config) -> tuple[str, ...]:
    """The collections of an SNN that fine-tuning trains, at least in parts."""
    return ("params",) if set(config.finetune.trained) <= {"weights"} else ("params", NEURONS)


def _presentation(
    config: Config, num_steps: int, machine: Machine, samples: int, share: float, at_least: int = 1
) -> Presentation:
    """Chunks are at most of the steps at which the largest layer's currents take a share of a device's memory."""
    chunk, most = config.run.chunk, None
    if chunk == AUTO:
        if machine.device_bytes is not None:
            step_bytes = BYTES_OF_MEMBRANE * max(1, samples) * _largest_layer(config)
            most = max(at_least, int(share * machine.device_bytes) // step_bytes)
        chunk = fitting_chunk(num_steps, most)
    encode = {"poisson": encoding.poisson, "constant": encoding.constant}[config.convert.encoding]
    return Presentation(build_snn(config), encode, num_steps, chunk, dropout_of)


@cache
def _largest_layer(config: Config) -> int:
    """Neurons in the largest layer of the SNN of a config."""
    layers = jax.eval_shape(lambda: build_snn(config).initial_state(snn_like(config), _an_image(config)))
    return max(state.membrane.size for state in layers.values())


def scaled(config: Config, snn: Variables, factor: jax.Array | float) -> Variables:
    """An SNN of a config with its thresholds scaled, in the paper's units or in the ANN's."""
    if config.convert.scaling == "uniform":
        return scale_thresholds(snn, factor)
    return scale_paper_thresholds(snn, factor, build_ann(config).spiking_layers)


def logit_unit(config: Config, snn: Variables) -> jax.Array | float:
    """The factor that makes logits of the results' sum over time: 1 / V of the last layer, as the paper's, or 1 / T."""
    if config.convert.logits == "mean":
        return 1 / config.convert.num_steps
    return 1 / snn[NEURONS][build_ann(config).spiking_layers[-1]]["threshold"]


def random_key(config: Config, purpose: str) -> jax.Array:
    """The random key of a config for one of PURPOSES; no two purposes share a stream."""
    return jax.random.fold_in(jax.random.key(config.seed), PURPOSES.index(purpose))


def stream_keys(config: Config, purpose: str, streams: int) -> list[jax.Array]:
    """The random keys of streams of noise for a purpose, the first ones alike for any number; one of constant input."""
    key, is_noisy = random_key(config, purpose), config.convert.encoding == "poisson"
    return [jax.random.fold_in(key, stream) for stream in range(streams if is_noisy else 1)]


def init_variables(config: Config, purpose: str) -> Variables:
    """Fresh ANN variables, drawn for a purpose."""
    return jax.jit(build_ann(config).init)(random_key(config, purpose), jnp.zeros_like(_an_image(config)))


def snn_like(config: Config) -> Variables:
    """SNN variables of the structure, shapes and dtypes of the config's converted net, with thresholds of 1."""
    return build_snn(config).init(folded(config, init_variables(config, "init")), _an_image(config))


def with_channels(config: Config, snn: Variables) -> Variables:
    """SNN variables of a config with each parameter of neurons that is trained by channel, where that is asked for."""
    if not config.finetune.by_channel:
        return snn
    of_neurons = [name for name in config.finetune.trained if name != WEIGHTS]
    return parameters_by_channel(build_snn(config), snn, _an_image(config), of_neurons)


def _an_image(config: Config) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *info(config.data.dataset).image_shape), jnp.float32)
