"""Pixels' gains, which calibration leaves open: the ways of finding them.

`brightness` finds gains that make images' values whole multiples of a step of intensity: exact,
where values are precise enough. `activations` finds them by what the layer that follows saw of the
images, where errors of a percent do not matter. Which of them is right shows without the truth: by
how many pixels have a gain of the first kind, and by how many images the layer's weights agree
with, once they have their gains.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from activations import gains as gains_by_activations
from activations import of_images
from brightness import gains as gains_by_steps
from disaggregation import Disaggregated

# Share of the pixels that are shown whose gains must make values whole multiples of a step.
EXACT = 0.5


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
) -> tuple[jax.Array, bool]:
    """Find the gains that make values whole multiples of a step.

    Args:
        found: in some rounds, [round, image, ...], each pixel up to a gain.
        certain: bool [round, image], the images to rely on.
        image_shape: (height, width, channels).
        levels: steps of intensity between black and white.

    Returns:
        Gains [pixel], 0 for pixels that no image shows; and whether most of them are exact. Others
        are guesses, by which white is about 1.
    """
    pictures = found.images.reshape(-1, *image_shape)
    found_gains = gains_by_steps(pictures, jnp.asarray(certain.ravel()), levels)
    gains, exact = (each.ravel() for each in found_gains)
    return gains, bool(exact.sum() > EXACT * (gains > 0).sum())


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
