"""Images on the device: uint8 pixels to network input, and random crops and flips, inside the compiled step."""

import jax
import jax.numpy as jnp


def scale(images: jax.Array) -> jax.Array:
    """Pixels, uint8, to what ANN and SNN are both fed, float32 in [-1, 1]: x = (pixel / 255 - 0.5) / 0.5."""
    if images.dtype != jnp.uint8:
        raise ValueError(f"images must be uint8 pixels from 0 to 255, got {images.dtype}.")
    return images.astype(jnp.float32) / 127.5 - 1


def random_crop(images: jax.Array, keys: jax.Array, padding: int) -> jax.Array:
    """Crops of the images' own size [B, H, W, C], each by its key, at random places of the images padded with black."""
    border = (padding, padding)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))

    def crop(image: jax.Array, key: jax.Array) -> jax.Array:
        row, column = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(image, (row, column, 0), images.shape[1:])

    return jax.vmap(crop)(padded, keys)


def random_flip(images: jax.Array, keys: jax.Array) -> jax.Array:
    """Each of the images [B, H, W, C], or by its key with probability 1/2 its mirror image, left to right."""
    flipped = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)
