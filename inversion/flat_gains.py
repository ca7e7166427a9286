"""Gains of pixels from their neighbours': where an image is flat, both show the same value.

So among the quotients of two neighbours' values, in many columns of gradients, one is by far the
most frequent: that of the two pixels' gains. That holds of a single image and of a mixture of
several, so that none need be told apart first, as for `brightness` and `activations`.
"""

from typing import NamedTuple

import numpy as np

# Share of a pixel's values that are below its yardstick, and share of that from which on values are
# compared.
USUAL, LIT = 0.8, 0.1
# Half the width of what counts as one quotient, as a logarithm; and how many values must share it.
WIDTH, SHARED = 0.01, 3
# Times that gains are solved for, with weights that leave out what contradicts the rest.
SOLUTIONS = 30
# What the brightest hundredth of pixels reaches is taken for white in the image that is brighter
# than this share of all.
WHITE, BRIGHTEST = 0.99, 0.6


class Quotients(NamedTuple):
    """What pairs of neighbours' values have in common.

    Attributes:
        first: int [pair], a pixel.
        second: int [pair], one that touches it.
        difference: [pair], of the logarithms of their gains, second less first, as most say.
        count: [pair], how many values say so.
    """

    first: np.ndarray
    second: np.ndarray
    difference: np.ndarray
    count: np.ndarray


def quotients(values: np.ndarray, image_shape: tuple[int, ...]) -> Quotients:
    """Find the most frequent quotient of each two neighbours, of pairs that have one.

    Args:
        values: [column, pixel], each pixel up to a positive gain of its own.
        image_shape: (height, width, channels); pixels of one channel are compared.
    """
    firsts, seconds = _neighbours(image_shape)
    positive, shown = np.where(values > 0, values, np.nan), (values > 0).any(0)
    yardsticks = np.full(values.shape[1], np.inf)
    yardsticks[shown] = np.nanquantile(positive[:, shown], USUAL, axis=0)
    logs = np.log(np.where(values > LIT * yardsticks, values, np.nan))
    pairs = zip(firsts, seconds, strict=True)
    found = [_most_frequent(logs[:, first] - logs[:, second]) for first, second in pairs]
    differences, counts = np.array(found).reshape(-1, 2).T
    sure = counts >= SHARED
    return Quotients(firsts[sure], seconds[sure], differences[sure], counts[sure])


def flat_gains(
    values: np.ndarray, image_shape: tuple[int, ...], known: Quotients | None = None
) -> np.ndarray:
    """Find the gains of pixels.

    Args:
        values: as in `quotients`.
        image_shape: likewise.
        known: what that finds, where it has been called already.

    Returns:
        [pixel], what to multiply each by; 0 where too few columns show it.
    """
    known = known or quotients(values, image_shape)
    seen = np.zeros(values.shape[1], bool)
    seen[known.first] = seen[known.second] = True
    relative = np.where(seen, np.exp(_integrated(known, values.shape[1])), 0)
    for channel in range(image_shape[-1]):
        own = slice(channel, None, image_shape[-1])
        if seen[own].any():
            whites = np.quantile(values[:, own] * relative[own], WHITE, axis=1)
            relative[own] /= np.quantile(whites, BRIGHTEST)
    return relative


def _neighbours(image_shape):
    """Pairs of pixels of a channel that touch one another."""
    pixels = np.arange(np.prod(image_shape)).reshape(image_shape)
    pairs = [
        (pixels[:, :-1], pixels[:, 1:]),
        (pixels[:-1], pixels[1:]),
        (pixels[:-1, :-1], pixels[1:, 1:]),
        (pixels[:-1, 1:], pixels[1:, :-1]),
    ]
    return (np.concatenate([side.ravel() for side in sides]) for sides in zip(*pairs, strict=True))


def _most_frequent(numbers):
    """The middle of the numbers, some NaN, that lie most densely, and how many these are."""
    ordered = np.sort(numbers[~np.isnan(numbers)])
    if not len(ordered):
        return 0.0, 0
    start = np.searchsorted(ordered, ordered - WIDTH)
    end = np.searchsorted(ordered, ordered + WIDTH)
    most = np.argmax(end - start)
    return np.median(ordered[start[most] : end[most]]), (end - start)[most]


def _integrated(known, count):
    """Logarithms of gains [pixel] whose differences between neighbours these mostly are."""
    solution, residuals = np.zeros(count), np.full(len(known.count), WIDTH)
    for _ in range(SOLUTIONS):  # least absolute deviations, by weights anew
        strength = known.count / np.maximum(residuals, WIDTH)
        matrix, target = normal_equations(known, strength, known.difference, count)
        matrix += 1e-6 * np.eye(count)  # what nothing is known of stays at 0
        solution = np.linalg.solve(matrix, target)
        residuals = np.abs(solution[known.second] - solution[known.first] - known.difference)
    return solution


def normal_equations(
    known: Quotients, strength: np.ndarray, differences: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares for pixels' numbers, given their differences.

    Args:
        known: whose pairs these are.
        strength: weights [pair].
        differences: [pair], second less first.
        count: of pixels.

    Returns:
        The matrix [pixel, pixel] and the right side [pixel] of their normal equations.
    """
    (first, second, *_), matrix, target = known, np.zeros((count, count)), np.zeros(count)
    for one, other, sign in ((first, second, -1), (second, first, 1)):
        np.add.at(matrix, (one, one), strength)
        np.add.at(matrix, (one, other), -strength)
        np.add.at(target, one, sign * strength * differences)
    return matrix, target
