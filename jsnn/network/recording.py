"""Recording spikes, membranes and currents of all layers over time."""

from collections.abc import Sequence
from typing import Any

import jax

from jsnn.network.simulation import Inputs, Observed, simulate
from jsnn.network.transformation import SNN, Variables

WHAT = ("spikes", "membranes", "currents")


def record(
    snn: SNN,
    variables: Variables,
    inputs: Inputs,
    *,
    num_steps: int,
    what: Sequence[str] = ("spikes",),
    chunk: int = 16,
    **kwargs: Any,
) -> dict[str, dict[str, jax.Array]]:
    """What happens in the layers of an SNN over time, differentiable.

    Args:
        snn: the network.
        variables: of the SNN.
        inputs: time [K] int32 -> inputs [K, B, ...] of these steps.
        num_steps: T, at least 1.
        what: any of "spikes", "membranes" (after the step, before the reset that its spike calls for) and "currents".
        chunk: time steps at once; does not change the result.
        kwargs: of the ANN's function.

    Returns:
        what -> layer -> [T, B, ...].

    Raises:
        ValueError: where num_steps or chunk is below 1, something else is to be recorded, or the neurons' state has no
            membrane.
    """
    if unknown := set(what) - set(WHAT):
        raise ValueError(f"there is no {min(unknown)!r} to record: choose from {', '.join(WHAT)}.")
    collect = ["states" if name == "membranes" else name for name in what]

    def observe(observed: Observed) -> dict[str, dict[str, jax.Array]]:
        recorded = dict(observed.layers)
        if "states" in recorded:
            recorded["membranes"] = {layer: _membrane(state) for layer, state in recorded.pop("states").items()}
        return recorded

    return simulate(snn, variables, inputs, observe, num_steps=num_steps, chunk=chunk, collect=collect, **kwargs)


def _membrane(state: Any) -> jax.Array:
    if not hasattr(state, "membrane"):
        raise ValueError(f"the state of these neurons has no field `membrane` to record: {type(state).__name__}.")
    return state.membrane
