"""Gains of pixels by the patterns that images activate: which units, and which not.

Where an image's derivative at a unit is zero, the unit was silent, and else it was active. The
server knows the weights W and biases b that it sent: with the image x_p g_p, whose pixels x are
known up to their gains g,

    sum_p W_pj x_p g_p + b_j > 0      if and only if the image activates unit j.

Each image says so much of every unit. That is logistic regression, in the gains' logarithms, with
what neighbouring pixels have in common (`flat_gains`) for a prior: precise where many images show
both, and next to nothing at the edges, of which patterns tell most. Patterns say little of the
scale of all gains: where what is known of images is not exact, the regression takes it for too
small, as errors in its variables attenuate it. So that is what contradicts the fewest units.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from disaggregation import Disaggregated
from flat_gains import Quotients, normal_equations

# Relative errors of gains that are reckoned with, one after the other.
ERRORS = (0.3, 0.15, 0.1)
# Share of the images, those that are contradicted least, that tell gains.
BEST = 0.3
# Deviation of the logarithm of a quotient that so many values say: this, over their square.
DEVIATION = 10.0
# Equations to solve, at most: those that are the least clear.
EQUATIONS = 20_000
# Newton's steps, the most that a logarithm may change by in one, and what is added to the diagonal.
STEPS, FARTHEST, DAMPING = 5, 0.7, 0.1
# Factors of all gains that are tried, the share of images, those that they contradict least, that
# tell the right one, and how many on both sides of the best tell it more finely.
SCALES, TELLING, NEAR = np.exp(np.linspace(-0.6, 0.6, 13)), 0.1, 3


def pattern_gains(
    found: Disaggregated,
    certain: np.ndarray,
    weights: jax.Array,
    guess: np.ndarray,
    known: Quotients,
) -> np.ndarray:
    """Find the gains of pixels.

    Args:
        found: in some rounds, [round, image, ...], each pixel up to a gain.
        certain: bool [round, image], the images to rely on, one at least.
        weights: of the first layer in the same rounds, the bias as the last row,
            [round, pixels + 1, units].
        guess: at the gains, [pixel]; 0 for pixels that no image shows.
        known: of neighbours in the images.

    Returns:
        [pixel]; 0 where the guess is.
    """
    gains = _rescaled(found, certain, weights, guess)
    for error in ERRORS:
        wrong = np.asarray(contradicted(found, jnp.asarray(gains), weights))
        best = certain & (wrong <= np.quantile(wrong[certain], BEST))
        equations = _equations(found, best, np.asarray(weights), gains, error)
        gains = _rescaled(found, certain, weights, _fitted(gains, equations, known))
    return gains


@jax.jit
def contradicted(found: Disaggregated, gains: jax.Array, weights: jax.Array) -> jax.Array:
    """Share of the units at which images contradict their derivatives, [round, image].

    Args:
        found: as in `pattern_gains`.
        gains: [pixel].
        weights: as in `pattern_gains`.
    """
    images = jnp.clip(found.images * gains[None, None], 0, 1)
    # A 1 for the bias takes less than the weights without it would.
    images = jnp.pad(images, ((0, 0), (0, 0), (0, 1)), constant_values=1)
    active = images @ weights > 0
    wrong = (active == found.silent) & found.heard[:, None]
    return wrong.sum(2) / jnp.maximum(found.heard.sum(1), 1)[:, None]


class _Equations(NamedTuple):
    """What should be positive: matrix @ gains + offset, in deviations of its error.

    Attributes:
        matrix: [equation, pixel].
        offset: [equation].
    """

    matrix: np.ndarray
    offset: np.ndarray


def _equations(found, chosen, weights, gains, error):
    """Of some images bool [round, image]; those that are the nearest to zero, if there are many."""
    number, image = np.nonzero(chosen)
    images = np.asarray(found.images)[number, image]
    lit, heard = images * gains, np.asarray(found.heard)[number]
    sums, deviations = np.zeros(heard.shape), np.zeros(heard.shape)
    for of_round in np.unique(number):
        kernel, own = weights[of_round, :-1], number == of_round
        sums[own] = lit[own] @ kernel
        deviations[own] = error * np.sqrt(lit[own] ** 2 @ kernel**2)
    bias = weights[number, -1]
    heard &= deviations > 0
    sign = np.where(np.asarray(found.silent)[number, image], -1.0, 1.0)
    sign = np.where(heard, sign / np.where(heard, deviations, 1), 0)
    clear = np.abs(sign * (sums + bias))
    which, unit = np.nonzero(heard)
    least = np.argsort(clear[which, unit])[:EQUATIONS]
    which, unit = which[least], unit[least]
    factor, seen = sign[which, unit], weights[number[which], :-1, unit]
    return _Equations(images[which] * seen * factor[:, None], bias[which, unit] * factor)


def _fitted(gains, equations, known):
    """The likeliest gains, by some steps of Newton's method from those so far."""
    live = gains > 0
    logs = np.log(np.where(live, gains, 1))
    deviations = DEVIATION / known.count**2
    for _ in range(STEPS):
        slopes = equations.matrix * np.where(live, np.exp(logs), 0)
        margins = np.clip(slopes.sum(1) + equations.offset, -50, 50)
        # The curvature of the bound of Jaakkola and Jordan, which is right far from zero, too.
        curvature = np.tanh(margins / 2) / np.where(margins == 0, 1, 2 * margins)
        curvature = np.where(margins == 0, 0.25, curvature)
        residuals = known.difference - (logs[known.second] - logs[known.first])
        # Of Cauchy's distribution, as some quotients are far off.
        strength = 1 / (1 + (residuals / deviations) ** 2 / 2) / deviations**2
        matrix, target = normal_equations(known, strength, residuals, len(gains))
        matrix += (slopes * curvature[:, None]).T @ slopes + DAMPING * np.eye(len(gains))
        step = np.linalg.solve(matrix, target + slopes.T @ (1 / (1 + np.exp(margins))))
        logs += step * min(1, FARTHEST / max(np.abs(step).max(), 1e-12))
    return np.where(live, np.exp(logs), 0)


def _rescaled(found, certain, weights, gains):
    """Gains times what makes the best images contradicted least, by a parabola around that."""
    count = max(1, int(TELLING * certain.sum()))
    wrong = [
        np.sort(np.asarray(contradicted(found, jnp.asarray(scale * gains), weights))[certain])
        for scale in SCALES
    ]
    means = np.array([of_scale[:count].mean() for of_scale in wrong])
    least = np.argmin(means)
    near = slice(max(0, least - NEAR), least + NEAR + 1)
    logs = np.log(SCALES[near])
    curvature, slope, _ = np.polyfit(logs, means[near], 2)
    if curvature <= 0:
        return gains * SCALES[least]
    return gains * np.exp(np.clip(-slope / (2 * curvature), logs[0], logs[-1]))
