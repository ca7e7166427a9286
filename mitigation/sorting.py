"""Sorting many short columns, fast: what a median over clients needs for every entry of a message.

XLA compares one pair of numbers after the other on CPU. A sorting network compares whole rows, and
so runs at the speed of `minimum` and `maximum`: 15 times as fast for 100 clients (`python
bench.py`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# Columns that pass through the network together: as many as the caches of a CPU hold.
BLOCK = 4096


def reduce_sorted(leaf: jax.Array, reduce: Callable) -> jax.Array:
    """Sort along the leading axis, by a bitonic network (Batcher 1968), and reduce the result.

    Args:
        leaf: float [client, ...]. A NaN makes all of its column NaN.
        reduce: (rows [client, column], each column in ascending order) -> [column].

    Returns:
        What `reduce` makes of the columns, [...].
    """
    columns = leaf.reshape(len(leaf), -1)
    entries = columns.shape[1]
    width = min(BLOCK, entries)

    def block(number, reduced):
        # The last one begins early, where it would reach past the end.
        start = jnp.minimum(number * width, entries - width)
        rows = lax.dynamic_slice_in_dim(columns, start, width, axis=1)
        return lax.dynamic_update_slice(reduced, reduce(_network(rows)), (start,))

    empty = jnp.zeros(entries, leaf.dtype)
    return lax.fori_loop(0, -(-entries // width), block, empty).reshape(leaf.shape[1:])


def _network(rows):
    """Sort rows [client, column] by comparing pairs of rows that are `distance` apart."""
    clients, columns = rows.shape
    size = 1 << (clients - 1).bit_length()
    # Filling is larger than all else, and so ends up last.
    rows = jnp.pad(rows, ((0, size - clients), (0, 0)), constant_values=jnp.inf)
    merged = 1
    while merged < size:
        # Two sorted runs, the second one backwards, are first compared end to end.
        pairs = rows.reshape(-1, 2, merged, columns)
        low, high = _compare(pairs[:, 0], pairs[:, 1, ::-1])
        rows = jnp.stack([low, high[:, ::-1]], axis=1).reshape(size, columns)
        distance = merged // 2
        while distance >= 1:
            pairs = rows.reshape(-1, 2, distance, columns)
            rows = jnp.stack(_compare(pairs[:, 0], pairs[:, 1]), axis=1).reshape(size, columns)
            distance //= 2
        merged *= 2
    return rows[:clients]


def _compare(one, other):
    return jnp.minimum(one, other), jnp.maximum(one, other)
