"""A run's certificate: the vote of its smoothed models, bounds, radii, and the curve over radii."""

from typing import NamedTuple

import backdoor
import certificate
import jax
import numpy as np
import smoothing
from federation import describe
from settings import Options, rates

from fl import algorithms, models, sampling, training
from fl.datasets import Dataset

# Points of the curve of certified accuracy against radius, beside that at 0.
POINTS = 60


class Certified(NamedTuple):
    """What a certificate says of a run.

    Attributes:
        scores: columns of results.csv.
        curve: points (radius, certified accuracy, certified attack success).
    """

    scores: dict[str, float]
    curve: list[tuple[float, float, float]]


def certify(options: Options, cell: dict, params, dataset: Dataset) -> Certified:
    """Certify every test sample, and attack success on every triggered image of the source.

    Args:
        options: the command line.
        cell: one of `settings.grid`, with an attack.
        params: after the last round.
        dataset: its test part is certified.
    """
    samples = backdoor.with_triggers(training.test_samples(dataset))
    clean = np.arange(len(dataset.test_labels))
    if options.as_published:
        last = (len(clean) - 1) // cell["batch_size"] * cell["batch_size"]
        clean = clean[:last]
    indices = np.concatenate([clean, backdoor.test_indices(dataset.test_labels)])
    images, labels = samples.take(indices)
    sigma = options.sigma or certificate.SIGMA
    counts = smoothing.vote(
        models.MODELS[cell["model"]]().apply,
        params if options.as_published else smoothing.clipped(params, _norms(cell)[-1]),
        images,
        sigma,
        options.smoothed_models or certificate.MODELS,
        jax.random.key(sampling.run_seed(cell["seed"])),
        frozen=options.as_published,
        label=f"{describe(cell)}, certificate",
    )
    bound = options.bound or certificate.BOUNDS[0]
    votes = certificate.count(counts, options.error or certificate.ERROR, bound)
    radii = certificate.radius(votes, sigma, *_attack(options, cell, sigma))
    # The triggered images behind the others.
    parts = slice(None, len(clean)), slice(len(clean), None)

    def shares(delta):
        return [
            certificate.certified(
                jax.tree.map(lambda leaf, part=part: leaf[part], votes),
                np.asarray(labels)[part],
                radii[part],
                delta,
            )
            for part in parts
        ]

    accuracy, asr = shares(cell["delta"])
    finite = radii[np.isfinite(radii)]
    far = finite.max(initial=0.0)
    certain = radii[parts[0]][~votes.abstains[parts[0]]]
    return Certified(
        {
            "certified_accuracy": accuracy,
            "certified_asr": asr,
            "abstained": float(votes.abstains[parts[0]].mean()),
            "median_radius": float(np.median(certain)) if len(certain) else None,
        },
        [(float(delta), *shares(delta)) for delta in np.linspace(0, 1.02 * far, POINTS + 1)],
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
