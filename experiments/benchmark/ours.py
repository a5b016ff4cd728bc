"""The network in jsnn: the training step and the evaluation that `experiments.hybrid` runs, on one device."""

import jax
import numpy as np
import optax

from experiments.benchmark.problem import LEARNING_RATE, Contestant, Problem, layers
from jsnn.balancing import balance_thresholds
from jsnn.conversion import convert
from jsnn.datasets import Split
from jsnn.encoding import poisson
from jsnn.models import VGG, spiking
from jsnn.simulation import Presentation, Variables, fitting_chunk
from jsnn.sources import resident_source
from jsnn.surrogate import stdb
from jsnn.training.evaluation import mean, snn_evaluation
from jsnn.training.parallel import parallel_evaluation, parallel_train_step, replicate, split_over_devices
from jsnn.training.step import init_state, snn_forward

KEY = 0


def make(problem: Problem, num_steps: int, device: str, precision: str = "float32") -> Contestant:
    """The jsnn network as a contestant; what enters its matrix products is of one precision, float32 or bfloat16."""
    jax.config.update("jax_platforms", device)
    presentation = Presentation(_model(problem, precision), poisson, num_steps, fitting_chunk(num_steps))
    pixels = np.rint((problem.images + 1) * 127.5).astype(np.uint8)  # the images are made from 8-bit pixels
    source, rule = resident_source(Split(pixels, problem.labels)), optax.adam(LEARNING_RATE)
    data = (
        replicate(source.resident),
        split_over_devices(np.arange(len(problem.labels), dtype=np.int32)),
        jax.random.key(KEY),
    )
    step = parallel_train_step(source, snn_forward(*presentation), rule)
    present = parallel_evaluation(snn_evaluation(presentation, source))
    state = replicate(init_state(convert(_weights(problem), problem.thresholds, problem.leak), rule))
    programs = {}

    def train() -> None:
        nonlocal state
        if not programs:
            programs["step"] = step.lower(state, *data).compile()
        state, _ = jax.block_until_ready(programs["step"](state, *data))

    def evaluate() -> object:
        return jax.block_until_ready(present({"params": state.params, "neuron": state.neuron}, *data))

    def rates() -> dict[str, float]:
        return {layer: float(spikes.mean()) for layer, spikes in mean(evaluate()).spikes.items()}

    def details() -> dict[str, float]:
        return {"temporaries_bytes": programs["step"].memory_analysis().temp_size_in_bytes}

    return Contestant(train, evaluate, rates, details)


def balance(problem: Problem, num_steps: int, device: str, percentile: float = 100.0) -> dict[str, float]:
    """Thresholds in one pass over the layers: a percentile of the input current, 100 being the maximum.

    The problem's own thresholds and leak are not used.
    """
    jax.config.update("jax_platforms", device)
    network = _model(problem, "float32"), _weights(problem), jax.device_put(problem.images)
    options = {"num_steps": num_steps, "percentile": percentile, "chunk": fitting_chunk(num_steps)}
    thresholds = balance_thresholds(*network, poisson, jax.random.key(KEY), **options)
    return {layer: float(threshold) for layer, threshold in thresholds.items()}


def inputs(problem: Problem, num_steps: int) -> np.ndarray:
    """The very input spikes that `balance` draws, [T, B, H, W, C] int8 of -1, 0 and 1."""
    index, times = np.arange(len(problem.images), dtype=np.int32), np.arange(num_steps, dtype=np.int32)
    draw = jax.jit(lambda time: poisson(problem.images, jax.random.key(KEY), index, time[None])[0].astype(np.int8))
    return np.stack([np.asarray(draw(time)) for time in times])


def _model(problem: Problem, precision: str) -> VGG:
    """The SNN without dropout, which the other libraries don't have."""
    *hidden, classes = (layer.outputs[-1] for layer in layers(problem) if layer.kernel.ndim == 2)
    operands = None if precision == "float32" else np.dtype(precision)
    ann = VGG(problem.stages, tuple(hidden), classes, conv_dropout=0.0, dense_dropout=0.0, operands=operands)
    return spiking(ann, stdb())


def _weights(problem: Problem) -> Variables:
    return {"params": {layer: {"kernel": jax.device_put(kernel)} for layer, kernel in problem.kernels.items()}}
