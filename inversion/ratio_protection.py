"""What may be done to SecAdam's ratio before the server sees it.

Whoever forms the ratio sends fewer bits of each entry, or adds noise. The server steps along what
it gets. None of it comes with a guarantee of privacy: `adaptive` measures what is left to find.
"""

import math
from argparse import ArgumentTypeError
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any

NONE, NOISE = "none", "noise"
# Steps of 8 bits on each side of zero.
STEPS = 127


class Protection(NamedTuple):
    """Something that is done to ratios.

    Attributes:
        title: in tables and plots.
        bits: sent for each entry.
        apply: (ratio, key) -> ratio, both shaped like params; can be compiled.
    """

    title: str
    bits: int
    apply: Callable[[PyTree, jax.Array], PyTree]


def rounded(dtype: Any, ratio: PyTree, key: jax.Array) -> PyTree:
    """Round every entry to the nearest number of a smaller type."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype).astype(leaf.dtype), ratio)


def stochastic_int8(ratio: PyTree, key: jax.Array) -> PyTree:
    """Round every entry to one of two neighbouring steps, so that it is right on average.

    A step is a 127th of the largest magnitude of the leaf, which is sent along.
    """

    def round_leaf(leaf, key):
        step = jnp.abs(leaf).max() / STEPS
        scaled = leaf / jnp.where(step > 0, step, 1)
        return step * jnp.floor(scaled + jax.random.uniform(key, leaf.shape, leaf.dtype))

    return _with_keys(round_leaf, ratio, key)


def signs(ratio: PyTree, key: jax.Array) -> PyTree:
    """Keep the sign alone: 1, 0 or -1."""
    return jax.tree.map(jnp.sign, ratio)


def noisy(deviation: float, ratio: PyTree, key: jax.Array) -> PyTree:
    """Add Gaussian noise of a standard deviation to every entry."""

    def add(leaf, key):
        return leaf + deviation * jax.random.normal(key, leaf.shape, leaf.dtype)

    return _with_keys(add, ratio, key)


def _with_keys(function, tree, key):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, map(function, leaves, keys))


PROTECTIONS = {
    "float16": Protection("16 bits", 16, partial(rounded, jnp.float16)),
    "bfloat16": Protection("16 bits (bfloat)", 16, partial(rounded, jnp.bfloat16)),
    "int8": Protection("8 bits, stochastic", 8, stochastic_int8),
    "sign": Protection("Sign", 2, signs),
}


# The same name gives the same function, so that runs share compiled code.
@lru_cache
def protection(name: str) -> Protection:
    """Find a protection by its name, or noise by its deviation, such as `noise=0.1`.

    Raises:
        ValueError: for another name, or a deviation that is not a number above 0.
    """
    kind, equals, text = name.partition("=")
    if kind != NOISE or not equals:
        if name not in PROTECTIONS:
            choices = ", ".join([NONE, *PROTECTIONS, f"{NOISE}=DEVIATION"])
            raise ValueError(f"unknown {name!r}: choose from {choices}")
        return PROTECTIONS[name]
    try:
        deviation = float(text)
    except ValueError:
        deviation = math.nan
    if not 0 < deviation < math.inf:
        raise ValueError(f"{name!r}: the deviation of noise is a number above 0")
    return Protection(f"Noise of {deviation:g}", 32, partial(noisy, deviation))


def protection_name(text: str) -> str:
    """An argument type for the name of a protection, or `NONE`."""
    if text != NONE:
        try:
            protection(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from error
    return text
