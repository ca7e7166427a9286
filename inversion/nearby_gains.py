"""Gains of pixels that are known to some percent, made exact by the steps of intensity.

A pixel's values times its gain are whole multiples of a step. `brightness` looks for such a gain
among all that there are, which takes many values or precise ones. Near one that is known already
few do: a value of ten steps is ten steps if its gain is off by four percent, too.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from brightness import ERRORS, PIXELS, cosine_of_turns
from jax import lax

# How far from a known gain to look, as a share of it, and at how many places: so close that white
# moves by less than a tenth of a step from one to the next.
NEAR, PLACES = 0.06, 361
# How far a place must stand out, in deviations of what chance would give; and by how many values.
SIGNIFICANT, VALUES = 3.5, 3
# Of a step, from a whole multiple, where values agree with it.
AGREE = 0.2
# Factors of all gains that are tried, and pixels that tell the right one; of these, the share that
# must have exact gains near: chance finds them for a twentieth.
FACTORS, SAMPLE, ENOUGH = np.exp(0.05 * np.arange(-6, 7)), 150, 0.3


def common_factor(values: jax.Array, gains: jax.Array, levels: int = 255) -> jax.Array:
    """Find what all gains must be multiplied by so that most of them are near exact ones.

    Args:
        values: as in `nearby`.
        gains: [pixel], each within some percent but for a factor of all.
        levels: as in `nearby`.

    Returns:
        The factor; 1 where the steps say nothing.
    """
    lit = np.flatnonzero(gains > 0)
    some = lit[:: max(1, len(lit) // SAMPLE)]
    found = [
        nearby(values[:, some], factor * gains[some], levels) / gains[some] for factor in FACTORS
    ]
    most = max(found, key=lambda near: (~jnp.isnan(near)).sum())
    enough = (~jnp.isnan(most)).sum() >= ENOUGH * max(1, len(some))
    return jnp.where(enough, jnp.nanmedian(most), 1.0)


@partial(jax.jit, static_argnames="levels")
def nearby(values: jax.Array, gains: jax.Array, levels: int = 255) -> jax.Array:
    """Find exact gains near some that are known to within `NEAR`.

    Args:
        values: of images to rely on, [image, pixel], each pixel up to its gain.
        gains: [pixel]; 0 for pixels that no image shows.
        levels: steps of intensity between black and white.

    Returns:
        Gains [pixel]; NaN where the steps say nothing.
    """
    steps = levels * jnp.maximum(values * gains[None], 0).T
    factors = lax.map(partial(_factor, levels), steps, batch_size=PIXELS)
    return jnp.where(gains > 0, factors * gains, jnp.nan)


def _factor(levels, steps):
    """What makes values [image], nearly in steps, whole numbers of them; NaN if nothing does."""
    factors = jnp.linspace(1 - NEAR, 1 + NEAR, PLACES)
    seen = (steps > 0.5) & (steps < (1 + NEAR) * levels)
    fits = cosine_of_turns(factors[:, None] * steps[None])
    # Values that are known less precisely say the less the more steps they have.
    off = 2 * jnp.pi * jnp.array(ERRORS)[:, None] * steps[None]
    weights = seen[None] * jnp.exp(-0.5 * off**2)
    scores = weights @ fits.T / jnp.sqrt(0.5 * (weights**2).sum(1, keepdims=True) + 1e-9)
    error, place = jnp.unravel_index(jnp.argmax(scores), scores.shape)
    # Finer than the places: the steps nearest to the values tell, those that agree.
    whole = jnp.round(factors[place] * steps)
    agree = weights[error] * (jnp.abs(factors[place] * steps - whole) < AGREE) * (whole > 0)
    factor = jnp.sum(agree * whole * steps) / jnp.sum(agree * steps**2)
    found = (scores.max() > SIGNIFICANT) & (seen.sum() >= VALUES)
    return jnp.where(found, factor, jnp.nan)
