"""Brightness, exactly: what the first layer's units made of an image tells how bright it was.

Calibration leaves a gain g_p for each pixel open, that is images x_p g_p of which x alone is known.
The gradient of the second dense layer, calibrated likewise, holds the same images' activations h_j,
up to a factor c_j for each unit. And the server knows the weights W and biases b that it sent:

    sum_p W_pj x_p g_p + b_j = c_j h_j      for each image and each unit j that it activates.

These are linear equations in g and c, many more than there are unknowns, as each image gives one
for each of its active units. They are solved by least squares in the iterations of a robust
estimator, since some of the images are mixtures. The biases are small: they say little but the
common factor of g and c, and so it is only it that suffers where they are lost in errors.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Equations to solve, at most: some ten for each unknown.
EQUATIONS = 12_000
ITERATIONS = 12
# Weight of the guess in the first iteration, and its relative error.
FIRST_TRUST, GUESSED = 1e-2, 0.5
# Errors, in usual ones, beyond which equations and images count for less.
USUAL, USUAL_IMAGE = 3.0, 2.0
# Share of the next smallest singular value that the smallest may have, and share of activations, in
# energy, that may be negative, where activations are found.
SINGULAR, NEGATIVE = 0.3, 1e-3
# An image's smallest activation to rely on, as a share of its largest.
QUIET = 1e-4
# Gains are within this factor of the guess.
FAR = 1e3
# Relative error of the common factor up to which it is relied on.
CERTAIN = 0.1
# Share of a pixel's values above the one that is taken for white, as a guess, and times the usual
# gain from which on a pixel is taken to be black.
WHITE, FAINTEST = 0.05, 1e3
# Singular values of a layer's gradient below this share of the largest are rounding.
ROUNDING = 1e-5


class TooFewEquationsError(ValueError):
    """Too few images with activations."""


@jax.jit
def of_images(gradient: jax.Array, silent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find images' activations in the gradient of the layer that follows.

    Its columns are combinations of the activations, of which each image's are zero where its
    derivatives are: that tells it from all others.

    Args:
        gradient: of the second layer's kernel and bias, each row up to a factor;
            [units + 1, outputs].
        silent: bool [image, units], where derivatives of the image are known to be zero.

    Returns:
        Activations [image, units], each unit up to a factor, and bool [image], whether they are
        reliable.
    """
    size = jnp.sqrt(jnp.mean(gradient**2, axis=1))
    live = size > 0
    size = jnp.where(live, size, 1)
    basis, values, _ = jnp.linalg.svd(gradient / size[:, None], full_matrices=False)
    count = min(len(silent), len(values))
    there = values[:count] > ROUNDING * values[0]
    basis = basis[:, :count] * there[None]
    # Directions that there are none of must not be taken for those that vanish.
    missing = jnp.diag(~there).astype(basis.dtype)

    def of_image(silent):
        zeros = silent & live[:-1]
        _, small, directions = jnp.linalg.svd(
            jnp.concatenate([basis[:-1] * zeros[:, None], missing]), full_matrices=False
        )
        h = basis @ directions[-1] * size
        h = jnp.where(zeros, 0, h[:-1] / jnp.where(h[-1] == 0, 1, h[-1]))
        # A single image needs no telling apart.
        told = jnp.bool_(True)
        if count > 1:
            told = (zeros.sum() > count + 1) & (small[-1] < SINGULAR * small[-2])
        negative = jnp.sum(jnp.minimum(h, 0) ** 2) > NEGATIVE * jnp.sum(h**2)
        return h, told & ~negative & jnp.isfinite(h).all() & (h > 0).any()

    return lax.map(of_image, silent)


def gains(
    images: np.ndarray,
    activations: np.ndarray,
    rounds: np.ndarray,
    weights: np.ndarray,
    guess: np.ndarray,
) -> np.ndarray:
    """Solve for the pixels' gains.

    Args:
        images: [image, pixel], each pixel up to a positive gain.
        activations: [image, unit] of the first layer, each unit up to a positive factor.
        rounds: int [image], which of the weights an image was seen by.
        weights: of the first layer in each round, the bias as the last row,
            [round, pixels + 1, units].
        guess: at the gains, [pixel], such as `brightest`; 0 for pixels that no image shows.

    Returns:
        Gains [pixel]; 0 where the guess is.

    Raises:
        TooFewEquationsError: where there are fewer of them than pixels.
    """
    which, unit = np.nonzero(activations > QUIET * activations.max(1, keepdims=True, initial=0))
    if len(which) < images.shape[1]:
        raise TooFewEquationsError(f"{len(which)} equations for {images.shape[1]} pixels")
    images = images * guess
    chosen = np.random.default_rng(0).permutation(len(which))[:EQUATIONS]
    which, unit = which[chosen], unit[chosen]
    equations = weights[rounds[which], :, unit]
    equations[:, :-1] *= images[which]
    # An image's equations as relative to what its activations should be.
    energy = np.bincount(which, (equations[:, :-1] ** 2).sum(1), len(images))
    energy /= np.maximum(np.bincount(which, minlength=len(images)), 1)
    size = np.sqrt(np.where(energy > 0, energy, 1))[which]
    equations /= size[:, None]
    equations = _Equations(
        *map(jnp.asarray, (equations, activations[which, unit] / size, which, unit))
    )
    solution, error = _robust(equations, len(images), activations.shape[1])
    relative, common = np.asarray(solution[:-1]), float(solution[-1])
    if common <= 0 or float(error) > CERTAIN * common:
        common = np.median(relative[guess > 0])
    relative = relative / common if common > 0 else np.ones_like(relative)
    return guess * np.where((relative > 1 / FAR) & (relative < FAR), relative, 1)


def brightest(images: np.ndarray) -> np.ndarray:
    """Guess gains: those that make nearly the brightest of each pixel's values white.

    Args:
        images: [image, pixel], each pixel up to a positive gain.

    Returns:
        Gains [pixel]; 0 where hardly any image shows anything.
    """
    white = np.quantile(np.maximum(images, 0), 1 - WHITE, axis=0)
    gain = np.where(white > 0, 1 / np.where(white > 0, white, 1), 0)
    usual = np.median(gain[gain > 0]) if gain.any() else 0
    return np.where(gain < FAINTEST * usual, gain, 0)


class _Equations(NamedTuple):
    """Linear equations in gains, the factor of all biases and the units' factors.

    Attributes:
        matrix: of gains and the biases' factor, [equation, pixels + 1].
        activations: of the unit's factor, [equation]; it goes on the other side.
        image: int [equation].
        unit: likewise.
    """

    matrix: jax.Array
    activations: jax.Array
    image: jax.Array
    unit: jax.Array


@partial(jax.jit, static_argnames=("images", "units"))
def _robust(equations, images, units):
    """Robust least squares -> (gains and the biases' factor, the error of that)."""
    matrix, activations, which, unit = equations
    columns = jnp.sqrt(jnp.mean(matrix**2, axis=0))
    shown = columns[:-1]
    # Pixels count by what they do, or a dark one could stand for all.
    share = shown**2 / jnp.sum(shown**2)
    columns = jnp.where(columns > 0, columns, 1).at[:-1].set(jnp.sqrt(jnp.mean(shown**2)))
    scaled, size = matrix / columns[None], len(columns)
    sum_to_one, of_pixels = jnp.append(share, 0), jnp.ones(size).at[-1].set(0)
    count = jnp.zeros(images).at[which].add(1)

    def of_units(values):
        return jnp.zeros((units, *values.shape[1:])).at[unit].add(values)

    def iteration(number, carry):
        weights, spread, *_ = carry
        trust = jnp.maximum(FIRST_TRUST * 0.1**number / size, spread**2) * of_pixels
        moments = (scaled * weights[:, None]).T @ scaled
        # A unit's factor is in its own equations alone: solved for, it is gone from the others.
        weighed = weights * activations
        energy = of_units(weighed * activations)
        energy = jnp.where(energy > 0, energy, 1)
        mixed = of_units(weighed[:, None] * scaled) / jnp.sqrt(energy)[:, None]
        moments = (moments - mixed.T @ mixed) / jnp.sum(weights)
        moments += jnp.diag(trust + 1e-13) + jnp.outer(sum_to_one, sum_to_one)
        factor = jax.scipy.linalg.cho_factor(moments)
        found = jax.scipy.linalg.cho_solve(factor, trust + sum_to_one)
        factors = mixed @ found / jnp.sqrt(energy)
        error = jnp.abs(scaled @ found - factors[unit] * activations)
        usual = jnp.median(error)
        image_error = jnp.sqrt(jnp.zeros(images).at[which].add(error**2) / jnp.maximum(count, 1))
        usual_image = jnp.nanmedian(jnp.where(count > 0, image_error, jnp.nan))
        image_weights = 1 / (1 + (image_error / (USUAL_IMAGE * usual_image + 1e-15)) ** 2)
        variance = jax.scipy.linalg.cho_solve(factor, jnp.zeros(size).at[-1].set(1.0))[-1]
        last = jnp.sqrt(variance / jnp.sum(weights)) * 1.5 * usual
        weights = image_weights[which] / (1 + (error / (1.5 * USUAL * usual + 1e-15)) ** 2)
        spread = 1.5 * usual / jnp.sqrt(jnp.sum(weights)) / GUESSED
        return weights, spread, found, last

    start = jnp.ones(len(scaled)), jnp.zeros(()), jnp.zeros(size), jnp.zeros(())
    *_, found, last = lax.fori_loop(0, ITERATIONS, iteration, start)
    return found / columns * columns[0], last / columns[-1] * columns[0]
