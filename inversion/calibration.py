"""Calibration: the factors of a dense layer's gradients, from what their rank must be.

What `ratio.follow` makes of a window of rounds are gradients up to a factor for each entry, the
same in all rounds: G_t = S * Y_t, entry by entry. The gradient of a dense layer, with that of its
bias as one more row, is a sum of outer products, one for each sample: its rank is at most the
number R of samples behind it. For R well below the number of units that determines S, up to two
gauges:

* a gain for each row, that is for each pixel and for the bias;
* a factor for each column, that is for each unit. It is fixed by putting the bias row's S to 1,
  as the appended input of the bias is the same for all units; see `brightness` for the rows.

Rows are solved for in turns with the row spaces of the gradients: given an orthonormal basis V_t of
each, row p of S is the vector s for which sum_t |(s * y_tp) (1 - V_t V_t')|^2 is smallest, an
eigenvector of a matrix as small as the number of units. Given S, V_t are the R leading right
singular vectors of S * Y_t, with rows and rounds weighed by how well they fit. A row has
little weight in V_t, so that its error hardly comes back: on a client's own ratios the error of S
falls from 5 % to the rounding of single precision in 20 such iterations.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from row_factors import even_columns, root_share, row_sizes, size_of, solve_rows

# Units to calibrate with, at least, and for each sample: more of them determine it better, and are
# slower.
UNITS = 100
UNITS_A_SAMPLE = 3
ITERATIONS = 24
# Iterations after which rows and rounds are weighed by how well they fit.
UNWEIGHED = 4
# Of a unit's bias gradient in units of its root mean square: below, it was not active in the round.
QUIET = 0.03
# Units that a calibration is extended to at a time: what they take stays in the caches.
UNITS_AT_A_TIME = 8
# A unit's misfit, in medians of those that were calibrated, above which it is left out.
WORST = 5.0
# Iterations that extend a calibration to further units.
EXTENSIONS = 40


class Calibration(NamedTuple):
    """What is found out about the factors.

    Attributes:
        scales: [row, unit], the bias row 1; 0 where an entry never had a gradient, and for units
            that were never active.
        residual: [round], the share of the gradient, in norm, that has no place within the rank.
    """

    scales: jax.Array
    residual: jax.Array


class CannotCalibrateError(ValueError):
    """The rank says nothing: as many samples as units, or too few rounds."""


def calibrate(y: jax.Array, rank: int, iterations: int = ITERATIONS) -> Calibration:
    """Find the factors of gradients.

    Args:
        y: [round, row, unit], gradients up to a factor for each entry, the last row the bias's.
            In double precision, or its rounding limits the result.
        rank: samples behind a round's gradient at most, at least 1.
        iterations: at least 1.

    Raises:
        CannotCalibrateError: where the rank is not below the number of active units, or where two
            rounds are not there.
    """
    activity = jnp.mean(jnp.abs(y[:, -1]) > QUIET, axis=0)
    active = int((activity > 0).sum())
    if rank >= active or len(y) < 2:
        raise CannotCalibrateError(
            f"{rank} samples in {len(y)} rounds of {active} active units leave the scales open"
        )
    most = min(max(UNITS, UNITS_A_SAMPLE * rank), active)
    chosen = jnp.sort(jnp.argsort(-activity)[:most])
    some = _loud(y[:, :, chosen])
    scales, spaces = _first_guess(some), random_spaces(some, rank)
    weights = jnp.ones(len(y), y.dtype), jnp.ones(y.shape[1], y.dtype)
    for number in range(iterations):
        scales, spaces, residuals = improve(some, scales, spaces, *weights)
        if number >= UNWEIGHED:
            weights = weigh(*residuals)
    scales = scales / size_of(scales[-1:])
    scales = _extend(y, scales, some, spaces, chosen, weights[0])
    return Calibration(scales, residuals[0])


def _loud(y):
    """Without the rounds in which a unit was not active."""
    return y * (jnp.abs(y[..., -1:, :]) > QUIET)


def _first_guess(y, like=None):
    """Factors that make an entry's root mean square 1, or the same as that of others in its row."""
    size = jnp.sqrt(jnp.mean(y**2, axis=0))
    guess = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
    if like is None:
        return guess
    guess /= size_of(guess[-1:])
    known, total = (like > 0).sum(1), like.sum(1)
    level = jnp.where(known > 0, total / jnp.maximum(known, 1), 0)
    own = jnp.where((guess > 0).any(1), guess.sum(1) / jnp.maximum((guess > 0).sum(1), 1), 1)
    return guess * (level / own)[:, None]


def random_spaces(y: jax.Array, rank: int) -> jax.Array:
    """Row spaces to start from, [round, unit, rank], for gradients [round, row, unit]."""
    start = jax.random.normal(jax.random.key(0), (len(y), y.shape[2], rank), y.dtype)
    return jnp.linalg.qr(start)[0]


def weigh(rounds: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weigh rounds and rows by how well they fit, within bounds, so that no few of them decide."""
    of_rounds, of_rows = 1 / (rounds**2 + 1e-10), 1 / (rows + 1e-5)
    of_rounds, of_rows = of_rounds / jnp.median(of_rounds), of_rows / jnp.median(of_rows)
    return jnp.clip(of_rounds, 1e-3, 30.0), jnp.clip(of_rows, 1e-3, 10.0)


@jax.jit
def improve(
    y: jax.Array, scales: jax.Array, spaces: jax.Array, of_rounds: jax.Array, of_rows: jax.Array
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    """One iteration.

    Args:
        y: as in `calibrate`, in which quiet entries are 0.
        scales: so far, [row, unit].
        spaces: orthonormal, [round, unit, rank].
        of_rounds: weights [round].
        of_rows: weights [row].

    Returns:
        Scales, spaces, and the residuals of rounds [round] and of rows [row], as shares.
    """
    # Neither a bright pixel nor a unit of large gradients shall weigh more than others.
    gradients = y * scales[None]
    gradients /= size_of(jnp.sqrt(jnp.mean(gradients**2, axis=(0, 2), keepdims=True)))
    columns = 1 / size_of(jnp.sqrt(jnp.sum(gradients**2, axis=1, keepdims=True)))
    gradients *= columns
    weighed = gradients * of_rows[None, :, None]
    for _ in range(2):  # subspace iteration, from where the last one ended
        spaces = weighed.mT @ (weighed @ spaces)
        spaces = jnp.linalg.qr(spaces)[0]
    outside = (gradients - (gradients @ spaces) @ spaces.mT) ** 2
    inside = gradients**2
    residuals = (
        root_share(outside * of_rows[None, :, None] ** 2, weighed**2, (1, 2)),
        root_share(outside * of_rounds[:, None, None], inside * of_rounds[:, None, None], (0, 2)),
    )
    seen = y * columns * jnp.sqrt(of_rounds)[:, None, None]
    return solve_rows(jnp.swapaxes(seen, 0, 1), scales, spaces), spaces, residuals


@jax.jit
def _extend(y, scales, some, spaces, chosen, of_rounds):
    """Factors of all units, from the column spaces that the calibrated ones span in each round.

    A unit's factors are the vector s, 1 for the bias, for which sum_t |(1 - U_t U_t') (s * y_t)|^2
    is smallest: a linear system.
    """
    guess = _first_guess(_loud(y), scales)
    gradients = some * scales[None]
    rows = 1 / row_sizes(gradients)
    bases = jnp.linalg.qr(even_columns(gradients * rows[None]) @ spaces)[0]
    known = jnp.zeros_like(guess).at[:, chosen].set(scales * rows)
    guess *= rows

    def extend_to(unit):
        column = _loud(y[:, :, unit, None])[:, :, 0]  # taken here, so that no copy of all is made
        return _extend_to(bases, of_rounds, column, guess[:, unit], known[:, unit])

    found, misfit = lax.map(extend_to, jnp.arange(y.shape[2]), batch_size=UNITS_AT_A_TIME)
    # Units that were hardly ever active, or whose factors have not been found, would spoil others.
    fits = misfit <= WORST * jnp.median(misfit[chosen])
    found = jnp.where(fits[None], found.T / rows, 0)
    return found / size_of(found[-1:])


def _extend_to(bases, of_rounds, y, guess, known):
    """The factors of a unit [row], as they are known or by conjugate gradients; and its misfit."""
    size = size_of(jnp.sum((y * guess[None]) ** 2, axis=1))
    weight = (of_rounds * jnp.where(y[:, -1] != 0, 1 / size, 0))[:, None]

    def outside(s):
        moved = y * s[None]
        within = jnp.einsum("tpr,tp->tr", bases, moved)
        return moved - jnp.einsum("tpr,tr->tp", bases, within)

    def apply(s):
        return jnp.sum(y * outside(s) * weight, axis=0).at[-1].set(0)

    diagonal = size_of(jnp.sum(y**2 * weight, axis=0))
    residual = -apply(guess)
    ahead = residual / diagonal

    def step(_, state):
        s, residual, ahead, product = state
        applied = apply(ahead)
        length = product / size_of(jnp.sum(ahead * applied))
        s, residual = s + length * ahead, residual - length * applied
        conditioned = residual / diagonal
        new = jnp.sum(residual * conditioned)
        return s, residual, conditioned + new / size_of(product) * ahead, new

    start = guess, residual, ahead, jnp.sum(residual * ahead)
    found, *_ = lax.fori_loop(0, EXTENSIONS, step, start)
    found = jnp.where(guess > 0, jnp.maximum(found, 0), 0)
    found = jnp.where((known > 0).any(), known, found)
    share = root_share(outside(found) ** 2 * weight, (y * found[None]) ** 2 * weight, (0, 1))
    return found, share
