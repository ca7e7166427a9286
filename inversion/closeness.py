"""How close reconstructions come to the images that they are scored against."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from assignment import Images, Pairing, assign, best_match, nearest
from image_metrics import METRICS, PSNR_CAP, PUBLISHED_METRICS, Metric
from jax import lax

from fl.experiment.departures import Departures

# Decibels above which a reconstruction counts as a recovered image.
RECOGNISABLE = 30.0
CORRECTED = Departures()


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


def score_clients(
    reconstructed: Images, true: Images, departures: Departures = CORRECTED
) -> Closeness:
    """Score the reconstructions of minibatches.

    Means are over the reconstructions of all minibatches, each counting the same. One with NaN
    pixels makes them NaN: left out, a broken attack would pass for a private algorithm.

    Args:
        reconstructed: [client, reconstruction], with inferred labels.
        true: [client, image], with true labels.
        departures: of which those of scoring act: with `best-match`, each reconstruction is scored
            against its `best_match` instead of the image that it is `assign`ed.

    Returns:
        Means over the matched reconstructions; NaN where there is none.

    Raises:
        ValueError: for images of different sizes or smaller than SSIM's window, or pixels that
            are not floats.
    """
    metrics = _metrics(departures)
    if departures.best_match:
        return _best(metrics, reconstructed, true)
    return closeness(reconstructed, true, assign(reconstructed, true), metrics)


def score_aggregate(
    reconstructed: Images, true: Images, departures: Departures = CORRECTED
) -> Closeness:
    """Score an aggregate's reconstructions against the true images of all clients.

    Args:
        reconstructed: [reconstruction], one a class.
        true: [client, image].
        departures: of which those of scoring act: with `best-match`, each metric chooses its own
            `best_match`, instead of all being of the `nearest` image.

    Returns:
        Means over the reconstructions whose label occurs. How many labels were recovered says
        nothing here, where every class is reconstructed.

    Raises:
        ValueError: as for `score_clients`.
    """
    pool = pooled(true)
    metrics = _metrics(departures)
    if departures.best_match:
        return _best(metrics, reconstructed, pool)
    return closeness(reconstructed, pool, nearest(reconstructed, pool), metrics)


def pooled(clients: Images) -> Images:
    """Images of all clients together, [client, image, ...] -> [image, ...]."""
    return Images(*(lax.collapse(jnp.asarray(field), 0, 2) for field in clients))


def recovered(reconstructed: Images, true: Images) -> float:
    """Share of the true images that are reconstructed at a PSNR above `RECOGNISABLE`.

    Args:
        reconstructed: [..., reconstruction].
        true: [..., image], the same minibatches, assigned one to one.
    """
    pairing = assign(reconstructed, true)
    values = _compare(METRICS, reconstructed.pixels, true.pixels, pairing).psnr
    good = np.asarray(pairing.matched) & (np.asarray(values) > RECOGNISABLE)
    return float(good.sum() / np.asarray(true.mask).sum())


def closeness(
    reconstructed: Images, true: Images, pairing: Pairing, metrics: tuple[Metric, ...] = METRICS
) -> Closeness:
    """Mean closeness of reconstructions to their partners.

    Args:
        reconstructed: [..., reconstruction].
        true: [..., image].
        pairing: [..., reconstruction].
        metrics: one for each field of `Closeness`.

    Returns:
        Means over the matched reconstructions.

    Raises:
        ValueError: for images of different sizes or smaller than SSIM's window, or pixels that
            are not floats.
    """
    values = _compare(metrics, reconstructed.pixels, true.pixels, pairing)
    return Closeness(*(mean(value, pairing.matched) for value in values))


def mean(values: jax.Array, matched: jax.Array) -> float:
    """Mean over what is matched, values above `PSNR_CAP` counting as that; NaN if nothing is."""
    kept = np.asarray(values, float)[np.asarray(matched)]
    return float(np.minimum(kept, PSNR_CAP).mean()) if kept.size else float("nan")


def _metrics(departures):
    return PUBLISHED_METRICS if departures.ssim_range else METRICS


def _best(metrics, reconstructed, true):
    return Closeness(*(mean(*best_match(metric, reconstructed, true)) for metric in metrics))


@partial(jax.jit, static_argnums=0)
def _compare(metrics, reconstructed, true, pairing):
    partners = pairing.take(true)
    return Closeness(*(metric(reconstructed, partners) for metric in metrics))
