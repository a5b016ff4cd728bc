"""Forward functions for training: of an ANN, of an SNN over time, and of either with a teacher network."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

from jsnn.network.bptt import Keys, Outcome, present
from jsnn.network.samples import mean_over_neurons
from jsnn.network.simulation import (
    Noise,
    Observed,
    Presentation,
    in_few_steps,
    no_noise,
    samples_of,
    simulate_images,
)
from jsnn.network.transformation import NEURONS, Variables
from jsnn.neurons.residuals import Residuals
from jsnn.training.loss import Outputs, check_outputs

RESIDUALS = ("exact", "byte", "auto")
TEACHER = "teacher"  # the collection of a network's variables that holds those of another
# (variables, inputs [B, ...], index [B], key) -> (outputs, collections that it changes, as batch statistics)
Forward = Callable[[Variables, jax.Array, jax.Array, jax.Array], tuple[Any, Variables]]


def ann_forward(apply: Callable[..., Any], noise: Noise = no_noise) -> Forward:
    """The forward function of an ANN in training.

    Args:
        apply: (variables, inputs [B, ...], **kwargs) -> outputs, or (outputs, collections) where these include
            `mutable`; see `jsnn.accelerate` for a fast one.
        noise: (index [B], key) -> kwargs, as `jsnn.models.dropout_of`, or {"train": True, "mutable": ["batch_stats"]}
            beside for batch norm.

    Returns:
        The Forward.
    """

    def forward(variables: Variables, inputs: jax.Array, index: jax.Array, key: jax.Array) -> tuple[Any, Variables]:
        kwargs = noise(index, key)
        outputs = apply({name: value for name, value in variables.items() if name != NEURONS}, inputs, **kwargs)
        return outputs if kwargs.get("mutable") else (outputs, {})

    return forward


def snn_forward(
    presentation: Presentation,
    readout: Callable[[Outcome], Any],
    trained: Sequence[str] = ("params",),
    residuals: str = "exact",
) -> Forward:
    """The forward function of an SNN in training, its noise the same at every time step.

    Args:
        presentation: how the network is shown images.
        readout: what the network gives -> outputs for the loss, see `summed` and `averaged`; results at every step and
            spikes of every layer are there for others.
        trained: the collections that are trained.
        residuals: what is kept of neurons for the gradient, see `residuals_of`.

    Returns:
        The Forward.

    Raises:
        ValueError: where the residuals are unknown, or the neurons have no such bytes.
    """
    kept = residuals_of(presentation, trained, residuals)
    run = from_membranes if kept is None else partial(present, residuals=kept)

    def forward(variables: Variables, inputs: jax.Array, index: jax.Array, key: jax.Array) -> tuple[Any, Variables]:
        keys = Keys(*jax.random.split(key))
        return readout(run(presentation, variables, inputs, index, keys)), {}

    return forward


def residuals_of(presentation: Presentation, trained: Sequence[str], residuals: str) -> Residuals | None:
    """What is kept of neurons for their gradient in the collections that are trained; None for membranes.

    - "exact": bits where they give the gradient exactly, as the weights' with STDB (one a neuron and step) and boxcar
      (two); else the membranes at the borders of chunks, and each chunk is run again. Equal to autodiff.
    - "byte": a byte a neuron and step where bits do not do, and nothing is run again. It gives do/dz to half a percent
      of its peak with the linear surrogate and 2 % with arctan and fast_sigmoid, at their defaults, and further off to
      an eighth of the distance. In 100 small networks a kernel's gradient was off by 0.2 % of its largest entry with
      linear (the median; at most 0.6 %), by 2 % with fast_sigmoid. That of a threshold, a leak or an initial membrane
      is a sum of both signs: off by at most 1 and 3 % of the sum of absolute terms, it may be off by as much as it is
      where they cancel, by channel more often than by layer. A byte does not tell what is steeper than
      fast_sigmoid(200) or arctan(300).
    - "auto": "exact" in one chunk, where nothing is run again either, else "byte" where the neurons have it.

    In one chunk of few steps membranes stand in for bits: for 64 images on VGG5 at T = 4 and 8 a step's temporaries are
    0.6 and 0.8 times as large, in 0.87 and 1.04 times the time (two CPU cores). ValueError where the choice is another
    one, or the neurons have no such bytes.
    """
    if residuals not in RESIDUALS:
        raise ValueError(f"there are no residuals {residuals!r}: choose from {', '.join(RESIDUALS)}.")
    neuron = presentation.snn.neuron
    bits = None if NEURONS in trained else neuron.lossless
    if bits is not None:
        return None if in_few_steps(presentation.num_steps, presentation.chunk) else bits
    if residuals == "exact" or (residuals == "auto" and presentation.num_steps <= presentation.chunk):
        return None
    in_bytes = neuron.in_bytes() if neuron.in_bytes is not None else None
    if in_bytes is None and residuals == "byte":
        raise ValueError(
            "a byte tells the gradient of lif and hard_reset_lif, whose surrogate asks for no spike times where their "
            "parameters are trained and is neither too steep nor too flat for it, and not of these neurons: choose "
            "residuals='exact'."
        )
    return in_bytes


def from_membranes(
    presentation: Presentation, variables: Variables, inputs: jax.Array, index: jax.Array, keys: Keys
) -> Outcome:
    """What `jsnn.network.bptt.present` gives, differentiable in everything, for any neuron."""

    def observe(observed: Observed) -> tuple[Any, dict[str, jax.Array]]:
        spikes = observed.layers["spikes"]
        return observed.results, {layer: mean_over_neurons(x, axes[layer], len(inputs)) for layer, x in spikes.items()}

    noise = presentation.noise(index, keys.noise)
    axes = samples_of(presentation, variables, inputs, index, keys.encoding, **noise)
    results, spikes = simulate_images(
        presentation, variables, inputs, index, keys.encoding, observe, collect=("spikes",), **noise
    )
    return Outcome(results, {layer: x.sum(0) for layer, x in spikes.items()})


def summed(outcome: Outcome) -> Any:
    """The sum over time of the results, the paper's readout in the ANN's units."""
    return jax.tree.map(lambda results: results.sum(0), outcome.results)


def averaged(outcome: Outcome) -> Any:
    """The mean over time of the results, which tends to the ANN's."""
    return jax.tree.map(lambda results: results.mean(0), outcome.results)


def with_rates(outcome: Outcome) -> Outputs:
    """The mean over time of the results, and how often neurons spike."""
    num_steps = len(jax.tree.leaves(outcome.results)[0])
    return Outputs(averaged(outcome), None, {layer: spikes / num_steps for layer, spikes in outcome.spikes.items()})


def with_teacher(forward: Forward, teach: Callable[[Variables, jax.Array], jax.Array]) -> Forward:
    """A forward function whose `Outputs` also have the logits of a teacher, as the ANN that the SNN was made of.

    Args:
        forward: of the network that learns, which gives Outputs.
        teach: (variables, inputs [B, ...]) -> logits of the teacher, which has no noise and gets no gradient.

    Returns:
        The Forward, of variables with a collection "teacher": {"teacher": the teacher's variables}.

    Raises:
        ValueError: of the function, where the network that learns gives no Outputs.
    """

    def together(variables: Variables, inputs: jax.Array, index: jax.Array, key: jax.Array) -> tuple[Any, Variables]:
        learner = {name: value for name, value in variables.items() if name != TEACHER}
        outputs, changed = forward(learner, inputs, index, key)
        check_outputs(outputs)
        return outputs._replace(teacher=jax.lax.stop_gradient(teach(variables[TEACHER], inputs))), changed

    return together
