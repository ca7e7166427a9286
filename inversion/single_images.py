"""Images that stand alone, or nearly so, in a column of gradients that many images make.

A hidden unit's gradients mix the images that activate it, weighed by their derivatives there. Of a
trained model most derivatives are small, and some units are activated by one image alone: there the
quotient of the weights' gradients and the bias's is that image, up to the gains of its pixels,
however many others there are (Boenisch et al. 2023, arXiv:2112.02918, of exact gradients).

Such columns are told by what a mixture seldom is: nowhere negative, nowhere brighter than white,
and dark in many places. All that may be such columns tell the gains together (`flat_gains`).
"""

import numpy as np
from flat_gains import flat_gains

# Share of a column's energy that may be negative; and share of the columns, those with the fewest
# lit pixels, that are looked at.
NEGATIVE, FEWEST = 0.01, 0.2
# Share of a pixel's values that are below its yardstick; and share of a column's bright values,
# those below which `BRIGHT` of its pixels are, from which on a pixel counts as lit.
USUAL, BRIGHT, LIT = 0.9, 0.98, 0.01
# Intensity from which on a pixel counts as lit once gains are known; and mean squared difference
# from which on two images are not one.
SHOWN, OTHER = 0.02, 0.01


def single_images(
    gradients: np.ndarray,
    rounds: int,
    count: int,
    image_shape: tuple[int, ...],
    gains: np.ndarray | None = None,
) -> np.ndarray:
    """Find images in the columns of a dense first layer's gradients.

    Args:
        gradients: [round, row, unit], the bias as the last row; the others each up to a positive
            gain.
        rounds: how many of the last ones to look for images in; all of them tell the gains.
        count: of images that are looked for in each.
        image_shape: (height, width, channels).
        gains: of pixels, where they are known.

    Returns:
        [round, image, pixel] in [0, 1], the likeliest first; black, where there are no more.
    """
    found = np.zeros((rounds, count, gradients.shape[1] - 1))
    number, unit = np.nonzero(gradients[:, -1])
    columns = gradients[number, :, unit]
    if not len(columns):
        return found
    quotients = columns[:, :-1] / columns[:, -1:]
    few = _plausible(quotients)
    number, quotients = number[few], quotients[few]
    if gains is None:
        gains = flat_gains(quotients, image_shape)
    values = quotients * gains
    images = np.clip(values, 0, 1)
    doubt = _ranks(np.square(values - images).sum(1)) + _ranks((images > SHOWN).sum(1))
    for own, wanted in zip(found, range(len(gradients) - rounds, len(gradients)), strict=True):
        there = np.flatnonzero(number == wanted)
        likeliest = images[there[np.argsort(doubt[there])]]
        for place, image in enumerate(_different(likeliest, count)):
            own[place] = image
    return found


def _plausible(quotients):
    """Which columns may hold few images, gains still unknown: bool [column]."""
    usual = np.quantile(np.abs(quotients), USUAL, axis=0)
    relative = quotients / np.where(usual > 0, usual, np.inf)
    energy = np.square(relative).sum(1)
    negative = np.square(np.minimum(relative, 0)).sum(1)
    bright = np.quantile(np.abs(relative), BRIGHT, axis=1, keepdims=True)
    lit = (np.abs(relative) > LIT * bright).sum(1)
    return (energy > 0) & (negative < NEGATIVE * energy) & (lit <= np.quantile(lit, FEWEST))


def _ranks(numbers):
    return np.argsort(np.argsort(numbers))


def _different(images, count):
    """The first images, so many of them, that are not alike."""
    chosen = []
    for image in images:
        if len(chosen) == count:
            break
        if image.any() and all(np.square(image - other).mean() > OTHER for other in chosen):
            chosen.append(image)
    return chosen
