"""A run's certificate: the vote of its smoothed models, bounds, radii, and the curve over radii."""

from typing import NamedTuple

import attack_success
import backdoor
import crfl
import jax
import numpy as np
import smoothing
from attacks import ATTACKS
from federation import algorithm
from runs import Run, describe

from fl.data import sampling
from fl.data.datasets import Dataset
from fl.experiment.program import evaluated
from fl.simulation import models, training

# Points of the curve of certified accuracy against radius, beside that at 0.
POINTS = 60
# Of an adversary's samples that are poisoned, as the published code assumes.
PUBLISHED_SHARE = 1 / 4


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


def vote(run: Run, params, dataset: Dataset) -> Ballot:
    """Let smoothed models vote on every test sample, and every triggered image of the source.

    Args:
        run: that was attacked.
        params: after the last round.
        dataset: its test part is voted on.
    """
    samples = backdoor.with_triggers(training.test_samples(dataset))
    without_last = run.batch_size if run.departures.last_batch else None
    clean = evaluated(len(dataset.test_labels), without_last)
    triggered = attack_success.triggered(dataset.test_labels, without_last)
    images, labels = samples.take(np.concatenate([np.arange(clean), triggered]))
    counts = smoothing.vote(
        models.MODELS[run.model]().apply,
        # The published code clips each entry to these hundreds, which leaves all as they are.
        params if run.departures.radius else smoothing.clipped(params, _norms(run)[-1]),
        images,
        run.overrides.sigma or crfl.SIGMA,
        run.overrides.smoothed_models or crfl.MODELS,
        jax.random.key(sampling.run_seed(run.seed)),
        frozen=run.departures.frozen_noise,
        label=f"{describe(run)}, certificate",
    )
    return Ballot(counts, np.asarray(labels), clean)


def certify(run: Run, ballot: Ballot) -> Certified:
    """Turn votes into certified accuracy and attack success.

    Args:
        run: that was attacked.
        ballot: from `vote`.
    """
    given = run.overrides
    votes = crfl.count(ballot.counts, given.error or crfl.ERROR, given.bound or crfl.BOUNDS[0])
    if run.departures.radius:
        votes = votes._replace(abstains=np.zeros_like(votes.abstains))
    sigma = given.sigma or crfl.SIGMA
    radii = crfl.radius(votes, sigma, *_assumed(run, sigma))
    clean = np.arange(len(ballot.labels)) < ballot.clean

    def shares(delta):
        sure = crfl.certified(votes, ballot.labels, radii, delta)
        return float(sure[clean].mean()), float(sure[~clean].mean())

    accuracy, asr = shares(run.delta)
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


def _norms(run):
    """rho_t of the attacked round and of all later ones, as the paper clips parameters."""
    rounds = np.arange(run.start_round + 1, run.rounds + 1)
    return crfl.clipping_norm(rounds, run.local_steps)


def _assumed(run, sigma):
    """What CRFL's theorem asks of a run -> (attack, factor)."""
    norms, entry = _norms(run), ATTACKS[run.attack]
    share = entry.poisoned_share(run.dataset, run.batch_size)
    attack = crfl.Attack(
        adversaries=run.adversaries,
        local_steps=run.local_steps,
        weight=1 / run.clients,
        scale=run.overrides.scale_factor or entry.scale_factor(run.clients),
        rate=algorithm(run.algorithm, run.overrides).client_rate,
        poisoned=PUBLISHED_SHARE if run.departures.poison_share else share,
        lipschitz=crfl.lipschitz(norms[0]),
    )
    if run.departures.radius:
        # There the learning rate cancels, and neither the Lipschitz factor nor the later rounds
        # count.
        return attack._replace(rate=1.0, lipschitz=1.0), 1.0
    return attack, crfl.contraction(norms[1:], np.full(len(norms) - 1, sigma))
