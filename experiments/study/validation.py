"""What the study measures on the validation split beside the runs: accuracies over streams, and silent neurons."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.config import Config
from experiments.convert import chosen_factor, converted_snn
from experiments.finetune import last_snn
from experiments.runs.networks import build_snn, encoding_of, open_source, random_key, stream_keys
from experiments.runs.presentation import present
from experiments.runs.workdir import Results, Run
from jsnn.augment import scale
from jsnn.conversion import scale_thresholds
from jsnn.datasets import VALIDATION
from jsnn.packing import unpack
from jsnn.simulation import Variables, simulate

IMAGES = 1024  # the first ones, in which silent neurons are counted


def over_streams(run: Run) -> dict[str, list[float]]:
    """Accuracies at num_steps of the net before and after fine-tuning, one for each of several streams of noise.

    No choice was made on these streams, so that the best of many factors has no advantage on them.

    Returns:
        {"converted": of the converted net at its factor, "hybrid": of the net after the last epoch}.
    """
    config = run.config
    nets = {"converted": scale_thresholds(converted_snn(run), chosen_factor(run)), "hybrid": last_snn(run)}
    keys = stream_keys(config, VALIDATION, config.evaluate.streams)
    score = partial(present, config, num_steps=config.convert.num_steps, split=VALIDATION)
    return {
        net: [float(score(variables=snn, key=key, label=net).accuracy[-1]) for key in keys]
        for net, snn in nets.items()
    }


def silent_neurons(config: Config, snn: Variables) -> Results:
    """Shares of neurons that have not fired, over the first images; STDB gives them no gradient. T is at most 32.

    Returns:
        {"never": layer -> share of (neuron, image) without a spike, "no gradient": layer -> share of (neuron, image,
        step) before the neuron's first spike, where STDB's derivative is 0}.
    """
    source, model, key = open_source(config, VALIDATION), build_snn(config), random_key(config, VALIDATION)
    num_steps = config.convert.num_steps

    def observe(_: jax.Array, collected: Variables) -> Any:
        return {layer: unpack(train["lif"], num_steps, jnp.float32) for layer, train in collected["trains"].items()}

    @jax.jit
    def of_batch(index: jax.Array, resident: Any) -> Results:
        inputs = partial(encoding_of(config), scale(source.take(resident, index).images), key, index)
        trains = simulate(model, snn, inputs, observe, num_steps=num_steps, chunk=num_steps, collect=("trains",))
        before = {layer: jnp.cumsum(spikes, 0) - spikes for layer, spikes in trains.items()}
        return {
            "never": {layer: (spikes.sum(0) == 0).mean() for layer, spikes in trains.items()},
            "no gradient": {layer: (count == 0).mean() for layer, count in before.items()},
        }

    batches = jnp.arange(IMAGES, dtype=jnp.int32).reshape(-1, config.run.eval_batch_size)
    shares = [of_batch(index, source.resident) for index in batches]
    return jax.tree.map(lambda *share: float(sum(share) / len(share)), *shares)
