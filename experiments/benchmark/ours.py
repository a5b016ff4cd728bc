"""The network in jsnn: the training step and the evaluation that `experiments.hybrid` runs, on one device.

Also the problem of a net: random weights and images, and thresholds at which every layer spikes. Weights are rounded
to multiples of 2^-10. Then sums of weights over spikes are exact in float32 whatever their order, all contestants spike
alike, and thresholds that are found in different ways can be compared to the last bit.
"""

import jax
import numpy as np
import optax

from experiments.benchmark.problem import LEARNING_RATE, Contestant, Problem, layers, neurons
from jsnn.balancing import balance_thresholds
from jsnn.conversion import convert
from jsnn.datasets import Split
from jsnn.encoding import poisson
from jsnn.models import VGG, build, spiking
from jsnn.simulation import Presentation, Variables, fitting_chunk
from jsnn.sources import resident_source
from jsnn.surrogate import stdb
from jsnn.training.evaluation import mean, snn_evaluation
from jsnn.training.parallel import parallel_evaluation, parallel_train_step, replicate, split_over_devices
from jsnn.training.step import init_state, snn_forward

KEY, GRID = 0, 2.0**-10
IMAGE_SHAPE, NUM_CLASSES = (32, 32, 3), 10
PERCENTILE = 99.0  # of the currents becomes the threshold: a tenth of the neurons or so spike at each step
SAMPLE, SAMPLE_STEPS = 2, 24  # images and steps on which thresholds are found


def prepare(net: str, width: float, hidden: tuple[int, ...], batch: int, leak: float, num_steps: int = 0) -> Problem:
    """Make the problem of one of VGG_STAGES, see `build`, with so many images and steps of inputs to balance on."""
    rng, kernels = np.random.default_rng(0), {}
    ann = build(net, NUM_CLASSES, width=width, hidden=hidden)
    shapes = jax.eval_shape(ann.init, jax.random.key(0), np.zeros((1, *IMAGE_SHAPE), np.float32))["params"]
    for layer, leaf in shapes.items():
        shape = leaf["kernel"].shape
        drawn = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)  # He et al., 2015
        kernels[layer] = (np.rint(drawn / GRID) * GRID).astype(np.float32)
    images = rng.integers(0, 256, (batch, *IMAGE_SHAPE)).astype(np.float32) / np.float32(127.5) - 1
    labels = rng.integers(0, NUM_CLASSES, batch).astype(np.int32)
    problem = Problem(tuple(ann.stages), kernels, {}, leak, images, labels)
    thresholds = balance(problem._replace(images=images[:SAMPLE]), SAMPLE_STEPS, "cpu", PERCENTILE)
    return problem._replace(thresholds=thresholds, inputs=inputs(problem, num_steps) if num_steps else None)


def make(problem: Problem, num_steps: int, device: str, precision: str = "float32") -> Contestant:
    """The jsnn network as a contestant; what enters its matrix products is of one precision, float32 or bfloat16."""
    jax.config.update("jax_platforms", device)
    model, weights = _network(problem, precision)
    presentation = Presentation(model, poisson, num_steps, fitting_chunk(num_steps))
    pixels = np.rint((problem.images + 1) * 127.5).astype(np.uint8)  # the images are made from 8-bit pixels
    source, rule = resident_source(Split(pixels, problem.labels)), optax.adam(LEARNING_RATE)
    index = split_over_devices(np.arange(len(problem.labels), dtype=np.int32))
    data = replicate(source.resident), index, jax.random.key(KEY)
    step = parallel_train_step(source, snn_forward(*presentation), rule)
    present = parallel_evaluation(snn_evaluation(presentation, source))
    state = replicate(init_state(convert(weights, problem.thresholds, problem.leak), rule))
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
        memory = programs["step"].memory_analysis()
        return {"temporaries_bytes": memory.temp_size_in_bytes, "neurons": neurons(problem)}

    return Contestant(train, evaluate, rates, details)


def balance(problem: Problem, num_steps: int, device: str, percentile: float = 100.0) -> dict[str, float]:
    """Thresholds in one pass over the layers, percentiles of the input current; the problem's own are not used."""
    jax.config.update("jax_platforms", device)
    network = *_network(problem), jax.device_put(problem.images)
    options = {"num_steps": num_steps, "percentile": percentile, "chunk": fitting_chunk(num_steps)}
    thresholds = balance_thresholds(*network, poisson, jax.random.key(KEY), **options)
    return {layer: float(threshold) for layer, threshold in thresholds.items()}


def inputs(problem: Problem, num_steps: int) -> np.ndarray:
    """The very input spikes that `balance` draws, [T, B, H, W, C] int8 of -1, 0 and 1."""
    index, times = np.arange(len(problem.images), dtype=np.int32), np.arange(num_steps, dtype=np.int32)
    draw = jax.jit(lambda time: poisson(problem.images, jax.random.key(KEY), index, time[None])[0].astype(np.int8))
    return np.stack([np.asarray(draw(time)) for time in times])


def _network(problem: Problem, precision: str = "float32") -> tuple[VGG, Variables]:
    """The SNN without dropout, which the other libraries don't have, and its weights."""
    *hidden, classes = (layer.outputs[-1] for layer in layers(problem) if layer.kernel.ndim == 2)
    operands = None if precision == "float32" else np.dtype(precision)
    ann = VGG(problem.stages, tuple(hidden), classes, conv_dropout=0.0, dense_dropout=0.0, operands=operands)
    weights = {layer: {"kernel": jax.device_put(kernel)} for layer, kernel in problem.kernels.items()}
    return spiking(ann, stdb()), {"params": weights}
