"""Sparse directions in a row space: those of single images' derivatives.

SPEAR (Dimitrov et al. 2024, arXiv:2403.03945) draws null vectors of random columns until one is a
sparse direction, which takes some 2^(batch-1) draws for each. Here a random direction descends to
one, by iteratively reweighted least squares.

Directions are weighed in two ways. In the whitened space, whose units are also of one size (Tyler
1987, doi:10.1214/aos/1176350263), images of small derivatives are as easy to find as others. Where
it is not whitened, errors of all entries are alike: there it is judged what is zero.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

# Deviations of the noise within which a derivative is taken for zero. Outside, as many again are
# looked at to tell how many would be so small by chance.
ZERO = 4.0
# By how much a singular value must exceed the largest that noise alone would have.
ABOVE_NOISE = 1.2
# Times that units are brought to one size and the space is whitened.
WHITENINGS = 3
# Random directions that descend at a time, and how often at most.
STARTS, ROUNDS = 128, 24
# Times in a row that bring nothing new before it is enough.
PATIENCE = 3
# Weights of the units at which derivatives are made zero next, beside those that are.
SPLIT = (1e-4, 1e-6, 1e-8)
# Share of the directions found that a start may lie along.
AGAIN = 0.3
# What counts as zero during the descent: shares of derivatives' root mean square, from first to
# last; and then while polishing, shares of their median.
DESCENT = jnp.geomspace(1, 1e-3, 30).tolist()
POLISH = jnp.geomspace(1e-2, 1e-8, 7).tolist()
# Steps towards the smallest eigenvector at a time, and the smallest pivot of one, as a share.
INVERSE_ITERATIONS = 4
TINY = 1e-30
# Sine of the angle to those chosen before at which a direction counts as one more, and the same in
# deviations of its noise.
APART, APART_IN_NOISE = 0.03, 2.0
# Times that directions are held against the zeros of their images.
SETTLING = 4
# Zeros that a contradiction outweighs.
CONTRADICTION = 0.5


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


class Found(NamedTuple):
    """Directions q for which q'white is sparse.

    Attributes:
        directions: [batch, batch], each of length 1, or of 0 where there is none.
        support: zeros in excess of those that chance explains, [batch].
        rounds: how many times they have been looked for.
        barren: how many times in a row that brought nothing new.
    """

    directions: jax.Array
    support: jax.Array
    rounds: jax.Array
    barren: jax.Array


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


def search(space: Space, key: jax.Array, starts: int, rounds: int) -> Found:
    """Let random directions descend until all are found and no better ones come."""
    batch, dtype = len(space.white), space.white.dtype

    def unfinished(found):
        complete = jnp.sum(found.support > 0) >= space.rank
        return (found.rounds < rounds) & ~(complete & (found.barren >= PATIENCE))

    def look(found):
        start, split = jax.random.split(jax.random.fold_in(key, found.rounds))
        first = _descend(space, _starts(start, found.directions, starts))
        first = jnp.concatenate([first, _split(space, split, found.directions, starts)])
        pool = jnp.concatenate([found.directions, _polish(space, first)])
        directions, support = _choose(space, pool, _support(space, pool))
        barren = jnp.where(support.sum() > found.support.sum(), 0, found.barren + 1)
        return Found(directions, support, found.rounds + 1, barren)

    none = jnp.zeros((batch, batch), dtype), jnp.zeros(batch, dtype)
    return jax.lax.while_loop(unfinished, look, Found(*none, jnp.int32(0), jnp.int32(0)))


def _starts(key, found, starts):
    """Random directions, half of them at right angles to most of those found."""
    shape = starts, len(found)
    along, which = jax.random.split(key)
    first = jax.random.normal(along, shape, jnp.float32).astype(found.dtype)
    dual = jnp.linalg.pinv(found)
    again = jax.random.uniform(which, shape, jnp.float32) < AGAIN
    away = first - first @ dual @ found + (first * again) @ dual.T
    first = jnp.where(jnp.arange(starts)[:, None] % 2, first, away)
    return _unit(first)


def _split(space, key, found, starts):
    """Other directions with the zeros of some that were found.

    A sum of two images' derivatives is zero where both are, and passes for an image's where these
    are many. But then it is not alone: all sums of the two have these zeros, and in the plane of
    these, to be zero at one more unit is enough to be one of the two.
    """
    which, where, some, start = jax.random.split(key, 4)
    which = jax.random.randint(which, (starts,), 0, len(found), jnp.int32)
    units = space.white.shape[1]
    where = jax.random.randint(where, (len(SPLIT), starts), 0, units, jnp.int32)
    zero = space.heard[None] & (jnp.abs(derivatives(space, found)) < ZERO)
    # Not at all of them, lest one that is small by chance keeps the two together.
    kept = jax.random.uniform(some, (starts, units), jnp.float32) < 0.5
    weights = (zero[which] & kept).astype(found.dtype)
    for units, weight in zip(where, SPLIT, strict=True):
        weights = weights.at[jnp.arange(starts), units].add(weight)
    first = jax.random.normal(start, (starts, len(found)), jnp.float32).astype(found.dtype)
    return _smallest(space, weights @ _products(space.white), first)


def _descend(space, directions):
    """Minimise the sum of log(y^2 + e^2) over y = q'white, for e from large to small."""
    products = _products(space.white)

    def step(directions, least):
        blur = _noise_of(space, directions) * space.sizes[None]
        weights = 1 / ((directions @ space.white) ** 2 + least**2 + blur**2)
        return _smallest(space, weights @ products, directions), None

    return jax.lax.scan(step, directions, jnp.asarray(DESCENT, directions.dtype))[0]


def _polish(space, directions):
    """Minimise the sum of y^2 / noise^2 over the y that are zero but for noise."""
    products = _products(space.whitener @ space.rows)
    noise = (space.whitener @ space.whitener.T).ravel()

    def step(directions, share):
        y = jnp.abs(derivatives(space, directions))
        median = jnp.nanmedian(jnp.where(space.heard[None], y, jnp.nan), axis=1, keepdims=True)
        width = jnp.maximum(0.6 * ZERO, share * median)
        weights = space.heard[None] / (1 + (y / width) ** 2) ** 2
        # Noise alone would make directions short of it the smallest: its part is taken away.
        moments = weights @ products - jnp.outer(weights.sum(1), noise)
        return _smallest(space, moments, directions), None

    return jax.lax.scan(step, directions, jnp.asarray(POLISH, directions.dtype))[0]


def _products(rows):
    """Outer products of the columns of rows [batch, units] with themselves, [units, batch^2]."""
    return (rows[:, None] * rows[None]).reshape(-1, rows.shape[1]).T


def _smallest(space, moments, directions):
    """Eigenvectors of the eigenvalues nearest to zero within the space, [starts, batch].

    By inverse iteration from the directions. LAPACK would take several threads for each of the
    small matrices, and lose most of the time in their waiting for one another.
    """
    batch = len(space.white)
    # In the whitened space, directions beyond the rank are the first.
    outside = jnp.diag(jnp.arange(batch) < batch - space.rank)
    moments = moments.reshape(-1, batch, batch)
    size = jnp.abs(moments).sum((1, 2))[:, None, None]
    moments = moments / jnp.where(size > 0, size, 1) + outside[None]

    def eliminate(k, matrices):
        """A Gauss-Jordan step; without pivoting, as next to all matrices are positive definite."""
        is_k = jnp.arange(batch) == k
        row = jnp.where(is_k[None], 1, matrices[:, k])
        column = jnp.where(is_k[None], -1, matrices[:, :, k])
        pivot = matrices[:, k, k][:, None, None]
        pivot = jnp.where(jnp.abs(pivot) > TINY, pivot, TINY)
        rest = jnp.where((is_k[:, None] | is_k[None])[None], 0, matrices)
        return rest - column[:, :, None] * row[:, None] / pivot

    inverses = jax.lax.fori_loop(0, batch, eliminate, moments)
    for _ in range(INVERSE_ITERATIONS):
        directions = _unit(jnp.sum(inverses * directions[:, None], axis=2))
    return directions


def _unit(directions):
    return directions / optax.safe_norm(directions, 1e-12, axis=1, keepdims=True)


def _noise_of(space, directions):
    """Deviation of the noise of q'(whitener rows), [..., 1]."""
    return jnp.linalg.norm(directions @ space.whitener, axis=1, keepdims=True)


def derivatives(space: Space, directions: jax.Array) -> jax.Array:
    """The loss's derivatives at each unit, in deviations of their noise."""
    noise = _noise_of(space, directions)
    return directions @ space.white / space.sizes[None] / jnp.where(noise > 0, noise, 1)


def _support(space, directions):
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


def settle(space: Space, found: Found, silent_units: Callable[[jax.Array], jax.Array]) -> Found:
    """Hold directions against the zeros that their images must have, and correct them by these.

    Of two images whose derivatives are nearly the same, the difference is the sparser. But it is
    zero at units that its image activates.

    Args:
        space: that was searched.
        found: in it.
        silent_units: directions [batch, batch] -> where the images that follow from them activate
            no unit, bool [batch, units].
    """
    products = _products(space.whitener @ space.rows)
    noise = (space.whitener @ space.whitener.T).ravel()

    def again(_, found):
        # If but one is missing, its image follows from any direction in its place.
        directions = _completed(space, found.directions)
        silent = silent_units(directions) & space.heard[None]
        weights = silent.astype(space.rows.dtype)
        moments = weights @ products - jnp.outer(weights.sum(1), noise)
        corrected = _smallest(space, moments, directions)
        pool = jnp.concatenate([corrected, found.directions])
        support = _support(space, pool)
        wrong = _contradictions(space, pool, jnp.concatenate([silent, silent]))
        support = jnp.maximum(support - CONTRADICTION * wrong, 0)
        directions, support = _choose(space, pool, support)
        return found._replace(directions=directions, support=support)

    return jax.lax.fori_loop(0, SETTLING, again, found)


def _completed(space, directions):
    """Put directions at right angles to those found where there are none."""
    missing = jnp.all(directions == 0, axis=1)
    batch = len(directions)
    # Of the smallest eigenvalues: what lies beyond the rank, which must stay out, gets a large one.
    outside = jnp.diag(jnp.arange(batch) < batch - space.rank)
    others = jnp.linalg.eigh(directions.T @ directions + 2 * batch * outside)[1].T
    return jnp.where(missing[:, None], others[jnp.cumsum(missing) - 1], directions)


def _contradictions(space, directions, silent):
    """Count derivatives that must be zero and are not, and those that must not be zero and are."""
    y = jnp.abs(derivatives(space, directions))
    wrong = jnp.where(silent, y >= 3 * ZERO, y < ZERO) & space.heard[None]
    return wrong.sum(axis=1)


def _choose(space, directions, support):
    """Choose those of the largest support, as many as there are dimensions, all independent."""
    sizes = jnp.sum(space.sizes * space.heard) / jnp.maximum(space.heard.sum(), 1)
    apart = jnp.maximum(APART, APART_IN_NOISE * sizes * _noise_of(space, directions)[:, 0])
    apart = jnp.minimum(apart, 0.5)

    def step(rest, _):
        lengths = jnp.linalg.norm(rest, axis=1)
        scores = jnp.where(lengths > apart, support, 0)
        best = jnp.argsort(-scores)[0]
        taken = scores[best] > 0
        new = taken * rest[best] / jnp.where(taken, lengths[best], 1)
        return rest - jnp.outer(rest @ new, new), (taken * directions[best], scores[best])

    return jax.lax.scan(step, directions, length=directions.shape[1])[1]
