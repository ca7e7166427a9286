"""Pixels' gains, which calibration leaves open: two ways of finding them, and what both say.

`brightness` finds gains that make images' values whole multiples of a step of intensity: exact,
but for faint pixels, where values are precise enough. `activations` finds them by what the layer
that follows saw of the images: of all pixels, to a percent or so, but few images, or images of few
classes, leave some of them open, and it does not notice. Where the two agree by and large, exact
gains stand, and the others are guesses good enough for `nearby_gains` to make most of them exact.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from activations import gains as gains_by_activations
from activations import of_images
from brightness import Gains
from brightness import gains as gains_by_steps
from disaggregation import Disaggregated
from nearby_gains import NEAR, nearby

# Share of the pixels that are shown with an exact gain from which on values are precise enough for
# more to be found.
ENOUGH = 0.1


class Layers(NamedTuple):
    """What the server knows of the first two layers in some rounds.

    Attributes:
        weights: of the first, the bias as the last row, [round, pixels + 1, units].
        second: the gradient of the second, each row up to a factor, likewise,
            [round, units + 1, outputs].
    """

    weights: jax.Array
    second: jax.Array


def by_steps(
    found: Disaggregated, certain: np.ndarray, image_shape: tuple[int, ...], levels: int
) -> Gains:
    """Find the gains that make values whole multiples of a step.

    Args:
        found: in some rounds, [round, image, ...], each pixel up to a gain.
        certain: bool [round, image], the images to rely on.
        image_shape: (height, width, channels).
        levels: steps of intensity between black and white.
    """
    pictures = found.images.reshape(-1, *image_shape)
    return gains_by_steps(pictures, jnp.asarray(certain.ravel()), levels)


def by_activations(found: Disaggregated, certain: np.ndarray, layers: Layers) -> jax.Array:
    """Find gains [pixel] by what the second layer saw of the images.

    Args:
        found: as in `by_steps`.
        certain: likewise.
        layers: in the same rounds.

    Raises:
        activations.TooFewEquationsError: where too few images show their activations.
    """
    shown = [of_images(*each) for each in zip(layers.second, found.silent, strict=True)]
    activations, reliable = (np.stack(each) for each in zip(*shown, strict=True))
    number, image = np.nonzero(reliable & certain)
    gains = gains_by_activations(
        np.asarray(found.images)[number, image],
        activations[number, image],
        number,
        np.asarray(layers.weights),
    )
    return jnp.asarray(gains)


def both(
    gains: jax.Array | None, of_steps: Gains, found: Disaggregated, certain: np.ndarray, levels: int
) -> tuple[jax.Array, bool]:
    """Make of both ways' gains one for each pixel.

    Args:
        gains: [pixel] by activations; None where there are none.
        of_steps: by steps.
        found: the images of both, as in `by_steps`.
        certain: likewise.
        levels: likewise.

    Returns:
        Gains [pixel], and whether they are more than likely.
    """
    exact, by_steps_alone = of_steps.exact.ravel(), of_steps.of_pixels.ravel()
    if gains is None:
        return by_steps_alone, of_steps.mostly_exact
    differences = jnp.abs(gains / jnp.where(exact, by_steps_alone, 1) - 1)
    usual = jnp.nanmedian(jnp.where(exact, differences, jnp.nan))
    if usual > NEAR or exact.sum() < ENOUGH * (by_steps_alone > 0).sum():
        return (by_steps_alone if of_steps.mostly_exact else gains), True
    near = nearby(found.images[certain], gains, levels)
    gains = jnp.where(jnp.isnan(near), gains, near)
    return jnp.where(exact, by_steps_alone, gains), True
