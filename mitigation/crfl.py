"""CRFL's certificate: how large a backdoor can be without changing a prediction.

Certifiably robust federated learning (Xie et al. 2021, arXiv:2106.08283): many noisy copies of the
final model vote on each test sample. From the votes come bounds on how often the noisy model
predicts its first and second choice, and from these a radius: no backdoor within it, as the paper's
robustness theorem has it, changes the vote.

The theorem is for multi-class logistic regression, from which its Lipschitz constant comes, and for
servers that clip and perturb the global parameters in every round. For other models and without
that, the radius is a figure of merit that the paper's code reports too, and no guarantee.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, ndtr

BOUNDS = ("hoeffding", "clopper-pearson")
# The paper's number of smoothed models M, deviation of their noise, and error of each bound.
MODELS, SIGMA, ERROR = 1000, 0.01, 0.001


class Votes(NamedTuple):
    """What the vote says about each sample.

    Attributes:
        winner: int [sample], the class of the most votes.
        lower: [sample], a lower bound on the probability of the winner.
        upper: [sample], an upper bound on that of the runner-up.
        abstains: bool [sample]; True where the bounds cross, so that nothing can be certified.
    """

    winner: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    abstains: np.ndarray


class Attack(NamedTuple):
    """What CRFL's theorem asks of the attack and of the training.

    Attributes:
        adversaries: R, at least 1.
        local_steps: tau, of each client in a round.
        weight: p, the aggregation weight of each adversary.
        scale: gamma, by which an adversary multiplies what it sends.
        rate: eta, the adversaries' learning rate.
        poisoned: q / n, the share of an adversary's samples that is poisoned.
        lipschitz: L, of the gradient of the loss with respect to the samples.
    """

    adversaries: int
    local_steps: int
    weight: float
    scale: float
    rate: float
    poisoned: float
    lipschitz: float


def count(counts: np.ndarray, error: float, bound: str = "hoeffding") -> Votes:
    """Bound the probabilities of the two classes of the most votes.

    Args:
        counts: int [sample, class], votes of M models; all samples have as many.
        error: probability with which each bound may be wrong, in (0, 1).
        bound: one of `BOUNDS`. Hoeffding's is the paper's: the votes' share minus or plus
            sqrt(ln(1 / error) / (2 M)). Clopper-Pearson's is exact for a single class, and
            tighter near 0 and 1.

    Returns:
        The bounds; classes with equal votes are taken in order of their number, and abstain.

    Raises:
        ValueError: for a bound or an error out of range, or samples with unequal numbers of votes.
    """
    if bound not in BOUNDS:
        raise ValueError(f"unknown bound {bound!r}: choose from {', '.join(BOUNDS)}")
    if not 0 < error < 1:
        raise ValueError(f"error must be in (0, 1), got {error}")
    models = counts.sum(1)
    if len(models) and (models != models[0]).any():
        raise ValueError("samples have unequal numbers of votes")
    order = np.argsort(-counts, axis=1, kind="stable")
    winner = order[:, 0]
    first, second = (np.take_along_axis(counts, order[:, [k]], 1)[:, 0] for k in (0, 1))
    if bound == "hoeffding":
        margin = np.sqrt(np.log(1 / error) / (2 * models))
        lower, upper = first / models - margin, second / models + margin
    else:
        lower = np.where(first > 0, betaincinv(first, models - first + 1, error), 0.0)
        upper = np.where(second < models, betaincinv(second + 1, models - second, 1 - error), 1.0)
    lower, upper = np.clip(lower, 0, 1), np.clip(upper, 0, 1)
    return Votes(winner, lower, upper, abstains=lower <= upper)


def radius(votes: Votes, sigma: float, attack: Attack, factor: float = 1.0) -> np.ndarray:
    """CRFL's radius: the largest change of the poisoned samples that cannot change the vote.

    sqrt(-ln(1 - (sqrt(p_A) - sqrt(p_B))^2) sigma^2 / D), with D = 2 R tau^2 L^2 sum_{i<=R}
    (p_i gamma_i eta_i q_i / n_i)^2 times `factor`, here with adversaries that are all alike
    (as in the authors' certification code).

    Args:
        votes: see `count`.
        sigma: standard deviation of the last round's noise, above 0.
        attack: what is assumed of the attack.
        factor: the product over the rounds after the attack, see `contraction`.

    Returns:
        The radius [sample], in L2 distance of pixel intensities; 0 where the vote abstains, and
        infinite where nothing the attack does reaches the last round.
    """
    apart = (np.sqrt(votes.lower) - np.sqrt(votes.upper)) ** 2
    with np.errstate(divide="ignore"):
        information = -np.log1p(-np.where(votes.abstains, 0.0, apart))
        reach = (attack.weight * attack.scale * attack.rate * attack.poisoned) ** 2
        reach *= 2 * attack.adversaries**2 * (attack.local_steps * attack.lipschitz) ** 2
        found = np.sqrt(information * sigma**2 / np.float64(reach * factor))
    return np.where(votes.abstains, 0.0, found)


def contraction(norms: np.ndarray, sigmas: np.ndarray) -> float:
    """How much of an attack is left after later rounds: prod_t (2 Phi(rho_t / sigma_t) - 1).

    Args:
        norms: rho_t [round], to which the parameters were clipped in each round after the attack,
            the last included.
        sigmas: sigma_t [round], standard deviation of the noise added in each, above 0.

    Returns:
        The product, in (0, 1]: close to 1 for norms far above the noise, as in the paper.
    """
    return float(np.prod(2 * ndtr(np.asarray(norms) / np.asarray(sigmas)) - 1))


def clipping_norm(rounds: np.ndarray, local_steps: int) -> np.ndarray:
    """rho_t, to which the paper clips the parameters in round t: 0.25 t E + 4."""
    return 0.25 * np.asarray(rounds) * local_steps + 4


def lipschitz(clipped_norm: float) -> float:
    """L for multi-class logistic regression with parameters of a norm: sqrt(2 + 2 rho + rho^2)."""
    return float(np.sqrt(2 + 2 * clipped_norm + clipped_norm**2))


def certified(votes: Votes, labels: np.ndarray, radii: np.ndarray, delta: float) -> np.ndarray:
    """Which samples are voted right, with a radius of at least delta.

    Args:
        votes: see `count`.
        labels: int [sample]; the true classes for certified accuracy, the target's for certified
            attack success.
        radii: [sample], see `radius`.
        delta: at least 0.

    Returns:
        bool [sample]; False where the vote abstains.
    """
    return (votes.winner == labels) & ~votes.abstains & (radii >= delta)
