"""Sparse directions held against the zeros that the layer's weights give their images.

The server knows the layer's weights: they say which units an image activates, and its derivatives
must be zero at all others and at no other. Two images of a class have nearly the same derivatives
where both activate a unit, so that their difference is sparser than either, and only this tells.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from row_space import ZERO, Space, derivatives, support_of
from sparse_directions import Found, choose, products_of, smallest

# Times that directions are corrected, at most.
CORRECTIONS = 6
# Sets of directions, some of them drawn anew, from which images follow at a time.
VARIANTS = 8
# Share of the units at which an image may contradict its direction, which is kept then: while some
# are missing, the images of others are blurred. And the share at which all is taken for solved:
# what rounding blurs contradicts at fewer, what is wrong at more.
CONTRADICTED, SOLVED = 0.05, 0.015


def settle(
    space: Space,
    directions: jax.Array,
    key: jax.Array,
    silent_units: Callable[[jax.Array], jax.Array],
) -> tuple[Found, jax.Array]:
    """Correct directions by the zeros that their images must have.

    An image follows from its own direction and from all others, but where all others are right it
    follows from any direction in its own place. So with directions drawn anew in place of doubtful
    ones, those corrected by the zeros of the images that follow are better ones.

    Args:
        space: that was searched.
        directions: [batch, batch], each of length 1, or of 0 where there is none.
        key: of the directions drawn anew.
        silent_units: directions [batch, batch] -> where the images that follow from them activate
            no unit, bool [batch, units].

    Returns:
        Directions, their support less what contradicts it, and whether little does; and whether all
        are there and next to nothing contradicts any.
    """
    batch = len(directions)
    products = products_of(space.whitener @ space.rows)
    noise = (space.whitener @ space.whitener.T).ravel()

    def unsolved(state):
        number, *_, solved = state
        return (number <= CORRECTIONS) & ~solved

    def correct(state):
        number, directions, before, _ = state
        which, anew = jax.random.split(jax.random.fold_in(key, number))
        kept = before.settled[None] | jax.random.bernoulli(which, 0.5, (VARIANTS, batch))
        kept = kept.at[0].set(True)
        variants = jax.vmap(lambda kept, key: _completed(space, directions * kept[:, None], key))(
            kept, jax.random.split(anew, VARIANTS)
        )
        silent = jax.vmap(silent_units)(variants).reshape(VARIANTS * batch, -1)
        weights = (silent & space.heard[None]).astype(products.dtype)
        moments = weights @ products - jnp.outer(weights.sum(1), noise)
        corrected = smallest(space, moments, variants.reshape(-1, batch))
        pool = jnp.concatenate([directions, corrected])
        # The first variant has all directions, so that its images are theirs.
        wrong = _contradictions(space, pool, jnp.concatenate([silent[:batch], silent]))
        support = support_of(space, pool)
        heard = space.heard.sum()
        # The first ones are the directions as they are given.
        agree = (wrong[:batch] <= CONTRADICTED * heard) & (support[:batch] > 0)
        solved = jnp.sum(agree & (wrong[:batch] <= SOLVED * heard)) >= space.rank
        support = jnp.maximum(support - wrong, 0)
        chosen, taken = choose(pool, support)
        found = Found(directions, support[:batch], agree)
        return number + 1, pool[chosen] * taken[:, None], found, solved

    nothing = jnp.zeros(batch, directions.dtype), jnp.zeros(batch, bool)
    start = jnp.int32(0), directions, Found(directions, *nothing), jnp.array(False)
    return jax.lax.while_loop(unsolved, correct, start)[2:]


def _completed(space, directions, key):
    """Put random directions, at right angles to those that are there, where there are none."""
    batch, dtype = len(directions), directions.dtype
    missing = jnp.all(directions == 0, axis=1)
    others = jax.random.normal(key, (batch, batch), jnp.float32).astype(dtype)
    # In the whitened space, directions beyond the rank are the first.
    others = jnp.where((jnp.arange(batch) >= batch - space.rank)[None], others, 0)
    others -= others @ jnp.linalg.pinv(directions) @ directions
    lengths = jnp.linalg.norm(others, axis=1, keepdims=True)
    others = others / jnp.where(lengths > 0, lengths, 1)
    # No more than there is room for: others would be no directions but rounding.
    room = jnp.cumsum(missing) <= space.rank - jnp.sum(~missing)
    return jnp.where((missing & room)[:, None], others, directions)


def _contradictions(space, directions, silent):
    """Count derivatives that must be zero and are not, and more that must not be and are."""
    y = jnp.abs(derivatives(space, directions))
    too_large = space.heard[None] & silent & (y >= 3 * ZERO)
    too_small = space.heard[None] & ~silent & (y < ZERO)
    # Of those that must not be zero, some are small by chance.
    by_chance = space.heard[None] & ~silent & (y >= ZERO) & (y < 3 * ZERO)
    small = jnp.maximum(too_small.sum(1) - by_chance.sum(1) / 2, 0)
    return (too_large.sum(1) + small).astype(y.dtype)
