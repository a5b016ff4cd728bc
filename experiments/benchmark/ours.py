"""The network in jsnn: the training step and the evaluation that `experiments.hybrid` runs, on one device.

Also the problem of a net: random weights and images, and thresholds at which every layer spikes. Weights are multiples
of 2^-10, thresholds powers of two: then sums of weights over spikes are exact in float32, whatever their order and the
unit of a spike, and all contestants spike alike. For balancing weights are as they were drawn.
"""

import ctypes
import sys

import jax
import numpy as np
import optax

import jsnn
from experiments.benchmark.problem import LEARNING_RATE, Contestant, Problem, layers, neurons
from experiments.benchmark.roster import LINEAR
from jsnn.conversion import from_paper_thresholds
from jsnn.data import Split, resident_source
from jsnn.encoding import poisson
from jsnn.network.chunks import fitting_chunk
from jsnn.network.transformation import Variables
from jsnn.training.evaluation import mean
from jsnn.training.forward import Forward
from jsnn.training.parallel import replicate, split_over_devices

KEY, GRID = 0, 2.0**-10
IMAGE_SHAPE, NUM_CLASSES = (32, 32, 3), 10
PERCENTILE = 99.0  # of the currents becomes the threshold: a tenth of the neurons or so spike at each step
SAMPLE, SAMPLE_STEPS = 2, 24  # images and steps on which thresholds are found


def prepare(net: str, width: float, hidden: tuple[int, ...], batch: int, leak: float, num_steps: int = 0) -> Problem:
    """Make the problem of one of VGG_STAGES, see `build`, with so many images and steps of inputs to balance on."""
    rng, kernels = np.random.default_rng(0), {}
    ann = jsnn.models.build(net, NUM_CLASSES, width=width, hidden=hidden)
    shapes = jax.eval_shape(ann.init, jax.random.key(0), np.zeros((1, *IMAGE_SHAPE), np.float32))["params"]
    for layer, leaf in shapes.items():
        shape = leaf["kernel"].shape
        drawn = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)  # He et al., 2015
        on_grid = drawn if num_steps else np.rint(drawn / GRID) * GRID  # on a grid ties would decide what is balanced
        kernels[layer] = on_grid.astype(np.float32)
    images = rng.integers(0, 256, (batch, *IMAGE_SHAPE)).astype(np.float32) / np.float32(127.5) - 1
    labels = rng.integers(0, NUM_CLASSES, batch).astype(np.int32)
    problem = Problem(tuple(ann.stages), kernels, {}, leak, images, labels)
    found = balance(problem._replace(images=images[:SAMPLE]), SAMPLE_STEPS, percentile=PERCENTILE)
    rounded = {layer: float(2.0 ** np.rint(np.log2(threshold))) for layer, threshold in found.items()}
    index, times = np.arange(batch, dtype=np.int32), np.arange(num_steps, dtype=np.int32)
    draw = jax.jit(lambda time: poisson(images, jax.random.key(KEY), index, time[None])[0].astype(np.int8))
    inputs = np.stack([draw(time) for time in times]) if num_steps else None  # the very spikes that `balance` draws
    return problem._replace(thresholds=rounded, inputs=inputs)


def balance(problem: Problem, num_steps: int, _device: str = "", percentile: float = 100.0) -> dict[str, float]:
    """Thresholds in one pass over the layers, percentiles of the input current; the problem's own are not used.

    A membrane within rounding of such a threshold may spike here and not in the step loop, after which maxima of deep
    layers can differ by more.
    """
    options = {"num_steps": num_steps, "percentile": percentile, "chunk": fitting_chunk(num_steps)}
    images, key = jax.device_put(problem.images), jax.random.key(KEY)
    thresholds = jsnn.balance_thresholds(*network(problem), images, poisson, key, **options)
    return {layer: float(threshold) for layer, threshold in jsnn.paper_thresholds(thresholds).items()}


def make(
    problem: Problem, num_steps: int, _device: str, precision: str = "float32", residuals: str = "auto"
) -> Contestant:
    """The jsnn network as a contestant; what enters its matrix products is of one precision, float32 or bfloat16."""
    snn, weights = network(problem, precision)
    presentation = jsnn.Presentation(snn, poisson, num_steps, fitting_chunk(num_steps))
    thresholds = from_paper_thresholds(problem.thresholds)
    variables = jsnn.convert(snn, weights, thresholds, leak=problem.leak)
    train = Training(problem, forward_of(presentation, thresholds, residuals), variables)
    present = jsnn.parallel_evaluation(jsnn.snn_evaluation(presentation, train.source))

    def evaluate() -> object:
        return jax.block_until_ready(present(train.state.variables(), *train.data))

    def rates() -> dict[str, float]:
        return {layer: float(spikes.mean()) for layer, spikes in mean(evaluate()).spikes.items()}

    def details() -> dict[str, float]:
        memory = train.program.memory_analysis()
        return {"temporaries_bytes": memory.temp_size_in_bytes, "neurons": neurons(problem)}

    return Contestant(train, evaluate, rates, details)


def make_ann(problem: Problem, _num_steps: int, _device: str) -> Contestant:
    """The ANN that the others' networks are made of, which has no time steps and is only trained."""
    ann, weights = unspiking(problem)
    return Contestant(Training(problem, jsnn.ann_forward(jsnn.accelerate(ann.apply)), weights), lambda: None, dict)


class Training:
    """A call is an optimiser step of a network on the problem's batch; the program is compiled for the first one."""

    def __init__(self, problem: Problem, forward: Forward, variables: Variables) -> None:
        pixels = np.rint((problem.images + 1) * 127.5).astype(np.uint8)  # the images are made from 8-bit pixels
        self.source, rule = resident_source(Split(pixels, problem.labels)), optax.adam(LEARNING_RATE)
        index = split_over_devices(np.arange(len(problem.labels), dtype=np.int32))
        self.data = replicate(self.source.resident), index, jax.random.key(KEY)
        self.state = replicate(jsnn.init_state(variables, rule))
        self.step, self.program = jsnn.parallel_train_step(self.source, forward, rule), None

    def __call__(self) -> None:
        if self.program is None:
            self.program = self.step.lower(self.state, *self.data).compile()
            if sys.platform == "linux":
                ctypes.CDLL(None).malloc_trim(0)  # else what compiling took stays in the peak, a third at (64, 4)
        self.state, _ = jax.block_until_ready(self.program(self.state, *self.data))


def forward_of(presentation: jsnn.Presentation, thresholds: dict[str, float], residuals: str) -> Forward:
    """The paper's logits: sums over time in units of the last threshold."""
    *_, last = thresholds.values()
    return jsnn.snn_forward(presentation, lambda outcome: jsnn.summed(outcome) / last, residuals=residuals)


def network(problem: Problem, precision: str = "float32") -> tuple[jsnn.SNN, Variables]:
    """The SNN and its weights."""
    ann, weights = unspiking(problem)
    surrogate = jsnn.surrogate.linear(1.0) if problem.surrogate == LINEAR else jsnn.surrogate.stdb()
    operands = None if precision == "float32" else np.dtype(precision)
    return jsnn.spiking(ann.apply, jsnn.lif(surrogate), operands), weights


def unspiking(problem: Problem) -> tuple[jsnn.models.VGG, Variables]:
    """The ANN without dropout, which the other libraries don't have, and its weights."""
    *hidden, classes = (layer.outputs[-1] for layer in layers(problem) if layer.kernel.ndim == 2)
    weights = {layer: {"kernel": jax.device_put(kernel)} for layer, kernel in problem.kernels.items()}
    ann = jsnn.models.VGG(problem.stages, tuple(hidden), classes, conv_dropout=0.0, dense_dropout=0.0)
    return ann, {"params": weights}
