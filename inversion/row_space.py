"""The row space of a dense layer's gradient, its noise brought to 1, and the inputs behind it.

Directions in it are weighed in two ways. In the whitened space, whose units are also of one size
(Tyler 1987, doi:10.1214/aos/1176350263), images of small derivatives are as easy to find as others.
Where it is not whitened, errors of all entries are alike: there it is judged what is zero.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Deviations of the noise within which a derivative is taken for zero. Outside, as many again are
# looked at to tell how many would be so small by chance.
ZERO = 4.0
# By how much a singular value must exceed the largest that noise alone would have.
ABOVE_NOISE = 1.2
# Times that units are brought to one size and the space is whitened.
WHITENINGS = 3


class Space(NamedTuple):
    """The gradient's column and row space, in units of the noise.

    Attributes:
        basis: orthonormal, [pixels + 1, batch].
        row_noise: what the gradient's rows were divided by, [pixels + 1].
        rows: basis' times the gradient, [batch, units]; zero beyond the rank and for units that
            say nothing but noise.
        heard: bool [units], whether a unit says more.
        rank: how many of `rows` there are.
        whitener: [batch, batch]; times rows, it makes them alike.
        white: whitener times rows, times sizes; [batch, units].
        sizes: [units], which make columns of `white` alike.
    """

    basis: jax.Array
    row_noise: jax.Array
    rows: jax.Array
    heard: jax.Array
    rank: jax.Array
    whitener: jax.Array
    white: jax.Array
    sizes: jax.Array


def row_space(gradient: jax.Array, batch: int, noise: jax.Array | None) -> Space:
    """Take the gradient apart, its noise brought to 1 and its units and directions alike.

    Args:
        gradient: [pixels + 1, units], the largest entry 1.
        batch: the rank at most.
        noise: deviation of the entries' errors; None to estimate it, for each row and unit.
    """
    row_noise, unit_noise = _noise(gradient, batch, noise)
    basis, values, rows = _thin(gradient / jnp.outer(row_noise, unit_noise), batch)
    rank = jnp.sum(values > ABOVE_NOISE * (len(row_noise) ** 0.5 + len(unit_noise) ** 0.5))
    rows = jnp.where((jnp.arange(batch) < rank)[:, None], values[:, None] * rows, 0)
    heard = jnp.linalg.norm(rows, axis=0) > 2 * ZERO + rank**0.5
    rows *= heard[None]
    whitener = jnp.diag(1 / jnp.where(values > 0, values, 1))
    for _ in range(WHITENINGS):
        white = whitener @ rows
        lengths = jnp.linalg.norm(white, axis=0)
        sizes = 1 / jnp.where(heard & (lengths > 0), lengths, 1)
        values, vectors = jnp.linalg.eigh((white * sizes[None] ** 2) @ white.T)
        scale = jnp.sqrt(heard.sum() / jnp.where(values > 1e-6 * values.max(), values, jnp.inf))
        whitener = scale[:, None] * vectors.T @ whitener
    # Rows beyond the rank come first, as their eigenvalues are 0: they stay where they are.
    return Space(
        basis, row_noise, rows, heard, rank, whitener, whitener @ rows * sizes[None], sizes
    )


def _noise(gradient, batch, noise):
    """Deviation of the noise in each row [pixels + 1], and that in each unit [units] relative."""
    shape, dtype = gradient.shape, gradient.dtype
    # What the rounding here amounts to: the largest entry of the gradient is 1.
    least = 0.25 * jnp.finfo(dtype).eps * (shape[0] * shape[1]) ** 0.5
    if noise is not None:
        level = jnp.maximum(noise, least).astype(dtype)
        return jnp.full(shape[0], level), jnp.ones(shape[1], dtype)
    basis, values, rows = _thin(gradient, batch)
    rest = jnp.square(gradient - basis @ (values[:, None] * rows))
    rest = rest / (1 - min(batch, min(shape) - 1) / min(shape)) + least**2
    overall = jnp.sqrt(rest.mean())
    of_rows, of_units = (jnp.sqrt(rest.mean(axis)) for axis in (1, 0))
    # Where next to nothing is left it is for want of a signal.
    return jnp.maximum(of_rows, 0.1 * overall), jnp.maximum(of_units / overall, 0.01)


def _thin(matrix, batch):
    """The `batch` largest singular values and their vectors, zeros where there are fewer."""
    basis, values, rows = jnp.linalg.svd(matrix, full_matrices=False)
    missing = max(0, batch - len(values))
    return (
        jnp.pad(basis[:, :batch], ((0, 0), (0, missing))),
        jnp.pad(values[:batch], (0, missing)),
        jnp.pad(rows[:batch], ((0, missing), (0, 0))),
    )


def noise_of(space, directions):
    """Deviation of the noise of q'(whitener rows) for each of the directions q, [..., 1]."""
    return jnp.linalg.norm(directions @ space.whitener, axis=1, keepdims=True)


def derivatives(space: Space, directions: jax.Array) -> jax.Array:
    """The loss's derivatives at each unit, in deviations of their noise."""
    noise = noise_of(space, directions)
    return directions @ space.white / space.sizes[None] / jnp.where(noise > 0, noise, 1)


def support_of(space: Space, directions: jax.Array) -> jax.Array:
    """Count the zeros that neither chance nor the choice of the direction explains."""
    y = jnp.abs(derivatives(space, directions))
    y = jnp.where(space.heard[None], y, jnp.inf)
    zeros = jnp.sum(y < ZERO, axis=1)
    by_chance = jnp.sum((y >= ZERO) & (y < 3 * ZERO), axis=1) / 2
    clear = jnp.sum(jnp.isfinite(y) & (y >= 3 * ZERO), axis=1)
    support = zeros - by_chance - (space.rank - 1)
    # Where few derivatives are clearly none, zeros are small for want of a signal.
    sound = (support > 3 + 2 * jnp.sqrt(by_chance)) & (clear > 2 * by_chance)
    support = jnp.where(sound, support, 0)
    # A single image needs no zeros to be told from others.
    support = jnp.where(space.rank == 1, jnp.maximum(support, 1), support)
    return jnp.where(jnp.any(directions != 0, axis=1), support, 0).astype(y.dtype)
