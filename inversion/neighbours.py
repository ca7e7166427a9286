"""Neighbours of pixels: gains vary little from one pixel to the next.

Calibration makes what all pixels show about as large, so that a pixel's gain is about as large as
what it usually shows; and that varies slowly over an image.
"""

import jax
import jax.numpy as jnp
from jax import lax

# Times its neighbours' that a gain's limit is, which is the second smallest of theirs, as most of
# those at a corner may be far too large; and times its limit that a gain may be.
LARGER, SMALLEST, BEYOND = 2.0, 1, 3.0
# Share of the usual gain around it below which a gain counts as missing.
TINY = 0.1


def around(x: jax.Array, beyond: float | None = 0.0) -> jax.Array:
    """The eight pixels around each, [8, ...].

    Args:
        x: [..., height, width, channel].
        beyond: what there is around the image; None for the pixels at its edges once more.
    """
    padding = [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
    if beyond is None:
        padded = jnp.pad(x, padding, mode="edge")
    else:
        padded = jnp.pad(x, padding, constant_values=beyond)
    height, width = x.shape[-3:-1]
    shifts = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
    return jnp.stack([padded[..., i : i + height, j : j + width, :] for i, j in shifts])


def capped(gains: jax.Array, image_shape: tuple[int, ...]) -> jax.Array:
    """Put gains that are far above their neighbours', or far below, at their limit.

    Where few images show a pixel, the brightest of its values may be far from white, or noise. And
    next to nothing times any value is a whole number of steps.

    Args:
        gains: [pixel]; 0, for black, stays as it is, and infinity, for unknown, does not.
        image_shape: (height, width, channels).
    """
    tiny = gains < TINY * jnp.nan_to_num(usual_around(gains, image_shape))
    black, gains = gains == 0, jnp.where((gains > 0) & ~tiny, gains, jnp.inf)

    def bound(_, limits):
        return jnp.minimum(limits, LARGER * jnp.sort(around(limits, None), axis=0)[SMALLEST])

    limits = lax.fori_loop(0, max(image_shape), bound, gains.reshape(image_shape)).ravel()
    gains = jnp.where(gains > BEYOND * limits, limits, gains)
    return jnp.where(jnp.isfinite(gains) & ~black, gains, 0)


def usual_around(gains: jax.Array, image_shape: tuple[int, ...]) -> jax.Array:
    """The median of the gains around each pixel, [pixel]; NaN where there are none."""
    known = jnp.where(gains > 0, gains, jnp.nan).reshape(image_shape)
    return jnp.nanmedian(around(known, jnp.nan), axis=0).ravel()
