"""Sparse directions in a row space: those of single images' derivatives.

SPEAR (Dimitrov et al. 2024, arXiv:2403.03945) draws null vectors of random columns until one is a
sparse direction, which takes some 2^(batch-1) draws for each. Here a random direction descends to
one, by iteratively reweighted least squares.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from row_space import ZERO, Space, derivatives, noise_of, support_of

# Random directions that descend at a time, and how often at most.
STARTS, ROUNDS = 128, 24
# Times in a row that bring nothing new before it is enough.
PATIENCE = 3
# Weights of the units at which derivatives are made zero next, beside those that are.
SPLIT = (1e-4, 1e-6, 1e-8)
# Share of the directions found that a start may lie along.
AGAIN = 0.3
# What counts as zero during the descent: shares of derivatives' root mean square, the first, the
# last and how many; and then while polishing, shares of their median.
DESCENT = 1, 1e-3, 30
POLISH = 1e-2, 1e-8, 7
# Steps towards the smallest eigenvector at a time, and the smallest pivot of one, as a share.
INVERSE_ITERATIONS = 4
TINY = 1e-30
# Sine of the angle to those chosen before at which a direction counts as one more.
APART = 0.03


class Found(NamedTuple):
    """Directions q for which q'white is sparse.

    Attributes:
        directions: [batch, batch], each of length 1, or of 0 where there is none.
        support: zeros in excess of those that chance explains, [batch].
        settled: bool [batch], whether what else is known agrees.
    """

    directions: jax.Array
    support: jax.Array
    settled: jax.Array


class _State(NamedTuple):
    """Of a search: directions to go on from, what is made of them, and how it goes.

    Attributes:
        kept: [batch, batch] and so on.
        best: the same, corrected.
        solved: whether no more need be looked for.
        rounds: how many times they have been looked for.
        barren: how many times in a row that brought nothing new.
    """

    kept: Found
    best: Found
    solved: jax.Array
    rounds: jax.Array
    barren: jax.Array


def search(
    space: Space, key: jax.Array, starts: int, rounds: int, settle: Callable | None = None
) -> Found:
    """Let random directions descend until all are found and no better ones come.

    Args:
        space: where to search.
        key: of the random directions.
        starts: directions that descend at a time.
        rounds: how often, at most.
        settle: (directions [batch, batch], key) -> (`Found`, solved), which holds them against
            what else is known, corrects them, and says whether it is enough; until then, they are
            looked for. None for nothing known.
    """
    batch, dtype = len(space.white), space.white.dtype

    def unfinished(state):
        if settle is not None:
            return (state.rounds < rounds) & ~state.solved
        complete = jnp.sum(state.kept.support > 0) >= space.rank
        return (state.rounds < rounds) & ~(complete & (state.barren >= PATIENCE))

    def look(state):
        own, before = jax.random.fold_in(key, state.rounds), state.kept
        start, split = jax.random.split(own)
        first = _descend(space, _starts(start, before.directions, starts))
        first = jnp.concatenate([first, _split(space, split, before.directions, starts)])
        pool = jnp.concatenate([before.directions, _polish(space, first)])
        kept = best = preferred(pool, before.settled)
        solved = state.solved
        if settle is not None:
            best, solved = settle(kept.directions, jax.random.fold_in(own, 2))
            # Others are left as they were found: not even right ones agree while some are missing.
            settled = best.directions * best.settled[:, None]
            kept = preferred(jnp.concatenate([settled, kept.directions]), best.settled)
        better = worth(space, kept).sum() > worth(space, before).sum()
        barren = jnp.where(better, 0, state.barren + 1)
        return _State(kept, best, solved, state.rounds + 1, barren)

    def preferred(pool, settled):
        """Choose from a pool, of whose first directions it is known whether they are settled."""
        settled = jnp.pad(settled, (0, len(pool) - batch))
        found = Found(pool, support_of(space, pool), settled)
        chosen, taken = choose(pool, worth(space, found))
        pool = pool[chosen] * taken[:, None]
        return Found(pool, found.support[chosen] * taken, settled[chosen] & taken)

    none = Found(jnp.zeros((batch, batch), dtype), jnp.zeros(batch, dtype), jnp.zeros(batch, bool))
    start = _State(none, none, jnp.array(False), jnp.int32(0), jnp.int32(0))
    return jax.lax.while_loop(unfinished, look, start).best


def worth(space: Space, found: Found) -> jax.Array:
    """Say which of some directions to prefer: that one is settled outweighs any support."""
    settled = found.settled & (found.support > 0)
    return found.support + jnp.where(settled, space.heard.sum(), 0)


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
    return smallest(space, weights @ products_of(space.white), first)


def _shares(first, last, count):
    """Shares in geometric progression, in single precision whatever the directions have."""
    with jax.core.eval_context(), jax.enable_x64(False):  # as compiled by itself, not op by op
        return jnp.geomspace(first, last, count).tolist()


def _descend(space, directions):
    """Minimise the sum of log(y^2 + e^2) over y = q'white, for e from large to small."""
    products = products_of(space.white)

    def step(directions, least):
        blur = noise_of(space, directions) * space.sizes[None]
        weights = 1 / ((directions @ space.white) ** 2 + least**2 + blur**2)
        return smallest(space, weights @ products, directions), None

    return jax.lax.scan(step, directions, jnp.asarray(_shares(*DESCENT), directions.dtype))[0]


def _polish(space, directions):
    """Minimise the sum of y^2 / noise^2 over the y that are zero but for noise."""
    products = products_of(space.whitener @ space.rows)
    noise = (space.whitener @ space.whitener.T).ravel()

    # Once: sorting takes far longer than a step, and directions hardly move.
    y = jnp.where(space.heard[None], jnp.abs(derivatives(space, directions)), jnp.nan)
    median = jnp.nanmedian(y, axis=1, keepdims=True)

    def step(directions, share):
        y = derivatives(space, directions)
        width = jnp.maximum(0.6 * ZERO, share * median)
        weights = space.heard[None] / (1 + (y / width) ** 2) ** 2
        # Noise alone would make directions short of it the smallest: its part is taken away.
        moments = weights @ products - jnp.outer(weights.sum(1), noise)
        return smallest(space, moments, directions), None

    return jax.lax.scan(step, directions, jnp.asarray(_shares(*POLISH), directions.dtype))[0]


def products_of(rows: jax.Array) -> jax.Array:
    """Outer products of the columns of rows [batch, units] with themselves, [units, batch^2]."""
    return (rows[:, None] * rows[None]).reshape(-1, rows.shape[1]).T


def smallest(space: Space, moments: jax.Array, directions: jax.Array) -> jax.Array:
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


def choose(directions: jax.Array, support: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Choose those of the largest support, as many as there are dimensions, all independent.

    Returns:
        Where they are [batch], and whether there is one [batch].
    """

    def step(rest, _):
        lengths = jnp.linalg.norm(rest, axis=1)
        scores = jnp.where(lengths > APART, support, 0)
        best = jnp.argsort(-scores)[0]
        taken = scores[best] > 0
        new = taken * rest[best] / jnp.where(taken, lengths[best], 1)
        return rest - jnp.outer(rest @ new, new), (best, taken)

    return jax.lax.scan(step, directions, length=directions.shape[1])[1]
