"""Backpropagation through time from spike trains alone, in chunks of time steps.

Forward, the network runs chunk by chunk and keeps the spikes of its neurons as bits. Backward, the chunks come in
reverse order: each layer's spikes are unpacked, pooled and masked again, the inputs drawn again, and no neuron and no
product of the forward pass is computed twice.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import custom_vjp_primal_tree_values

from jsnn.neuron import LIFState
from jsnn.packed import Train
from jsnn.packing import age_after, age_dtype
from jsnn.simulation import Presentation, Variables, rest

STEPS_BETWEEN_AGES = 64  # ages are kept this often, and counted on from the spikes in between


class Keys(NamedTuple):
    """Random keys of a presentation.

    Attributes:
        encoding: of the inputs.
        dropout: of the masks.
    """

    encoding: jax.Array
    dropout: jax.Array


def present(what: Presentation, variables: Variables, images: jax.Array, index: jax.Array, keys: Keys) -> jax.Array:
    """The logits of an SNN in training, differentiable in its weights and in the images.

    Args:
        what: the presentation, of a model whose surrogate's derivative depends on spike times alone (STDB).
        variables: SNN variables; thresholds and leaks get no gradient.
        images: [B, H, W, C] in [-1, 1].
        index: [B] int32, the samples' indices in the data set.
        keys: random keys.

    Returns:
        [B, classes], the raw sum of the readout's currents over time.

    Raises:
        ValueError: where a number of steps is below 1, the variables are not those of an SNN, or a gradient in
            thresholds or leaks is asked for.
    """
    if set(variables) != {"params", "neuron"}:
        raise ValueError(f'an SNN has the variables "params" and "neuron", got {", ".join(map(repr, variables))}.')
    return _present(what, dict(variables), images, index, keys)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _present(what: Presentation, variables: Variables, images: jax.Array, index: jax.Array, keys: Keys) -> jax.Array:
    return _run(what, variables, images, index, keys)[0]


def _run(
    what: Presentation, variables: Variables, images: jax.Array, index: jax.Array, keys: Keys
) -> tuple[jax.Array, Variables]:
    """The logits, and the spikes of all layers as words [C, B, ...]."""

    def run(state: Variables, time: jax.Array) -> tuple[Variables, tuple[jax.Array, Variables]]:
        inputs = what.inputs(images, keys.encoding, index, time)
        logits, seen = _apply(what, {**variables, "state": state}, inputs, index, keys, ["state", "trains"])
        return seen["state"], (logits[-1], seen["trains"])

    state = rest(what.model, variables, partial(what.inputs, images, keys.encoding, index))
    _, (logits, words) = jax.lax.scan(run, state, what.times())
    return logits[-1], words


def _apply(
    what: Presentation, variables: Variables, inputs: jax.Array, index: jax.Array, keys: Keys, mutable: list[str]
) -> tuple[jax.Array, Variables]:
    """The model on one chunk, dropout on."""
    return what.model.apply(variables, inputs, index, rngs={"dropout": keys.dropout}, mutable=mutable)


def _present_forward(
    what: Presentation, variables: Variables, images: Any, index: Any, keys: Any
) -> tuple[jax.Array, tuple]:
    if any(leaf.perturbed for leaf in jax.tree.leaves(variables["neuron"])):
        raise ValueError(
            "spike trains alone do not give the gradient in thresholds or leaks: take it in the params only, or "
            "differentiate jsnn.simulation.simulate, which keeps membranes."
        )
    differentiated = images.value if images.perturbed else None
    arguments = custom_vjp_primal_tree_values((variables, images, index, keys))
    logits, words = _run(what, *arguments)
    return logits, (arguments, differentiated, words)


def _present_backward(what: Presentation, residuals: tuple, of_logits: jax.Array) -> tuple:
    (variables, images, index, keys), differentiated, words = residuals
    params, neuron = variables["params"], variables["neuron"]
    times = what.times()
    ages = _ages_between(words, times)

    def run(params: Any, differentiated: jax.Array | None, state: Variables, chunk: jax.Array) -> tuple:
        """One chunk, replayed; its state holds membranes only."""
        trains = _trains(words, ages, times, chunk)
        inputs = what.inputs(images if differentiated is None else differentiated, keys.encoding, index, times[chunk])
        collections = {"params": params, "neuron": neuron, "state": state, "trains": trains}
        logits, seen = _apply(what, collections, inputs, index, keys, ["state"])
        return logits[-1], seen["state"]

    def step(carry: tuple, chunk: jax.Array) -> tuple[tuple, None]:
        total, of_state, of_logits = carry
        unused = jax.tree.map(jnp.zeros_like, of_state)  # the values of membranes, which nothing looks at
        _, backward = jax.vjp(partial(run, chunk=chunk), params, differentiated, unused)
        *found, of_state = backward((of_logits, of_state))
        # The last chunk comes first, and its logits are the ones.
        return (jax.tree.map(jnp.add, total, found), of_state, jnp.zeros_like(of_logits)), None

    total = jax.tree.map(jnp.zeros_like, [params, differentiated])
    of_state = _membranes(rest(what.model, variables, partial(what.inputs, images, keys.encoding, index)))
    (total, *_), _ = jax.lax.scan(step, (total, of_state, of_logits), jnp.arange(len(times)), reverse=True)
    return {"params": total[0], "neuron": None}, total[1], None, None


_present.defvjp(_present_forward, _present_backward, symbolic_zeros=True)


def _membranes(state: Variables) -> Variables:
    """The state with membranes alone."""

    def is_lif(leaf: Any) -> bool:
        return isinstance(leaf, LIFState)

    return jax.tree.map(lambda leaf: leaf.membrane if is_lif(leaf) else leaf, state, is_leaf=is_lif)


def _ages_between(words: Variables, times: jax.Array) -> Variables:
    """The age of every neuron before every `_stride`-th chunk, [ceil(C / stride), B, ...]."""
    num_chunks, num_steps = times.shape
    stride = _stride(num_steps)
    dtype = age_dtype(times.size)

    def of_layer(words: jax.Array) -> jax.Array:
        def stretch(age: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
            last = _forward(
                words, Train(words[first], age), first, jnp.minimum(first + stride, num_chunks) - 1, num_steps
            )
            return age_after(*last, num_steps), age.astype(dtype)

        never = jnp.zeros_like(words[0], dtype=jnp.int32)
        return jax.lax.scan(stretch, never, jnp.arange(0, num_chunks, stride))[1]

    return jax.tree.map(of_layer, words)


def _trains(words: Variables, ages: Variables, times: jax.Array, chunk: jax.Array) -> Variables:
    """The spike trains of all layers over one chunk."""
    num_steps = times.shape[1]
    kept, first = chunk // _stride(num_steps), chunk // _stride(num_steps) * _stride(num_steps)

    def of_layer(words: jax.Array, ages: jax.Array) -> Train:
        return _forward(words, Train(words[first], ages[kept].astype(jnp.int32)), first, chunk, num_steps)

    return jax.tree.map(of_layer, words, ages)


def _forward(words: jax.Array, train: Train, first: jax.Array, last: jax.Array, num_steps: int) -> Train:
    """From the train of one chunk to that of a later one."""

    def advance(chunk: jax.Array, train: Train) -> Train:
        return Train(words[chunk + 1], age_after(*train, num_steps))

    return jax.lax.fori_loop(first, last, advance, train)


def _stride(num_steps: int) -> int:
    """Chunks of `num_steps` steps from one age that is kept to the next."""
    return max(1, STEPS_BETWEEN_AGES // num_steps)
