"""Changes to training images at the client, before they are hardened and learned from."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


def random_rotation(degrees: float) -> Callable:
    """Rotate each image about its centre by an angle of its own.

    Pixels in between are interpolated linearly, and what comes in from outside is 0, so that
    images in [0, 1] stay there.

    Args:
        degrees: angles are uniform in [-degrees, degrees]; at least 0.

    Returns:
        (images [batch, height, width, channels], key) -> images, to be used as
        `fl.simulation.rounds.Work.augment`.
    """

    def augment(images, key):
        angles = jax.random.uniform(key, (len(images),), minval=-degrees, maxval=degrees)
        return jax.vmap(rotate)(images, angles)

    return augment


def rotate(image: jax.Array, degrees: jax.Array) -> jax.Array:
    """Rotate an image [height, width, channels] about its centre, anticlockwise as displayed."""
    height, width, _ = image.shape
    rows, columns = (jnp.arange(size) - (size - 1) / 2 for size in (height, width))
    rows, columns = jnp.meshgrid(rows, columns, indexing="ij")
    angle = jnp.deg2rad(degrees)
    # Where each pixel of the result comes from: its place turned back.
    source_rows = jnp.cos(angle) * rows + jnp.sin(angle) * columns + (height - 1) / 2
    source_columns = jnp.cos(angle) * columns - jnp.sin(angle) * rows + (width - 1) / 2

    def turn(channel):
        return map_coordinates(channel, [source_rows, source_columns], order=1, mode="constant")

    return jax.vmap(turn, in_axes=-1, out_axes=-1)(image)
