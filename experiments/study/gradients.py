"""Question c: where surrogate gradients lead, layer by layer, whether batches agree, and which neurons have none.

By `jsnn.training.diagnostics`, on validation images: gradients come from one half of the split, the slopes along them
from the other.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from experiments.convert import calibrated_scale
from experiments.fields import Config
from experiments.finetune import logit_scale, starting_snn
from experiments.runs.networks import logit_unit, presentation_of, random_key
from experiments.runs.schema import Results
from experiments.runs.splits import open_source
from experiments.runs.workdir import Run
from jsnn.data.datasets import VALIDATION
from jsnn.data.sources import Batch
from jsnn.network.simulation import Presentation
from jsnn.network.transformation import Variables
from jsnn.training import diagnostics

IMAGES, IMAGES_FOR_SILENCE = 2048, 1024  # in each half of the validation split; the first ones of it
BATCH = 256
MOVE = 0.02  # of the norm of the layer's weights


def descent(run: Run) -> Results:
    """Gradient -> `changes` of the net that fine-tuning starts with by steps along it; their loss is the calibrated."""
    config, snn, calibrated = run.config, starting_snn(run), calibrated_scale(run)
    results = {}
    for name in ("stdb", "linear"):
        of_surrogate = replace(config, finetune=replace(config.finetune, surrogate=name))
        for kind, factor in (("plain", 1.0), ("calibrated", calibrated)):
            gradients = batch_gradients(of_surrogate, snn, BATCH, factor)
            results[f"{name}, {kind}"] = changes(config, snn, gradients, calibrated)
    return results


def agreement(run: Run, snn: Variables) -> Results:
    """By layer the "share" on which batches agree on gradients of a net, and the change of the "loss" by a step along.

    Batches are of the run's size, gradients by its surrogate, of its loss [nats].
    """
    config, factor = run.config, logit_scale(run)
    gradients = batch_gradients(config, snn, config.data.batch_size, factor)
    kernels = {layer: of_layer["kernel"] for layer, of_layer in gradients.items() if "kernel" in of_layer}
    shares = {layer: float(diagnostics.agreement(kernel)) for layer, kernel in kernels.items()}
    return {"share": shares, "loss": changes(config, snn, gradients, factor)["loss"]}


def batch_gradients(config: Config, snn: Variables, batch_size: int, factor: float) -> Results:
    """Gradients of the first half in batches, of the loss of logits times a factor."""
    presentation, batches, key = validation(config, 0, IMAGES, batch_size)
    return diagnostics.batch_gradients(presentation, snn, batches, key, factor * logit_unit(config, snn))


def changes(config: Config, snn: Variables, gradients: Results, factor: float) -> Results:
    """Changes of "loss", of logits times a factor, and "accuracy" on the second half by a step downhill, by layer."""
    presentation, batches, key = validation(config, IMAGES, IMAGES, BATCH)
    scale = factor * logit_unit(config, snn)
    score = partial(diagnostics.mean_scores, presentation, batches=batches, key=key, logit_scale=scale)
    changes = diagnostics.step_changes(score, snn, gradients, MOVE)._asdict()
    return {name: {layer: float(change) for layer, change in by_layer.items()} for name, by_layer in changes.items()}


def silent_neurons(config: Config, snn: Variables) -> Results:
    """Shares of neurons that have not fired, by layer, see `diagnostics.SilentNeurons`."""
    presentation, batches, key = validation(config, 0, IMAGES_FOR_SILENCE, config.run.eval_batch_size)
    never, so_far = diagnostics.silent_neurons(presentation, snn, batches, key)
    return jax.tree.map(float, {"never": never, "no gradient": so_far})


def validation(config: Config, start: int, count: int, batch_size: int) -> tuple[Presentation, Batch, jax.Array]:
    """How the SNN is presented validation images, these from one on in batches, and the key of their encoding."""
    source = open_source(config, VALIDATION)
    index = jnp.arange(start, start + count, dtype=jnp.int32).reshape(-1, batch_size)
    batches = jax.device_put(source.take(source.resident, index), jax.devices()[0])
    return presentation_of(config, config.convert.num_steps), batches, random_key(config, VALIDATION)
