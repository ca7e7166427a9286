"""Disaggregation: the images behind the gradient of a dense first layer that a ReLU follows.

The idea is that of SPEAR (Dimitrov et al. 2024, arXiv:2403.03945). With the inputs A = [X, 1]
[batch, pixels + 1] and the loss's derivatives D [batch, units] at the layer's outputs, the gradient
of its kernel and bias is A'D, of rank `batch`. Its row space is that of D, whose rows are *sparse*:
the ReLU's derivative is zero for many of the units. Sparse vectors in a small space are rare, and
so it is them, up to their scales, that are looked for there. Then A follows by least squares, and
the scales from its column of ones.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from activation_patterns import settle
from analytic import pick
from row_space import ZERO, Space, derivatives, row_space
from sparse_directions import ROUNDS, STARTS, search

# Root-mean-square excess over [0, 1] at which what was found is no image.
EXCESS = 0.1


class Disaggregated(NamedTuple):
    """What was found behind a gradient.

    Attributes:
        images: [batch, pixels], in no particular order.
        certainty: [batch], the number of zero derivatives that support an image, beyond those that
            chance explains; 0 for a mere quotient of gradients (see `analytic.pick`), which stands
            where no image was found.
        silent: bool [batch, units], the units at which an image's derivative is zero; none where no
            image was found.
        heard: bool [units], the units of which that can be told.
    """

    images: jax.Array
    certainty: jax.Array
    silent: jax.Array
    heard: jax.Array


@jax.default_matmul_precision("highest")
def disaggregate(
    gradient: jax.Array,
    batch: int,
    key: jax.Array,
    noise: float | jax.Array | None = None,
    bounded: bool = False,
    weights: jax.Array | None = None,
    starts: int = STARTS,
    rounds: int = ROUNDS,
) -> Disaggregated:
    """Find the images of a minibatch from the gradient of a dense layer before a ReLU.

    Rows of the gradient may each have an unknown positive gain: pixels then have it too, relative
    to the bias's.

    Args:
        gradient: of the kernel and, as the last row, of the bias; [pixels + 1, units], up to a
            factor.
        batch: images to find, at least 1.
        key: of the random directions.
        noise: standard deviation of the errors of the gradient's entries; None to estimate it, for
            each row and unit, from what is left beyond rank `batch`.
        bounded: whether to reject what is far from an image in [0, 1].
        weights: of the layer, the bias as the last row, [pixels + 1, units]: they say at which
            units an image's derivatives must be zero. None where they are unknown, or gains are.
        starts: directions that descend at a time.
        rounds: how often, at most.
    """
    # Compiled in parts, of which the search takes the longest and depends on the fewest arguments.
    gradient = jnp.asarray(gradient)
    space = _space(gradient, batch, noise)
    found = _found(space, key, weights, starts, rounds)
    return _judged(gradient, space, found, batch, bounded)


@partial(jax.jit, static_argnames="batch")
def _space(gradient, batch, noise):
    size = jnp.abs(gradient).max()
    size = jnp.where(size > 0, size, 1)
    return row_space(gradient / size, batch, None if noise is None else noise / size)


@partial(jax.jit, static_argnames=("starts", "rounds"))
def _found(space, key, weights, starts, rounds):
    def silent_units(directions):
        images = jnp.clip(_images(space, directions)[0], 0, 1)
        return images @ weights[:-1] + weights[-1:] <= 0

    held_against = partial(settle, space, silent_units=silent_units)
    return search(space, key, starts, rounds, None if weights is None else held_against)


@partial(jax.jit, static_argnames=("batch", "bounded"))
def _judged(gradient, space, found, batch, bounded):
    """Images and their certainty, quotients in place of what is no image."""
    images, good = _images(space, found.directions)
    good &= found.support > 0
    if bounded:
        clipped = jnp.clip(images, 0, 1)
        good &= jnp.mean((images - clipped) ** 2, axis=1) < EXCESS**2
        images = clipped
    images, certainty = jnp.where(good[:, None], images, 0), jnp.where(good, found.support, 0)
    silent = space.heard[None] & (jnp.abs(derivatives(space, found.directions)) < ZERO)
    others = pick(gradient[:-1], gradient[-1], batch)
    images = _fill(images, certainty, others)
    return Disaggregated(images, certainty, silent & good[:, None], space.heard)


def _images(space: Space, directions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solve for images [batch, pixels], and whether there are, given derivatives up to factors."""
    y = derivatives(space, directions)
    y = jnp.where(jnp.abs(y) < ZERO, 0, y)
    lengths = jnp.linalg.norm(y, axis=1, keepdims=True)
    y = y / jnp.where(lengths > 0, lengths, 1)
    # One on the diagonal where there is none.
    inputs = jnp.linalg.solve(y @ y.T + jnp.diag(lengths[:, 0] == 0), y @ space.rows.T)
    inputs = inputs @ space.basis.T * space.row_noise[None]
    scale = inputs[:, -1:]
    images = inputs[:, :-1] / jnp.where(scale == 0, 1, scale)
    sound = (scale[:, 0] != 0) & jnp.isfinite(images).all(1)
    return jnp.where(sound[:, None], images, 0), sound


def _fill(images, certainty, others):
    """Put others where there is no image, those first that are least like any that was found."""
    missing = certainty == 0
    differences = jnp.sum((others[:, None] - jnp.clip(images, 0, 1)[None]) ** 2, axis=2)
    nearest = jnp.where(missing[None], jnp.inf, differences).min(axis=1)
    ordered = others[jnp.argsort(-nearest)]
    return jnp.where(missing[:, None], ordered[jnp.cumsum(missing) - 1], images)
