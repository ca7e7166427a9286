"""Sparse directions held against the zeros that the layer's weights give their images.

The server knows the layer's weights: they say which units an image activates, and its derivatives
must be zero at all others and at no other. Two images of a class have nearly the same derivatives
where both activate a unit, so that their difference is sparser than either, and only this tells.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from row_space import ZERO, Space, derivatives
from sparse_directions import choose, products_of, smallest, support_of

# Times that directions are corrected, at most.
CORRECTIONS = 6
# Sets of directions, some of them drawn anew, from which images follow at a time.
VARIANTS = 8
# Share of the units at which an image may contradict its direction: rounding blurs some images.
CONTRADICTED = 0.05


def settle(
    space: Space,
    directions: jax.Array,
    key: jax.Array,
    silent_units: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
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
        Directions likewise; their support [batch], as `sparse_directions.support_of` has it, less
        what contradicts it; and whether next to nothing does, bool [batch].
    """
    batch = len(directions)
    products = products_of(space.whitener @ space.rows)
    noise = (space.whitener @ space.whitener.T).ravel()
    most = CONTRADICTED * space.heard.sum()

    def judge(directions, number):
        silent = silent_units(_completed(space, directions, jax.random.fold_in(key, number)))
        wrong = _contradictions(space, directions, silent)
        support = support_of(space, directions)
        return directions, silent, wrong, jnp.where(wrong <= most, support, 0) > 0

    def doubtful(state):
        number, (*_, settled) = state
        return (number < CORRECTIONS) & (settled.sum() < space.rank)

    def correct(state):
        number, (directions, silent, wrong, settled) = state
        which, anew = jax.random.split(jax.random.fold_in(key, CORRECTIONS + 1 + number))
        kept = settled[None] | jax.random.bernoulli(which, 0.5, (VARIANTS, batch))
        variants = jax.vmap(lambda kept, key: _completed(space, directions * kept[:, None], key))(
            kept, jax.random.split(anew, VARIANTS)
        )
        silent = jnp.concatenate([silent[None], jax.vmap(silent_units)(variants)])
        silent = silent.reshape(-1, silent.shape[2])
        weights = (silent & space.heard[None]).astype(products.dtype)
        moments = weights @ products - jnp.outer(weights.sum(1), noise)
        before = jnp.concatenate([directions[None], variants]).reshape(-1, batch)
        pool = smallest(space, moments, before)
        wrong = jnp.concatenate([wrong, _contradictions(space, pool, silent)])
        pool = jnp.concatenate([directions, pool])
        chosen, taken = choose(pool, jnp.maximum(support_of(space, pool) - wrong, 0))
        return number + 1, judge(pool[chosen] * taken[:, None], number + 1)

    _, (directions, _, wrong, settled) = jax.lax.while_loop(
        doubtful, correct, (jnp.int32(0), judge(directions, 0))
    )
    return directions, jnp.maximum(support_of(space, directions) - wrong, 0), settled


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
