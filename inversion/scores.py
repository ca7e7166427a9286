"""Scores: how well an attack did on the clients and on the aggregate."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from assignment import Images, Pairing, assign, best_match, nearest, same_label
from classifier_metric import Classifier
from image_metrics import METRICS, PSNR_CAP, PUBLISHED_METRICS, Metric
from jax import lax
from reconstruction import Attacked, Reconstruction
from server_view import Behind, Truth

from fl.experiment.departures import Departures
from fl.simulation.training import Samples

# Decibels above which a reconstruction counts as a recovered image.
RECOGNISABLE = 30.0
# Of the columns that are about the aggregate.
GLOBAL = "global_"
CORRECTED = Departures()
# In place of a label that is not inferred.
UNKNOWN = -1


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


def score(
    attacked: Attacked, truth: Truth, samples: Samples, departures: Departures = CORRECTED
) -> dict[str, float]:
    """Score an attack on single rounds -> columns of results.csv.

    Args:
        attacked: what it made of the clients' observations and of the aggregate.
        truth: the minibatches behind them.
        samples: the training set, for the chance control.
        departures: see `score_clients`.

    Raises:
        ValueError: see `score_clients` and `labels_recovered`.
    """
    found, whole, true = images(attacked.clients), images(attacked.aggregate), Images(*truth[:3])
    whole = Images(*(field[0] for field in whole))
    of_clients = score_clients(found, true, departures)
    of_all = score_aggregate(whole, true, departures)
    chance = score_clients(others(found, truth, samples), true, departures)
    chance_of_all = score_aggregate(others(whole, truth, samples), true, departures)
    return {
        **of_clients._asdict(),
        **{f"{GLOBAL}{name}": value for name, value in of_all._asdict().items()},
        "labels_recovered": labels_recovered(found, true),
        "recovered": recovered(found, true),
        "chance_psnr": chance.psnr,
        f"{GLOBAL}chance_psnr": chance_of_all.psnr,
    }


def score_window(attacked: Attacked, behind: Behind, samples: Samples) -> dict[str, float]:
    """Score an attack on a window of rounds -> columns of results.csv.

    Reconstructions are assigned one to one to the images of the same round, of a client or of all
    of them: such an attack infers no labels.

    Args:
        attacked: what it made of each watched client's messages, and of the aggregate's.
        behind: what was behind them.
        samples: the training set, for the chance control.
    """
    targets = (attacked.clients, behind.clients, ""), (attacked.aggregate, behind.aggregate, GLOBAL)
    scores = {}
    for reconstruction, truth, prefix in targets:
        if not len(reconstruction.images):
            continue
        found, true = images(reconstruction), Images(*truth[:3])
        chance = score_clients(others(found, truth, samples), true)
        found_scores = {
            **score_clients(found, true)._asdict(),
            "recovered": recovered(found, true),
            "chance_psnr": chance.psnr,
        }
        scores |= {prefix + name: value for name, value in found_scores.items()}
    return scores


def others(reconstructed: Images, truth: Truth, samples: Samples) -> Images:
    """The chance control: other training images in place of the reconstructions.

    Args:
        reconstructed: [..., reconstruction]; with inferred labels, the others are of the same
            classes; with `UNKNOWN` ones, of any.
        truth: of whose images none is taken.
        samples: the training set.
    """
    rng = np.random.default_rng(0)
    labels, taken = np.asarray(samples.labels), np.unique(truth.indices)
    left = np.setdiff1d(np.arange(len(labels)), taken)
    by_label = {label: left[labels[left] == label] for label in np.unique(labels)}
    wanted = np.asarray(reconstructed.labels)
    chosen = [rng.choice(by_label.get(label, left)) for label in wanted.ravel()]
    pixels, _ = samples.take(jnp.asarray(chosen).reshape(wanted.shape))
    return reconstructed._replace(pixels=pixels)


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


def classifier_distance(attacked: Attacked, truth: Truth, classifier: Classifier) -> float:
    """Mean distance of the clients' reconstructions from the true images, by a classifier."""
    found, true = images(attacked.clients), Images(*truth[:3])
    pairing = assign(found, true)
    distances = classifier.distance(pairing.take(true.pixels), found.pixels)
    return mean(distances, pairing.matched)


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
    pool = Images(*(lax.collapse(jnp.asarray(field), 0, 2) for field in true))
    metrics = _metrics(departures)
    if departures.best_match:
        return _best(metrics, reconstructed, pool)
    return closeness(reconstructed, pool, nearest(reconstructed, pool), metrics)


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


def images(reconstruction: Reconstruction) -> Images:
    """Reconstructions as labelled images, none of which is filling."""
    present = np.ones(reconstruction.labels.shape, bool)
    return Images(reconstruction.images, reconstruction.labels, present)


def by_true_image(reconstruction: Reconstruction, truth: Truth) -> jax.Array:
    """Each true image's reconstruction.

    Args:
        reconstruction: [client, reconstruction], one to one.
        truth: [client, image].

    Returns:
        [client, image, height, width, channels]; NaN where no reconstruction was assigned.
    """
    found = images(reconstruction)
    pairing = assign(found, Images(*truth[:3]))
    ordered = np.full(truth.images.shape, np.nan, np.float32)
    client, reconstruction = np.nonzero(np.asarray(pairing.matched))
    partner = np.asarray(pairing.partner)[client, reconstruction]
    ordered[client, partner] = np.asarray(found.pixels)[client, reconstruction]
    return jnp.asarray(ordered)


def _metrics(departures):
    return PUBLISHED_METRICS if departures.ssim_range else METRICS


def _best(metrics, reconstructed, true):
    return Closeness(*(mean(*best_match(metric, reconstructed, true)) for metric in metrics))


@partial(jax.jit, static_argnums=0)
def _compare(metrics, reconstructed, true, pairing):
    partners = pairing.take(true)
    return Closeness(*(metric(reconstructed, partners) for metric in metrics))


@jax.jit
def _recovered(reconstructed, true):
    occurs = same_label(reconstructed, true).sum(-1)
    # A label inferred for the k-th time is right if it occurs at least k times.
    times = jnp.tril(same_label(reconstructed, reconstructed)).sum(-1)
    return jnp.sum(reconstructed.mask & (times <= occurs))
