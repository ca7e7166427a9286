"""How close reconstructions come to the true images, and which belongs to which."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.optimize import linear_sum_assignment

# Side of SSIM's square window, in pixels; no image may be smaller.
WINDOW = 11
# Where PSNR stops counting, in dB: the root-mean-square error is a 400th of an 8-bit step there,
# and the infinite PSNR of a single identical pair would make every mean infinite.
PSNR_CAP = 100.0
# The axes of an image.
_PIXELS = (-3, -2, -1)
# SSIM's constants (Wang et al. 2004, section III.B), for intensities in [0, 1].
_C1, _C2 = 0.01**2, 0.03**2

# (images a, images b), both [..., height, width, channels] -> closeness [...], more is closer.
Metric = Callable[[jax.Array, jax.Array], jax.Array]


class Images(NamedTuple):
    """Labelled images in minibatches, filled up to a common size.

    Attributes:
        pixels: float [..., image, height, width, channels], in [0, 1].
        labels: int [..., image], the true or the inferred ones.
        mask: bool [..., image], False for filling.
    """

    pixels: jax.Array
    labels: jax.Array
    mask: jax.Array


class Pairing(NamedTuple):
    """Which true image each reconstruction is scored against.

    Attributes:
        partner: int32 [..., reconstruction], an index into the true images of its minibatch; 0
            where there is none.
        matched: bool [..., reconstruction], whether there is one.
    """

    partner: jax.Array
    matched: jax.Array

    def take(self, images: jax.Array) -> jax.Array:
        """True images [..., image, height, width, channels] -> every reconstruction's partner."""
        return jnp.take_along_axis(images, self.partner[..., None, None, None], axis=-4)


class Closeness(NamedTuple):
    """Means over matched reconstructions; NaN where none is matched, or one has NaN pixels.

    Attributes:
        psnr: in dB, each image's at most `PSNR_CAP`.
        ssim: absolute structural similarity, in [0, 1].
        cosine: absolute cosine similarity, in [0, 1].
    """

    psnr: float
    ssim: float
    cosine: float


class Scores(NamedTuple):
    """`Closeness`, and how much an attack learned about labels.

    Attributes:
        psnr: as in `Closeness`.
        ssim: as in `Closeness`.
        cosine: as in `Closeness`.
        labels_recovered: share of all true samples whose label was recovered, in [0, 1].
    """

    psnr: float
    ssim: float
    cosine: float
    labels_recovered: float


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
def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Absolute structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861).

    The absolute value of `skimage.metrics.structural_similarity` with win_size=11, data_range=1,
    channel_axis=-1 and its defaults: every pixel of a window weighs the same, variances are
    sample variances, windows lie fully inside the image.

    Args:
        a: images, float [..., height, width, channels], in [0, 1], at least 11x11.
        b: images of the same size.

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
    mean_a, mean_b, covariance = _window_covariance(a, b)
    variances = _window_covariance(a, a)[-1] + _window_covariance(b, b)[-1]
    similarity = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    similarity /= (mean_a**2 + mean_b**2 + _C1) * (variances + _C2)
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


METRICS = Closeness(psnr, ssim, cosine)


def labels_recovered(reconstructed: Images, true: Images) -> float:
    """Share of the true labels that were inferred, each as often as it occurs in its minibatch.

    Args:
        reconstructed: [..., reconstruction], with inferred labels.
        true: [..., image], the same minibatches.

    Returns:
        The sum over minibatches and classes of the smaller of the two counts of the class, over
        the number of true samples; in [0, 1].

    Raises:
        ValueError: where there is no true sample.
    """
    samples = np.asarray(true.mask).sum()
    if samples == 0:
        raise ValueError("there is no true sample to score against")
    return int(_recovered(reconstructed, true)) / int(samples)


def assign(reconstructed: Images, true: Images) -> Pairing:
    """One-to-one assignment within every minibatch, of the largest total PSNR.

    Labels play no part, so that neither repeated labels nor wrongly inferred ones change what a
    reconstruction is worth. Where a minibatch has more reconstructions than true images, those
    that would add least stay unmatched; otherwise every one has a partner.

    Runs on the host: for 100 minibatches of 8, SciPy takes 0.3 ms, which is less than
    `optax.assignment` needs, and that compiles for 2 s.

    Args:
        reconstructed: [..., reconstruction].
        true: [..., image], the same minibatches.

    Returns:
        The pairing. Ties, above `PSNR_CAP` too, are broken arbitrarily.

    Raises:
        ValueError: for images of different sizes or pixels that are not floats.
    """
    gains = np.asarray(_gains(reconstructed.pixels, true.pixels))
    made, mask = np.asarray(reconstructed.mask), np.asarray(true.mask)
    partner, matched = np.zeros(made.shape, np.int32), np.zeros(made.shape, bool)
    for batch in np.ndindex(made.shape[:-1]):
        rows, columns = np.flatnonzero(made[batch]), np.flatnonzero(mask[batch])
        chosen, partners = linear_sum_assignment(gains[batch][np.ix_(rows, columns)], maximize=True)
        partner[batch][rows[chosen]] = columns[partners]
        matched[batch][rows[chosen]] = True
    return Pairing(jnp.asarray(partner), jnp.asarray(matched))


@jax.jit
def nearest(reconstructed: Images, true: Images) -> Pairing:
    """Pair each reconstruction with the true image of its label that has the best PSNR.

    For an aggregate's reconstructions, one a class, which no assignment can tell apart from those
    of hundreds of true images.

    Args:
        reconstructed: [..., reconstruction].
        true: [..., image].

    Returns:
        The pairing; a reconstruction whose label no true image has is not matched.

    Raises:
        ValueError: for images of different sizes or pixels that are not floats.
    """
    gains = _gains(reconstructed.pixels, true.pixels)
    same = _same(reconstructed, true)
    partner = jnp.argmax(jnp.where(same, gains, -jnp.inf), axis=-1).astype(jnp.int32)
    return Pairing(partner, same.any(-1))


@partial(jax.jit, static_argnums=0)
def best_match(metric: Metric, reconstructed: Images, true: Images) -> tuple[jax.Array, jax.Array]:
    """Closeness to the best true image of each reconstruction's label, by one metric.

    What the published code does, with each metric choosing for itself.

    Args:
        metric: one of `METRICS`, or another such function.
        reconstructed: [..., reconstruction].
        true: [..., image].

    Returns:
        (closeness [..., reconstruction], matched [..., reconstruction]); closeness is minus
        infinity and matched False where no true image has the label.

    Raises:
        ValueError: for what the metric cannot take.
    """
    same = _same(reconstructed, true)
    values = _pairwise(metric, reconstructed.pixels, true.pixels)
    return jnp.where(same, values, -jnp.inf).max(-1), same.any(-1)


def score(reconstructed: Images, true: Images, as_published: bool = False) -> Scores:
    """Score the reconstructions of minibatches.

    Means are over the reconstructions of all minibatches, each counting the same. One with NaN
    pixels makes them NaN: left out, a broken attack would pass for a private algorithm.

    Args:
        reconstructed: [client, reconstruction], with inferred labels.
        true: [client, image], with true labels.
        as_published: score each reconstruction against its `best_match` instead of the image
            that it is `assign`ed.

    Returns:
        The scores.

    Raises:
        ValueError: for images of different sizes or smaller than SSIM's window, pixels that are
            not floats, or no true sample at all.
    """
    share = labels_recovered(reconstructed, true)
    if as_published:
        return Scores(*_best(reconstructed, true), share)
    return Scores(*closeness(reconstructed, true, assign(reconstructed, true)), share)


def score_aggregate(reconstructed: Images, true: Images, as_published: bool = False) -> Closeness:
    """Score an aggregate's reconstructions against the true images of all clients.

    Args:
        reconstructed: [reconstruction], one a class.
        true: [client, image].
        as_published: let each metric choose its own `best_match`, instead of scoring all of them
            against the `nearest` image.

    Returns:
        Means over the reconstructions whose label occurs. How many labels were recovered says
        nothing here, where every class is reconstructed.

    Raises:
        ValueError: as for `score`, but for no true sample, which gives NaN.
    """
    pool = Images(*(lax.collapse(jnp.asarray(field), 0, 2) for field in true))
    if as_published:
        return _best(reconstructed, pool)
    return closeness(reconstructed, pool, nearest(reconstructed, pool))


def closeness(reconstructed: Images, true: Images, pairing: Pairing) -> Closeness:
    """Mean closeness of reconstructions to their partners.

    Args:
        reconstructed: [..., reconstruction].
        true: [..., image].
        pairing: [..., reconstruction].

    Returns:
        Means over the matched reconstructions.

    Raises:
        ValueError: for images of different sizes or smaller than SSIM's window, or pixels that
            are not floats.
    """
    values = _compare(reconstructed.pixels, true.pixels, pairing)
    return Closeness(*(mean(value, pairing.matched) for value in values))


def mean(values: jax.Array, matched: jax.Array) -> float:
    """Mean over what is matched, values above `PSNR_CAP` counting as that; NaN if nothing is."""
    kept = np.asarray(values, float)[np.asarray(matched)]
    return float(np.minimum(kept, PSNR_CAP).mean()) if kept.size else float("nan")


def _best(reconstructed, true):
    return Closeness(*(mean(*best_match(metric, reconstructed, true)) for metric in METRICS))


@jax.jit
def _compare(reconstructed, true, pairing):
    partners = pairing.take(true)
    return Closeness(*(metric(reconstructed, partners) for metric in METRICS))


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


def _pairwise(metric, reconstructed, true):
    """Each reconstruction against each true image of its minibatch, [..., reconstruction, image].

    One reconstruction of every minibatch after the other: all pairs at once take memory for
    batch-size times as many images.
    """
    values = lax.map(
        lambda images: metric(jnp.expand_dims(images, -4), true),
        jnp.moveaxis(reconstructed, -4, 0),
    )
    return jnp.moveaxis(values, 0, -2)


def _same(images, others):
    """Which pairs have the same label and are no filling, bool [..., image, other]."""
    alike = images.labels[..., :, None] == others.labels[..., None, :]
    return alike & images.mask[..., :, None] & others.mask[..., None, :]


@jax.jit
def _gains(reconstructed, true):
    """Pairwise PSNR as something to rank by: an assignment has no use for infinity or NaN.

    NaN ranks first: of surplus reconstructions, the broken ones must not drop out unseen.
    """
    gains = jnp.clip(_pairwise(psnr, reconstructed, true), -PSNR_CAP, PSNR_CAP)
    return jnp.nan_to_num(gains, nan=2 * PSNR_CAP)


@jax.jit
def _recovered(reconstructed, true):
    occurs = _same(reconstructed, true).sum(-1)
    # A label inferred for the k-th time is right if it occurs at least k times.
    times = jnp.tril(_same(reconstructed, reconstructed)).sum(-1)
    return jnp.sum(reconstructed.mask & (times <= occurs))
