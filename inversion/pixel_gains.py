"""Pixels' gains, which calibration leaves open: the two ways of finding them, and which to believe.

`brightness` finds gains that make images' values whole multiples of a step of intensity: exact,
but for faint pixels, where values are precise enough. `activations` finds them by what the layer
that follows saw of the images: of all pixels, where errors of a percent do not matter either. But
few images, or images of few classes, leave some of them open, and it does not notice. Exact gains,
where they are there, do.
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

# Median relative difference from exact gains with which others are wrong.
WRONG = 0.02


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


def far_off(gains: jax.Array, exact: Gains) -> bool:
    """Say whether gains [pixel] are wrong, by those that are exact, if these are most of them."""
    differences = jnp.abs(gains / jnp.where(exact.exact, exact.of_pixels, 1).ravel() - 1)
    usual = jnp.nanmedian(jnp.where(exact.exact.ravel(), differences, jnp.nan))
    return exact.mostly_exact and bool(usual > WRONG)
