"""Scores: how well an attack did on the clients and on the aggregate, and what chance would."""

import jax
import jax.numpy as jnp
import numpy as np
from assignment import Images, assign, same_label
from classifier_metric import Classifier
from closeness import CORRECTED, mean, pooled, recovered, score_aggregate, score_clients
from reconstruction import Attacked, Reconstruction
from server_view import Behind, Truth

from fl.experiment.departures import Departures
from fl.simulation.training import Samples

# Of the columns that are about the aggregate.
GLOBAL = "global_"
# In place of a label that is not inferred.
UNKNOWN = -1


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
        f"{GLOBAL}recovered": _recovered_of_all(whole, true),
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


def classifier_distance(attacked: Attacked, truth: Truth, classifier: Classifier) -> float:
    """Mean distance of the clients' reconstructions from the true images, by a classifier."""
    found, true = images(attacked.clients), Images(*truth[:3])
    pairing = assign(found, true)
    distances = classifier.distance(pairing.take(true.pixels), found.pixels)
    return mean(distances, pairing.matched)


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


def _recovered_of_all(reconstructed, true):
    """Share of all clients' images that are recovered, whatever the labels inferred."""
    unknown = np.full_like(reconstructed.labels, UNKNOWN)
    of_one_round = reconstructed._replace(labels=unknown), pooled(true)
    return recovered(*(Images(*(field[None] for field in each)) for each in of_one_round))


@jax.jit
def _recovered(reconstructed, true):
    occurs = same_label(reconstructed, true).sum(-1)
    # A label inferred for the k-th time is right if it occurs at least k times.
    times = jnp.tril(same_label(reconstructed, reconstructed)).sum(-1)
    return jnp.sum(reconstructed.mask & (times <= occurs))
