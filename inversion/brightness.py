"""Brightness: the gain of each pixel, which calibration leaves open.

Images have been stored with so many levels of intensity, which is public: 255 steps for 8 bits.
Where a pixel's values in many images are precise enough, the gain that makes nearly all of them
whole multiples of a step is found, and is exact. A pixel that hardly ever shows anything gets the
gain that makes it most like its neighbours, and where nothing is known around it, the one that
makes nearly its brightest value 1.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from neighbours import around

# Relative errors of values that are reckoned with, one after the other.
ERRORS = (3e-5, 3e-4, 3e-3)
# Share of a pixel's values, where it shows something, above the one that is taken for a yardstick,
# and above the one that is taken for 1 where nothing better is known: some images are no images.
YARDSTICK, WHITE = 0.2, 0.02
# Candidates for the intensity of the yardstick, in steps: this far apart.
APART = 0.05
# How far a candidate must stand out, in deviations of what chance would give; the largest of some
# ten thousand chance ones is at 4.
SIGNIFICANT = 6.0
# Of a step, from a whole multiple, where all of a pixel's few values must be.
CLOSE = 0.03
# A smaller candidate that fits nearly as well as the best one is right: twice the gain fits too.
NEARLY = 0.9
# Pixels that are this far from others that are known are made like their neighbours.
SPREADS = 4
# Share of a pixel's bright values below which it shows rounding.
DARK = 2e-3
# Times as bright as most that an image may be, and the share of its energy that may be negative.
BRIGHTEST, NEGATIVE = 5.0, 0.01
# Times the usual gain from which on a pixel is taken to be black, if such a share of its values is
# negative.
FAINTEST, EITHER = 100.0, 0.1
# Share of the pixels that are shown with which most of them count as exact.
EXACT = 0.5
# Pixels that are looked at at a time, and candidates for each: of 768 values, as many as caches
# hold. With eight pixels and all candidates at once it takes two and a half times as long.
PIXELS, CANDIDATES = 2, 64


class Gains(NamedTuple):
    """Gains of pixels.

    Attributes:
        of_pixels: what to multiply each pixel by, [height, width, channel]; 0 where no image shows
            anything.
        exact: bool, likewise, whether the gain is one that makes values whole multiples of a step.
    """

    of_pixels: jax.Array
    exact: jax.Array

    @property
    def mostly_exact(self) -> bool:
        """Whether most of the pixels that are shown have an exact gain."""
        return bool(self.exact.sum() > EXACT * (self.of_pixels > 0).sum())


@partial(jax.jit, static_argnames="levels")
def gains(values: jax.Array, certain: jax.Array, levels: int = 255) -> Gains:
    """Find the gains of pixels.

    Args:
        values: [image, height, width, channel], each pixel up to a positive gain of its own.
        certain: bool [image], which images to rely on.
        levels: steps of intensity between black and white.
    """
    of_either_sign = _of_either_sign(values, certain)
    certain &= _plausible(values, certain)
    values = jnp.where(certain[:, None, None, None], jnp.maximum(values, 0), 0)
    pixels = values.reshape(len(values), -1).T
    exact, bright = lax.map(partial(_gain, levels), pixels, batch_size=PIXELS)
    exact, bright = (gain.reshape(values.shape[1:]) for gain in (exact, bright))
    whole = known = ~jnp.isnan(exact)
    gain = jnp.where(known, exact, 0)
    for _ in range(SPREADS):
        near, count = around(gain[None] * values).sum(0), around(known.astype(values.dtype)).sum(0)
        like = near / jnp.where(count > 0, count, 1)[None]
        # Of images that show the pixel, all but those that are far from the others.
        fit = jnp.sum(_robust(values, like) * values * like, axis=0)
        size = jnp.sum(_robust(values, like) * values**2, axis=0)
        new = ~known & (count > 0) & (fit > 0)
        gain = jnp.where(new, fit / jnp.where(size > 0, size, 1), gain)
        known |= new
    gain = jnp.where(known, gain, bright)
    # A pixel that shows next to nothing, compared with others, and that of either sign, shows
    # rounding.
    usual = jnp.nanmedian(jnp.where(gain > 0, gain, jnp.nan))
    gain = jnp.where((gain < FAINTEST * usual) | ~of_either_sign, gain, 0)
    return Gains(gain, whole & (gain > 0))


def _of_either_sign(values, certain):
    """Which pixels have negative values among those that are not small."""
    values = jnp.where(certain[:, None, None, None], values, 0)
    shown = jnp.abs(values) > 0.1 * jnp.quantile(jnp.abs(values), 1 - WHITE, axis=0)[None]
    return jnp.sum(shown & (values < 0), axis=0) > EITHER * jnp.sum(shown, axis=0)


def _plausible(values, certain):
    """Which images, still without gains, are neither far brighter than others nor negative."""
    flat = jnp.where(certain[:, None], values.reshape(len(values), -1), jnp.nan)
    often, usual = jnp.nanquantile(jnp.abs(flat), jnp.array([0.5, 0.8]), axis=0)
    # Judged by the pixels that most images show.
    common = often > DARK * usual
    relative = jnp.where(
        common[None], jnp.nan_to_num(flat / jnp.where(usual > 0, usual, 1)[None]), 0
    )
    bright = jnp.nanquantile(jnp.where(common[None], jnp.abs(relative), jnp.nan), 0.9, axis=1)
    negative = jnp.sum(jnp.minimum(relative, 0) ** 2, axis=1)
    return (bright < BRIGHTEST) & (negative <= NEGATIVE * jnp.sum(relative**2, axis=1))


def _robust(values, like):
    """Leave out what can only be no image: values beyond white where the neighbours are dark."""
    shown = values > DARK * values.max(axis=0, keepdims=True)
    middle = jnp.nanmedian(jnp.where(shown, values, jnp.nan), axis=0)
    return (values <= 20 * middle[None]) & (like <= 1.5)


def _gain(levels, values):
    """The gain of a pixel by its values [image], NaN if open; and that by the brightest."""
    ordered = jnp.sort(values)[::-1]
    showing = jnp.sum(ordered > DARK * ordered[min(1, len(ordered) - 1)])
    yardstick, white = (ordered[(share * showing).astype(int)] for share in (YARDSTICK, WHITE))
    relative = ordered / jnp.where(yardstick > 0, yardstick, 1)
    found = _intensity(levels, relative)
    found = jnp.where(jnp.isnan(found), _intensity_of_few(levels, relative), found)
    shows = showing > 0
    gain = jnp.where(shows, found / jnp.where(shows, yardstick, 1), jnp.nan)
    return gain, jnp.where(shows, 1 / jnp.where(shows, white, 1), 0)


def _intensity_of_few(levels, values):
    """As `_intensity`, where there are few values, but all of them precise.

    All must be whole multiples, to within a `CLOSE`th of a step. NaN where chance may explain it.
    """
    steps = jnp.arange(1, levels + 1)[:, None] * values[None]
    seen = (jnp.diff(values, prepend=jnp.inf) < -1e-9) & (values > 0.3 / levels)
    whole = jnp.round(steps)
    fits = (jnp.abs(steps - whole) < CLOSE) & (whole >= 1) & (whole <= levels)
    good = jnp.all(fits | ~seen[None], axis=1)
    chance = levels * (2.0 * CLOSE) ** (seen.sum() - 1)  # the yardstick itself always fits
    intensity = (1.0 + jnp.argmax(good)) / levels
    return jnp.where(good.any() & (chance < 0.01), intensity, jnp.nan)


def _intensity(levels, values):
    """Intensity of the yardstick, by values [image] relative to it in descending order."""
    candidates = jnp.arange(1, levels + 0.5, APART, jnp.float32)
    values = values.astype(jnp.float32)
    # Two values of a pixel alike count once: copies of an image prove nothing.
    own = jnp.diff(values, prepend=jnp.inf) < -1e-9
    scores = lax.map(partial(_scores, levels, values, own), candidates, batch_size=CANDIDATES).T
    scores = scores[jnp.argmax(scores.max(1))]
    first = jnp.argmax(scores >= NEARLY * scores.max())
    # The candidates are a grid: the best of those around the first.
    near = jnp.abs(candidates - candidates[first]) < 0.5
    best = candidates[jnp.argmax(jnp.where(near, scores, -jnp.inf))]
    # Finer than the grid: the steps nearest to the values tell, those that agree.
    whole = jnp.round(best * values)
    agree = own & (jnp.abs(best * values - whole) < 0.2) & (whole > 0) & (whole <= levels)
    refined = jnp.sum(agree * whole * values) / jnp.sum(agree * values**2)
    return jnp.where(scores.max() > SIGNIFICANT, refined / levels, jnp.nan)


def _scores(levels, values, own, candidate):
    """How far a candidate stands out, for each of the `ERRORS`."""
    steps = candidate * values
    # Something that is seen is one step at least, and white at most.
    possible = (steps > 0.5) & (steps < levels + 0.5)
    fit = jnp.where(possible, cosine_of_turns(steps), -1)
    scores = []
    for error in ERRORS:
        seen = own & (values > jnp.maximum(0.5 / levels, 3 * error))
        weight = jnp.where(seen, jnp.exp(-0.5 * (2 * jnp.pi * error * steps) ** 2), 0)
        scores.append((weight * fit).sum() / jnp.sqrt(0.5 * (weight**2).sum() + 1e-9))
    return jnp.stack(scores)


def cosine_of_turns(turns: jax.Array) -> jax.Array:
    """cos(2 pi turns), by Taylor's series of the sine: twenty times as fast as that of XLA."""
    half = jnp.pi * (turns - jnp.round(turns))
    square, sine = half**2, 1.0
    for order in (11, 9, 7, 5, 3):
        sine = 1 - square / (order * (order - 1)) * sine
    return 1 - 2 * (half * sine) ** 2
