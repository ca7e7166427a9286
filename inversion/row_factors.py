"""The factors of a row of a dense layer's gradients, where the gradients' row spaces are known.

With y_t the row in round t and V_t an orthonormal basis of that round's row space, they are the
vector s for which sum_t |(s * y_t) (1 - V_t V_t')|^2 is smallest. Entry by entry, that is the
leading eigenvector of sum_t (y_t y_t') * (V_t V_t'), by inverse iteration; see `calibration`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

# Rows that are solved for at a time; bounds memory.
ROWS = 16
# From this rank on, entry by entry is faster than a product of matrices that are rank times wider:
# on one core, 100 rounds and 100 units at rank 8 .66 s against .54, at 20 .73 against 1.33; with
# 300 units at rank 100 7 s against 62. So many rows at a time then, whose sums stay in the caches.
HIGH_RANK, ROWS_AT_HIGH_RANK = 16, 4


def solve_rows(seen: jax.Array, scales: jax.Array, spaces: jax.Array) -> jax.Array:
    """Find the factors of each row that lose least outside of the row spaces.

    Args:
        seen: rows [row, round, unit].
        scales: a guess at their factors, [row, unit].
        spaces: orthonormal, [round, unit, rank].

    Returns:
        [row, unit]; 0 for units that a row has never seen.
    """
    rounds, units, rank = spaces.shape
    if rank >= HIGH_RANK and units <= rounds * rank:
        leading, batch = partial(_leading_by_rounds, spaces @ spaces.mT), ROWS_AT_HIGH_RANK
    else:
        leading, batch = partial(_leading_by_products, spaces), ROWS
    return lax.map(partial(_solve_row, leading), (seen, scales), batch_size=batch)


def _solve_row(leading, row):
    seen, scales = row
    size = jnp.sqrt(jnp.sum(seen**2, axis=0))
    known = size > 0
    seen = jnp.where(known[None], seen / jnp.where(known, size, 1)[None], 0)
    start = scales * size
    found = leading(seen, start)
    found = jnp.abs(jnp.where(jnp.isfinite(found).all(), found, start))
    return jnp.where(known, found / jnp.where(known, size, 1), 0)


def _leading_by_rounds(projections, seen, start):
    """The leading eigenvector, of the sum over rounds as it stands."""

    def add(total, of_round):
        y, projection = of_round
        return total + (y[:, None] * y[None]) * projection, None

    zero = jnp.zeros(projections.shape[1:], seen.dtype)
    product, _ = lax.scan(add, zero, (seen, projections))
    return _leading(product, start)


def _leading_by_products(spaces, seen, start):
    """The same as the leading left singular vector of a matrix, on the smaller of its products."""
    within = jnp.swapaxes(seen[:, :, None] * spaces, 0, 1).reshape(seen.shape[1], -1)
    if within.shape[0] <= within.shape[1]:
        return _leading(within @ within.T, start)
    return within @ _leading(within.T @ within, start @ within)


def _leading(product, found):
    """The eigenvector of the largest eigenvalue, which is next to 1, by inverse iteration."""
    # A little more than 1, or the matrix would be singular where the fit is perfect.
    matrix = (1 + 1e-9) * jnp.eye(len(product), dtype=product.dtype) - product
    factor = jnp.linalg.cholesky(matrix), True
    for _ in range(3):
        found = jax.scipy.linalg.cho_solve(factor, found)
        found /= size_of(jnp.linalg.norm(found))
    return found


def root_share(part: jax.Array, whole: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The root of a part's share, both summed over axes."""
    return jnp.sqrt(jnp.sum(part, axis=axes) / size_of(jnp.sum(whole, axis=axes)))


def evened(gradients: jax.Array) -> jax.Array:
    """Gradients [round, row, unit] in which no bright pixel and no unit of large ones decides.

    Each row is brought to a root mean square of 1 over all rounds, then each unit's column in each
    round to a norm of 1; what is zero stays so.
    """
    return even_columns(gradients / row_sizes(gradients)[None])


def row_sizes(gradients: jax.Array) -> jax.Array:
    """Root mean square of each row over all rounds [row, 1], 1 where it is zero."""
    return size_of(jnp.sqrt(jnp.mean(gradients**2, axis=(0, 2))))[:, None]


def even_columns(gradients: jax.Array) -> jax.Array:
    """Gradients [..., row, unit] with each unit's column brought to a norm of 1, if it has any."""
    return gradients / size_of(jnp.sqrt(jnp.sum(gradients**2, axis=-2, keepdims=True)))


def size_of(x: jax.Array) -> jax.Array:
    """A size to divide by: 1 where there is none."""
    return jnp.where(x > 0, x, 1)
