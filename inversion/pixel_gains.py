"""Pixels' gains, which calibration leaves open: ways of finding them, and what they say together.

`brightness` finds gains that make images' values whole multiples of a step of intensity: exact,
but for faint pixels, where values are precise enough. `activations` finds them by what the layer
that follows saw of the images: of all pixels, to a percent or so. Where the two agree by and large,
exact gains stand but for those that are far off and unlike their `neighbours`, and the others are
guesses good enough for `nearby_gains` to make most of them exact.

Before gains are known, many of the images that are found are mixtures of several. Once they are, by
and large, the layer's weights tell: an image must activate the units at which its derivatives are
not zero, and no others. So gains by activations are solved for anew with those images that are
contradicted least. Of ten clients' images, on two seeds, this brings the median error from 4.8 and
2.5 % to about 2 and 1 %.

Where next to all are mixtures, as of two clients with eight images each, activations tell nothing
(the median error is 80 %). `pattern_gains` does then: it finds gains by what neighbouring pixels
mostly have in common, which holds of mixtures too, and by which units images activate.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from activations import TooFewEquationsError, brightest, of_images
from activations import gains as gains_by_activations
from brightness import Gains
from brightness import gains as gains_by_steps
from disaggregation import Disaggregated
from flat_gains import flat_gains, quotients
from nearby_gains import NEAR, common_factor, nearby
from neighbours import capped, usual_around
from pattern_gains import contradicted, pattern_gains
from threat_model import PublicKnowledge

# Share of the pixels that are shown with an exact gain from which on values are precise enough for
# more to be found; and from which on gains are as good as they get.
ENOUGH, MOST = 0.05, 0.5
# Times that gains by activations are solved for; with images that are contradicted so many times as
# often as a share of them is, at most, or at a share of the units at which true ones are, too, by
# gains that are off by a few percent: without that, half of two clients' few images would be lost.
SOLUTIONS, BEST, BEYOND, CLEAR = 3, 0.3, 1.3, 0.08
# Error of gains of the other kind from which on an exact one that differs is to be doubted.
DOUBTFUL = 0.1


class PixelGains(NamedTuple):
    """What is found out about gains.

    Attributes:
        of_pixels: [pixel].
        likely: whether they are more than a guess.
        exact: whether most are exact.
        contradicted: share of the units at which the better ones of images contradict them.
    """

    of_pixels: jax.Array
    likely: bool
    exact: bool
    contradicted: float = 0.0


class Evidence(NamedTuple):
    """Images found in some rounds, and what tells the gains of their pixels.

    Attributes:
        found: [round, image, ...], each pixel up to a gain.
        certain: bool [round, image], the images to rely on.
        weights: of the first layer in the same rounds, the bias as the last row,
            [round, pixels + 1, units].
        of_steps: gains by the steps of intensity.
    """

    found: Disaggregated
    certain: np.ndarray
    weights: jax.Array
    of_steps: Gains


def evidence(
    found: Disaggregated, certain: np.ndarray, weights: jax.Array, public: PublicKnowledge
) -> Evidence:
    """Look for steps of intensity in images.

    Args:
        found: as in `Evidence`.
        certain: likewise.
        weights: likewise.
        public: of which the shape of images and their steps of intensity matter here.
    """
    pictures = found.images.reshape(-1, *public.image_shape)
    of_steps = gains_by_steps(pictures, jnp.asarray(certain.ravel()), public.levels)
    return Evidence(found, certain, weights, of_steps)


def refine(seen: Evidence, solved: jax.Array | None, public: PublicKnowledge) -> PixelGains:
    """Find the gains of pixels.

    Args:
        seen: the images, and what steps say of them.
        solved: what `by_activations` or `by_patterns` makes of them.
        public: as in `evidence`.
    """
    images = seen.found.images[seen.certain]
    known = both(solved, seen.of_steps, images, public.levels)
    wrong = np.asarray(contradicted(seen.found, known.of_pixels, seen.weights))[seen.certain]
    return known._replace(contradicted=float(np.quantile(wrong, BEST)) if len(wrong) else 1.0)


def by_patterns(
    seen: Evidence, public: PublicKnowledge, gains: jax.Array | None = None
) -> jax.Array | None:
    """Find gains by what neighbours have in common and which units images activate.

    Args:
        seen: the images.
        public: as in `evidence`.
        gains: as they are known so far, [pixel]; None if they are not.

    Returns:
        Gains [pixel]; None without an image to rely on.
    """
    if not seen.certain.any():
        return None
    images = np.asarray(seen.found.images)[seen.certain]
    pairs = quotients(images, public.image_shape)
    guess = flat_gains(images, public.image_shape, pairs) if gains is None else np.asarray(gains)
    solved = jnp.asarray(pattern_gains(seen.found, seen.certain, seen.weights, guess, pairs))
    return solved * common_factor(jnp.asarray(images), solved, public.levels)


def by_activations(
    second: jax.Array | None,
    seen: Evidence,
    public: PublicKnowledge,
    gains: jax.Array | None = None,
) -> jax.Array | None:
    """Find gains by what the second layer saw of the images.

    Args:
        second: the gradients of that layer, if it is dense, in the same rounds, each row up to a
            factor, [round, units + 1, outputs].
        seen: the images.
        public: as in `evidence`.
        gains: as in `by_patterns`.

    Returns:
        Gains [pixel]; None where too few images show their activations.
    """
    if second is None:
        return None
    try:
        return jnp.asarray(_by_activations(second, seen, public.image_shape, gains))
    except TooFewEquationsError:
        return None


def _by_activations(second, seen, image_shape, gains):
    shown = [of_images(*each) for each in zip(second, seen.found.silent, strict=True)]
    activations, reliable = (np.stack(each) for each in zip(*shown, strict=True))
    number, image = np.nonzero(reliable & seen.certain)
    images, activations = np.asarray(seen.found.images)[number, image], activations[number, image]
    if not len(images):
        raise TooFewEquationsError("no image shows its activations")
    weights = np.asarray(seen.weights)
    if seen.found.images.shape[1] == 1:  # which is no mixture of several
        return gains_by_activations(images, activations, number, weights, brightest(images))
    for _ in range(SOLUTIONS):
        judged = brightest(images) if gains is None else gains
        wrong = np.asarray(contradicted(seen.found, judged, seen.weights))[number, image]
        good = wrong <= max(CLEAR, BEYOND * np.quantile(wrong, BEST))
        guess = capped(brightest(images[good]) if gains is None else gains, image_shape)
        gains = gains_by_activations(
            images[good], activations[good], number[good], weights, np.asarray(guess)
        )
    return gains


def both(gains: jax.Array | None, of_steps: Gains, images: jax.Array, levels: int) -> PixelGains:
    """Make of both ways' gains one for each pixel.

    Args:
        gains: [pixel] by activations or patterns; None where there are none.
        of_steps: by steps.
        images: to rely on, [image, pixel].
        levels: steps of intensity between black and white.
    """
    exact, by_steps = of_steps.exact.ravel(), of_steps.of_pixels.ravel()
    if gains is None:
        return PixelGains(by_steps, of_steps.mostly_exact, of_steps.mostly_exact)
    differences = jnp.abs(gains / jnp.where(exact, by_steps, 1) - 1)
    usual = jnp.nanmedian(jnp.where(exact, differences, jnp.nan))
    shown = (by_steps > 0).sum()
    if usual > NEAR or exact.sum() < ENOUGH * shown:
        return PixelGains(by_steps if of_steps.mostly_exact else gains, True, False)
    near = nearby(images, gains, levels)
    likely = jnp.where(jnp.isnan(near), gains, near)
    # Of two that differ the one is right that is more like its neighbours.
    around = jnp.log(usual_around(likely, of_steps.of_pixels.shape))
    nearer = jnp.abs(jnp.log(by_steps) - around) < jnp.abs(jnp.log(likely) - around)
    believed = exact & ((differences < DOUBTFUL) | nearer)
    known = (believed | ~jnp.isnan(near)).sum()
    return PixelGains(jnp.where(believed, by_steps, likely), True, bool(known > MOST * shown))
