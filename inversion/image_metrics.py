"""How close two images are: PSNR, SSIM and cosine similarity."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Side of SSIM's square window, in pixels; no image may be smaller.
WINDOW = 11
# Where PSNR stops counting, in dB: the root-mean-square error is a 400th of an 8-bit step there,
# and the infinite PSNR of a single identical pair would make every mean infinite.
PSNR_CAP = 100.0
# The axes of an image.
_PIXELS = (-3, -2, -1)
# Of SSIM's constants (Wang et al. 2004, section III.B).
_K1, _K2 = 0.01, 0.03

# (images a, images b), both [..., height, width, channels] -> closeness [...], more is closer.
Metric = Callable[[jax.Array, jax.Array], jax.Array]


@jax.jit
def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio.

    As `skimage.metrics.peak_signal_noise_ratio` with data_range=1.

    Args:
        a: images, float [..., height, width, channels], in [0, 1].
        b: images of the same size.

    Returns:
        -10 log10 of the mean squared error, [...], in dB; infinite for identical images. Whoever
        takes means must cap it, see `PSNR_CAP`.

    Raises:
        ValueError: for images of different sizes or pixels that are not floats.
    """
    a, b = _checked(a, b)
    return -10 * jnp.log10(_mean((a - b) ** 2))


@jax.jit
def ssim(a: jax.Array, b: jax.Array, data_range: float = 1.0) -> jax.Array:
    """Absolute structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861).

    The absolute value of `skimage.metrics.structural_similarity` with win_size=11, channel_axis=-1
    and its defaults: every pixel of a window weighs the same, variances are
    sample variances, windows lie fully inside the image.

    Args:
        a: images, float [..., height, width, channels], in [0, 1], at least 11x11.
        b: images of the same size.
        data_range: distance between the least and the greatest intensity that is possible.

    Returns:
        The absolute value of the mean over windows and channels, [...], in [0, 1].

    Raises:
        ValueError: for images smaller than the window or of different sizes, or pixels that are
            not floats.
    """
    a, b = _checked(a, b)
    height, width = a.shape[-3:-1]
    if min(height, width) < WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {WINDOW}x{WINDOW} pixels, got {height}x{width}"
        )
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    mean_a, mean_b, covariance = _window_covariance(a, b)
    variances = _window_covariance(a, a)[-1] + _window_covariance(b, b)[-1]
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (variances + c2)
    return jnp.abs(_mean(similarity))


@jax.jit
def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Absolute cosine similarity of images taken as vectors.

    Args:
        a: images, float [..., height, width, channels].
        b: images of the same size.

    Returns:
        |<a, b>| / (|a| |b|), [...], in [0, 1]; 0 where an image is all zero and has no direction.

    Raises:
        ValueError: for images of different sizes or pixels that are not floats.
    """
    a, b = (_unit(x) for x in _checked(a, b))
    # Rounding may carry the product of two unit vectors past 1.
    return jnp.minimum(jnp.abs(_sum(a * b)), 1.0)


METRICS = (psnr, ssim, cosine)
# Image libraries of the published code's time took floats to span 2 (`ssim-range`).
PUBLISHED_METRICS = (psnr, partial(ssim, data_range=2.0), cosine)


def _checked(a, b):
    """Both arrays, in at least single precision: metrics subtract numbers close to each other."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    if min(a.ndim, b.ndim) < 3 or a.shape[-3:] != b.shape[-3:]:
        raise ValueError(
            f"images [..., height, width, channels] of one size are compared, got {a.shape} "
            f"and {b.shape}"
        )
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in (a, b)):
        raise ValueError(f"pixels must be floats in [0, 1], got {a.dtype} and {b.dtype}")
    precision = jnp.result_type(a, b, jnp.float32)
    return a.astype(precision), b.astype(precision)


def _mean(x):
    """Mean over images, [..., height, width, channels] -> [...]."""
    return _sum(x) / math.prod(x.shape[-3:])


def _sum(x):
    """Sum over images, [..., height, width, channels] -> [...].

    By halves: adding thousands of pixels one after the other costs the digits that set our scores
    apart from scikit-image's.
    """
    x = x.reshape(*x.shape[:-3], -1)
    while (count := x.shape[-1]) > 1:
        half = (count + 1) // 2
        rest = [(0, 0)] * (x.ndim - 1) + [(0, 2 * half - count)]
        x = x[..., :half] + jnp.pad(x[..., half:], rest)
    return x[..., 0]


def _unit(x):
    """The images [..., height, width, channels] at length 1, those that are all zero left so."""
    # The squares of dim pixels would vanish in single precision: the brightest is made 1 first.
    x = _divided(x, jnp.abs(x).max(_PIXELS, keepdims=True))
    return _divided(x, jnp.sqrt(_sum(x**2))[..., None, None, None])


def _divided(x, size):
    return x / jnp.where(size == 0, 1, size)


def _window_covariance(x, y):
    """Means and sample covariance in every window, [..., row, column, channel] each.

    Mean product minus product of means loses in single precision what SSIM's small constants then
    blow up. So products of deviations are averaged: of the pixels' from the mean of their column
    within the window, then of the columns' means from the window's mean.
    """
    *columns, within = _line_covariance(x, y, -3)
    *means, between = _line_covariance(*columns, -2)
    return *means, (_average(within, -2) + between) * WINDOW**2 / (WINDOW**2 - 1)


def _line_covariance(x, y, axis):
    """Means and covariance in every line of a window's length along an axis."""
    mean_x, mean_y = _average(x, axis), _average(y, axis)
    products = 0
    for place in range(WINDOW):
        end = place + mean_x.shape[axis]
        x_there, y_there = (lax.slice_in_dim(z, place, end, axis=axis) for z in (x, y))
        products += (x_there - mean_x) * (y_there - mean_y)
    return mean_x, mean_y, products / WINDOW


def _average(x, axis):
    """Mean in every line of a window's length along an axis."""
    ones = (1,) * x.ndim
    line = list(ones)
    line[axis] = WINDOW
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, line, ones, "VALID") / WINDOW
