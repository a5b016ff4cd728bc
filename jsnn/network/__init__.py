"""A spiking network as a transformation of an ANN's function, and what runs it over time."""

from jsnn.network.acceleration import accelerate
from jsnn.network.operations import layer_shapes
from jsnn.network.recording import record
from jsnn.network.saving import load, save
from jsnn.network.simulation import Presentation, simulate
from jsnn.network.transformation import SNN, spiking

__all__ = ["SNN", "Presentation", "accelerate", "layer_shapes", "load", "record", "save", "simulate", "spiking"]
