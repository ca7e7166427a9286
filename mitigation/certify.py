"""A run's certificate: the vote of its smoothed models, bounds, radii, and the curve over radii."""

from typing import NamedTuple

import backdoor
import certificate
import jax
import numpy as np
import smoothing
from federation import describe
from settings import Options, rates

from fl.data import sampling
from fl.data.datasets import Dataset
from fl.simulation import algorithms, models, training

# Points of the curve of certified accuracy against radius, beside that at 0.
POINTS = 60


class Ballot(NamedTuple):
    """The votes on test samples, and behind them those on triggered images of the source.

    Attributes:
        counts: int [sample, class].
        labels: int [sample]; the target's for triggered images.
        clean: how many of the samples are clean.
    """

    counts: np.ndarray
    labels: np.ndarray
    clean: int


class Certified(NamedTuple):
    """What a certificate says of a run.

    Attributes:
        scores: columns of results.csv.
        curve: points (radius, certified accuracy, certified attack success).
    """

    scores: dict[str, float]
    curve: list[tuple[float, float, float]]


def vote(options: Options, cell: dict, params, dataset: Dataset) -> Ballot:
    """Let smoothed models vote on every test sample, and every triggered image of the source.

    Args:
        options: the command line.
        cell: one of `settings.grid`.
        params: after the last round.
        dataset: its test part is voted on.
    """
    samples = backdoor.with_triggers(training.test_samples(dataset))
    clean = len(dataset.test_labels)
    if options.as_published:  # the last minibatch is never evaluated
        clean = (clean - 1) // cell["batch_size"] * cell["batch_size"]
    triggered = backdoor.test_indices(dataset.test_labels)
    images, labels = samples.take(np.concatenate([np.arange(clean), triggered]))
    counts = smoothing.vote(
        models.MODELS[cell["model"]]().apply,
        # The published code clips each entry to these hundreds, which leaves all as they are.
        params if options.as_published else smoothing.clipped(params, _norms(cell)[-1]),
        images,
        options.sigma or certificate.SIGMA,
        options.smoothed_models or certificate.MODELS,
        jax.random.key(sampling.run_seed(cell["seed"])),
        frozen=options.as_published,
        label=f"{describe(cell)}, certificate",
    )
    return Ballot(counts, np.asarray(labels), clean)


def certify(options: Options, cell: dict, ballot: Ballot) -> Certified:
    """Turn votes into certified accuracy and attack success.

    Args:
        options: the command line.
        cell: one of `settings.grid`, with an attack.
        ballot: from `vote`.
    """
    bound = options.bound or certificate.BOUNDS[0]
    votes = certificate.count(ballot.counts, options.error or certificate.ERROR, bound)
    if options.as_published:
        votes = votes._replace(abstains=np.zeros_like(votes.abstains))
    sigma = options.sigma or certificate.SIGMA
    radii = certificate.radius(votes, sigma, *_attack(options, cell, sigma))
    clean = np.arange(len(ballot.labels)) < ballot.clean

    def shares(delta):
        sure = certificate.certified(votes, ballot.labels, radii, delta)
        return float(sure[clean].mean()), float(sure[~clean].mean())

    accuracy, asr = shares(cell["delta"])
    known = radii[clean & ~votes.abstains]
    farthest = np.max(radii, initial=0.0, where=np.isfinite(radii))
    return Certified(
        {
            "certified_accuracy": accuracy,
            "certified_asr": asr,
            "abstained": float(votes.abstains[clean].mean()),
            "median_radius": float(np.median(known)) if len(known) else None,
        },
        [(float(delta), *shares(delta)) for delta in np.linspace(0, 1.02 * farthest, POINTS + 1)],
    )


def _norms(cell):
    """rho_t of the attacked round and of all later ones, as the paper clips parameters."""
    rounds = np.arange(cell["start_round"] + 1, cell["rounds"] + 1)
    return certificate.clipping_norm(rounds, cell["local_steps"])


def _attack(options, cell, sigma):
    """What CRFL's theorem asks of a run -> (attack, factor)."""
    norms = _norms(cell)
    one_shot = cell["attack"] == "one_shot"
    clean, backdoored = backdoor.sizes(cell["dataset"], cell["batch_size"])
    algorithm = algorithms.ALGORITHMS[cell["algorithm"]]
    attack = certificate.Attack(
        adversaries=cell["adversaries"],
        local_steps=cell["local_steps"],
        weight=1 / cell["clients"],
        scale=cell["clients"] if one_shot else 1,
        rate=algorithm(**rates(options, cell["algorithm"])).client_rate,
        poisoned=1.0 if one_shot else backdoored / (clean + backdoored),
        lipschitz=certificate.lipschitz(norms[0]),
    )
    if options.as_published:
        # There the learning rate cancels, and neither the Lipschitz factor nor the later rounds
        # count.
        return attack._replace(rate=1.0, lipschitz=1.0), 1.0
    return attack, certificate.contraction(norms[1:], np.full(len(norms) - 1, sigma))
