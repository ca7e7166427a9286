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
BLOCK = 2048


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
    """Sort rows [client, column], each column by itself."""
    clients = len(rows)
    size = 1 << (clients - 1).bit_length()
    # Filling is larger than all else, and so ends up last.
    rows = jnp.pad(rows, ((0, size - clients), (0, 0)), constant_values=jnp.inf)
    run = 1  # so many rows in a row are sorted already
    while run < size:
        rows, distance = _meet(rows, run)
        # Two rounds of comparisons at once, where there are two: fewer passes over memory.
        while distance >= 1:
            at_once = 4 if distance > 1 else 2
            apart = 2 * distance // at_once
            rows = _compare_at(rows, at_once, apart)
            distance = apart // 2
        run *= 2
    return rows[:clients]


def _meet(rows, run):
    """Compare the first sorted run of each pair with the second one, read backwards.

    Returns:
        The rows, and the distance at which to compare them next.
    """
    pairs = rows.reshape(-1, 2, run, rows.shape[-1])
    low, high = _compare(pairs[:, 0], pairs[:, 1, ::-1])
    return jnp.stack([low, high[:, ::-1]], axis=1).reshape(rows.shape), run // 2


def _compare_at(rows, at_once, distance):
    """Compare rows that are `distance` apart; four at once, first those twice as far apart."""
    parts = rows.reshape(-1, at_once, distance, rows.shape[-1])
    parts = [parts[:, number] for number in range(at_once)]
    if at_once == 4:
        (parts[0], parts[2]), (parts[1], parts[3]) = (
            _compare(parts[number], parts[number + 2]) for number in (0, 1)
        )
    sorted_parts = [
        part
        for number in range(0, at_once, 2)
        for part in _compare(parts[number], parts[number + 1])
    ]
    return jnp.stack(sorted_parts, axis=1).reshape(rows.shape)


def _compare(one, other):
    return jnp.minimum(one, other), jnp.maximum(one, other)
