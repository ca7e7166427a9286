"""Gains of pixels from their neighbours': where an image is flat, both show the same value.

So among the quotients of two neighbours' values, in many columns of gradients, one is by far the
most frequent: that of the two pixels' gains. That holds of a single image and of a mixture of
several, so that none need be told apart first, as for `brightness` and `activations`.
"""

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


def flat_gains(values: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    """Find the gains of pixels.

    Args:
        values: [column, pixel], each pixel up to a positive gain of its own.
        image_shape: (height, width, channels); channels are looked at one by one.

    Returns:
        [pixel], what to multiply each by; 0 where too few columns show it.
    """
    channels = image_shape[-1]
    own = values.reshape(-1, values.shape[1] // channels, channels)
    each = [_of_channel(own[..., channel], image_shape[:2]) for channel in range(channels)]
    return np.stack(each, axis=1).ravel()


def _of_channel(values, size):
    firsts, seconds = _neighbours(size)
    positive, shown = np.where(values > 0, values, np.nan), (values > 0).any(0)
    yardsticks = np.full(values.shape[1], np.inf)
    yardsticks[shown] = np.nanquantile(positive[:, shown], USUAL, axis=0)
    logs = np.log(np.where(values > LIT * yardsticks, values, np.nan))
    pairs = zip(firsts, seconds, strict=True)
    found = [_most_frequent(logs[:, first] - logs[:, second]) for first, second in pairs]
    differences, counts = np.array(found).T
    sure = counts >= SHARED
    firsts, seconds = firsts[sure], seconds[sure]
    logarithms = _integrated(firsts, seconds, differences[sure], counts[sure], values.shape[1])
    seen = np.zeros(values.shape[1], bool)
    seen[firsts] = seen[seconds] = True
    relative = np.where(seen, np.exp(logarithms), 0)
    if not seen.any():
        return relative
    white = np.quantile(np.quantile(values * relative, WHITE, axis=1), BRIGHTEST)
    return relative / white


def _neighbours(size):
    """Pairs of pixels that touch one another."""
    pixels = np.arange(np.prod(size)).reshape(size)
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


def _integrated(firsts, seconds, differences, weights, count):
    """Logarithms of gains [pixel] whose differences between neighbours these mostly are."""
    solution, residuals = np.zeros(count), np.full(len(differences), WIDTH)
    for _ in range(SOLUTIONS):  # least absolute deviations, by weights anew
        strength = weights / np.maximum(residuals, WIDTH)
        matrix = 1e-6 * np.eye(count)  # what nothing is known of stays at 0
        np.add.at(matrix, (firsts, firsts), strength)
        np.add.at(matrix, (seconds, seconds), strength)
        np.add.at(matrix, (firsts, seconds), -strength)
        np.add.at(matrix, (seconds, firsts), -strength)
        target = np.zeros(count)
        np.add.at(target, seconds, strength * differences)
        np.add.at(target, firsts, -strength * differences)
        solution = np.linalg.solve(matrix, target)
        residuals = np.abs(solution[seconds] - solution[firsts] - differences)
    return solution
