"""Spiking neurons and their surrogate derivatives; spike trains as bits."""

from jsnn.neurons.further import TraceState, adaptive_lif, current_lif, refractory_lif
from jsnn.neurons.leaky import LIFState, hard_reset_lif, lif
from jsnn.neurons.neuron import Neuron, over_time

__all__ = [
    "LIFState",
    "Neuron",
    "TraceState",
    "adaptive_lif",
    "current_lif",
    "hard_reset_lif",
    "lif",
    "over_time",
    "refractory_lif",
]
