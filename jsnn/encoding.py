"""Encodings: what the network receives at each time step for an image.

An encoding is a function `(images, key, index, time) -> inputs`. It gives the inputs of K time steps as an array
[K, B, ...], or as a `Repeated` if they are all the same. The inputs of all T steps are never in memory at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.checks import check_array
from jsnn.randomness import sample_keys, step_keys

Encoding = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], "jax.Array | Repeated"]


@partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["num_steps"])
@dataclass(frozen=True)
class Repeated:
    """The same input at each of K time steps, an array [K, B, ...] of which one step is kept.

    A network computes what comes before its first neurons once for them.
    """

    value: jax.Array  # [B, ...]
    num_steps: int  # K

    @property
    def shape(self) -> tuple[int, ...]:
        return self.num_steps, *self.value.shape

    @property
    def ndim(self) -> int:
        return 1 + self.value.ndim

    @property
    def dtype(self) -> jnp.dtype:
        return self.value.dtype

    def __jax_array__(self) -> jax.Array:
        """All steps as an array of jax, wherever one is asked for."""
        return jnp.broadcast_to(self.value, self.shape)

    def __getitem__(self, place: Any) -> jax.Array:
        """Some steps as an array."""
        return self.__jax_array__()[place]

    def __iter__(self) -> Iterator[jax.Array]:
        """The input of each step; Python would count up to an IndexError, which arrays of jax do not raise."""
        return repeat(self.value, self.num_steps)

    def __len__(self) -> int:
        """K."""
        return self.num_steps

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All steps as an array."""
        return np.array(np.broadcast_to(self.value, self.shape), dtype, copy=copy)


def poisson(images: jax.Array, key: jax.Array, index: jax.Array, time: jax.Array) -> jax.Array:
    """Signed Poisson spikes, drawn afresh at every step.

        o_0[t] = sign(x) * Bernoulli(min(|x|, 1))

    Section 2.1 of Rathi et al., 2020 (arXiv:2005.01807). Its gradient with respect to the images is 0, see
    `poisson_straight_through` for another.

    Args:
        images: [B, ...] float, pixels in [-1, 1].
        key: a key that stands for (seed, train step).
        index: [B] int32, the samples' indices in the data set.
        time: [K] int32, the time steps.

    Returns:
        [K, B, ...] of -1, 0 and 1, dtype of `images`. A draw depends on (key, index, time) alone.

    Raises:
        ValueError: where the images are not floating-point numbers in [-1, 1] (where they are known: inside jit they
            are not), or there is not one index for each.
    """
    _check(images)
    if not isinstance(images, jax.core.Tracer) and not np.abs(images).max(initial=0) <= 1:
        raise ValueError(f"poisson takes pixels in [-1, 1], got up to {float(np.abs(images).max())}: scale them first.")
    if index.shape != images.shape[:1]:
        raise ValueError(f"each image needs its index, got images of shape {images.shape}, indices of {index.shape}.")
    keys = step_keys(sample_keys(key, index), time)
    # float32 draws whatever the dtype of the images: the spikes are then the same in every precision.
    draw = jax.vmap(jax.vmap(lambda k: jax.random.uniform(k, images.shape[1:], jnp.float32)))
    spikes = jnp.where(draw(keys) < jnp.abs(images), jnp.sign(images), 0).astype(images.dtype)
    return spikes + jax.lax.stop_gradient(0 * images)  # NaN stays NaN, and what is infinite becomes it


def poisson_straight_through(images: jax.Array, key: jax.Array, index: jax.Array, time: jax.Array) -> jax.Array:
    """The spikes of `poisson`, with the gradient of the pixel that is their mean: d o_0[t] / dx = 1.

    Bengio et al., 2013 (arXiv:1308.3432).

    Args:
        images, key, index, time: those of `poisson`.

    Returns:
        [K, B, ...] of -1, 0 and 1.

    Raises:
        ValueError: as `poisson`.
    """
    return jax.lax.stop_gradient(poisson(images, key, index, time) - images) + images


def events(images: jax.Array, key: jax.Array, index: jax.Array, time: jax.Array) -> jax.Array:
    """Event data as they are, e.g. of `jsnn.data.event_source`.

    Args:
        images: [B, T, ...] float, for each sample what arrives at each step.
        key, index: not used.
        time: [K] int32, the time steps.

    Returns:
        [K, B, ...], zeros for steps from T on.

    Raises:
        ValueError: where the events are not floating-point numbers.
    """
    _check(images)
    del key, index
    return jnp.take(images, time, axis=1, mode="fill", fill_value=0).swapaxes(0, 1)


def constant(images: jax.Array, key: jax.Array, index: jax.Array, time: jax.Array) -> Repeated:
    """Direct input: the image itself at every step.

    Args:
        images: [B, ...] float.
        key, index: not used.
        time: [K] int32, the time steps.

    Returns:
        [K, B, ...], `images` at each step, which is kept once.

    Raises:
        ValueError: where the images are not floating-point numbers.
    """
    _check(images)
    del key, index
    return Repeated(images, len(time))


def _check(images: jax.Array) -> None:
    check_array("images", images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating-point numbers, got {images.dtype}: convert or scale them first.")
