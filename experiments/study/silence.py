"""Question c: neurons that never fire in a presentation, which STDB therefore gives no gradient."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.config import Config
from experiments.runs.networks import build_snn, encoding_of, open_source, random_key
from experiments.runs.workdir import Results
from jsnn.augment import scale
from jsnn.datasets import VALIDATION
from jsnn.packing import unpack
from jsnn.simulation import Variables, simulate

IMAGES = 1024  # of the validation split


def silence(config: Config, snn: Variables) -> Results:
    """Shares of silent neurons, over the first images of the validation split.

    Args:
        config: of the run; T is at most 32.
        snn: SNN variables.

    Returns:
        {"never": layer -> share of (neuron, image) without a spike, "no gradient": layer -> share of (neuron, image,
        step) before the neuron's first spike, where STDB's derivative is 0}.
    """
    source, model, key = open_source(config, VALIDATION), build_snn(config), random_key(config, "validation")

    def observe(_: jax.Array, collected: Variables) -> Any:
        return {
            layer: unpack(train["lif"], config.convert.num_steps, jnp.float32)
            for layer, train in collected["trains"].items()
        }

    @jax.jit
    def of_batch(index: jax.Array, resident: Any) -> Results:
        images = scale(source.take(resident, index).images)
        inputs = partial(encoding_of(config), images, key, index)
        steps = {"num_steps": config.convert.num_steps, "chunk": config.convert.num_steps}
        trains = simulate(model, snn, inputs, observe, **steps, collect=("trains",))
        before = {layer: jnp.cumsum(spikes, 0) - spikes for layer, spikes in trains.items()}
        return {
            "never": {layer: (spikes.sum(0) == 0).mean() for layer, spikes in trains.items()},
            "no gradient": {layer: (count == 0).mean() for layer, count in before.items()},
        }

    batches = jnp.arange(IMAGES, dtype=jnp.int32).reshape(-1, config.run.eval_batch_size)
    shares = [of_batch(index, source.resident) for index in batches]
    return jax.tree.map(lambda *share: float(sum(share) / len(share)), *shares)
