"""Drift: factors of gradients that change over a window of rounds.

Undone with a guess at the mean of squared gradients, as the ratios of an aggregate must be, each
entry's factor is off by a little more each round (`ratio`): by up to a few percent within a
hundred. What `calibration` finds for the window is right in its middle only. A few rounds do to
find factors by, where a good guess at them is there.
"""

import jax
import jax.numpy as jnp
import numpy as np
from calibration import QUIET, UNITS, WORST, improve, random_spaces, weigh
from row_factors import evened, root_share, size_of

# Rounds whose factors are taken for the same, and iterations to find them.
BLOCK, ITERATIONS = 16, 6
# Change of a factor within a window, as the logarithm of its ratio, that drift may explain.
DRIFT = 0.3


def follow_drift(y: jax.Array, rank: int, scales: jax.Array) -> jax.Array:
    """Find the factors of gradients anew every few rounds, where they drift.

    Args:
        y: as in `calibration.calibrate`.
        rank: as there.
        scales: of the whole window, [row, unit].

    Returns:
        Factors in each round, [round, row, unit]; 0 where they do not fit.
    """
    count = max(1, len(y) // BLOCK)
    blocks = np.array_split(np.arange(len(y)), count)
    return jnp.concatenate(
        [
            jnp.broadcast_to(_of_block(y[block], rank, scales), (len(block), *scales.shape))
            for block in blocks
        ]
    )


def _of_block(y, rank, scales):
    loud = y * (jnp.abs(y[:, -1:]) > QUIET)
    activity = jnp.mean(loud[:, -1] != 0, axis=0)
    chosen = jnp.flatnonzero((activity > 0) & (scales[-1] > 0))
    if len(chosen) <= rank:
        return scales
    some, known = loud[:, :, chosen], scales[:, chosen]
    found, spaces = known, random_spaces(some, rank)
    weights = jnp.ones(len(y), y.dtype), jnp.ones(y.shape[1], y.dtype)
    for number in range(ITERATIONS):
        solved, spaces, residuals = improve(some, found, spaces, *weights)
        if number > 0:  # before, the spaces were random
            found = solved
        if number > 1:
            weights = weigh(*residuals)
    found, misfit = _near(found, known), _misfit(some, found, spaces)
    usual = jnp.median(misfit[jnp.argsort(-activity[chosen])[:UNITS]])
    return jnp.zeros_like(scales).at[:, chosen].set(jnp.where(misfit <= WORST * usual, found, 0))


def _near(found, known):
    """Leave gauges as they are, and what changed by more than drift explains."""
    ratio = jnp.where((found > 0) & (known > 0), found / size_of(known), jnp.nan)
    for axis in (1, 0, 1, 0):
        ratio /= jnp.nan_to_num(jnp.nanmedian(ratio, axis=axis, keepdims=True), nan=1.0)
    return known * jnp.where(jnp.abs(jnp.log(ratio)) < DRIFT, ratio, 1)


@jax.jit
def _misfit(y, scales, spaces):
    """The share of each unit's gradient, in norm, that has no place within the row spaces."""
    gradients = evened(y * scales[None])
    spaces = jnp.linalg.qr(gradients.mT @ (gradients @ spaces))[0]
    return root_share((gradients - (gradients @ spaces) @ spaces.mT) ** 2, gradients**2, (0, 1))
