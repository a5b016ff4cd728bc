"""What a contestant is: one network in one library, ready to be timed."""

from collections.abc import Callable
from typing import NamedTuple


class Contestant(NamedTuple):
    """A network in one library, with the weights, thresholds and images of a Problem, for T time steps.

    Attributes:
        train: one optimiser step (Adam, learning rate 1e-4) on the problem's batch, input spikes drawn afresh inside;
            returns when the step is done.
        evaluate: scores the problem's batch after T steps without a gradient; returns when that is done.
        rates: () -> layer -> spikes per neuron and time step.
        details: () -> facts of this contestant alone, to be reported beside its figures; asked for after a step.
    """

    train: Callable[[], None]
    evaluate: Callable[[], object]
    rates: Callable[[], dict[str, float]]
    details: Callable[[], dict[str, float]] = dict
