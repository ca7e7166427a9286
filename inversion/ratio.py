"""Undoing SecAdam's ratio: from the ratios of some rounds to gradients, up to a factor an entry.

A server that knows Adam's decay rates and the number of the round takes the bias correction off
what it sees, u_t, and has r_t = m_t / sqrt(v_t), the ratio of the raw moments. With the decays
b1 and b2 of a whole round, Adam's recurrences divided by the root of v_(t-1) read

    r_t = (b1 r_(t-1) + (1 - b1) x_t) / sqrt(b2 + kappa (1 - b2) x_t^2),
    x_t = g_t / sqrt(v_(t-1)),

where g_t is the mean gradient and kappa the mean of squared gradients over the square of the mean
one. That is a quadratic equation for x_t. And since v_t = v_(t-1) (b2 + kappa (1 - b2) x_t^2), the
scale of an entry is known in all rounds once it is in one.

kappa is 1 for a client's own ratio of one local step, where all of this is exact. Of an aggregate
of n clients it is not known; n is right wherever a single client's gradient is not zero.

==================  ============================================================================
entry               what is made of it
==================  ============================================================================
no gradient so far  r is 0 before and after: x = 0, and the scale is not known yet
its first gradient  r_t = +-(1 - b1) / sqrt(kappa (1 - b2)), whatever g_t is: |g_t| is the scale
no gradient now     r_t = b1 r_(t-1) / sqrt(b2) up to rounding: x = 0
|x| > (1 - b1) b2 / (b1 |r_(t-1)| kappa (1 - b2)): two gradients give the same ratio, and the
                    smaller one is taken. So large a gradient is common in the first rounds alone.
==================  ============================================================================
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fl.simulation.algorithms import B1, B2

# Difference of r_t from b1 r_(t-1) / sqrt(b2), relative to r_t, that rounding explains; of ratios
# in single precision, and of ratios of fewer bits with the smallest that is possible.
ROUNDING = 2e-6
ROUNDINGS = {jnp.float16: (2.0**-10, 2.0**-24), jnp.bfloat16: (2.0**-7, 0.0)}
# Smaller x are rounding, or ratios that have decayed to what single precision cannot hold.
SMALLEST = 1e-6


class Decay(NamedTuple):
    """Adam's decays over a round, as single precision has them.

    Attributes:
        m: b1, of the first moment.
        v: b2, of the second moment.
    """

    m: float
    v: float

    @classmethod
    def of_round(cls, local_steps: int) -> "Decay":
        """The decays over the steps of a round, at least 1."""
        return cls(*(float(np.float32(decay)) ** local_steps for decay in (B1, B2)))


def raw_ratios(ratios: jax.Array, counts: np.ndarray) -> jax.Array:
    """Take Adam's bias correction off ratios.

    Args:
        ratios: m / sqrt(v) of the bias-corrected moments, [round, ...].
        counts: Adam's steps up to each round, at least 1; int [round].
    """
    m, v = corrections(counts)
    shape = (-1, *(1,) * (ratios.ndim - 1))
    return ratios * jnp.asarray(m / np.sqrt(v), ratios.dtype).reshape(shape)


def corrections(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adam's bias corrections 1 - b1^t and 1 - b2^t at some steps, in single precision.

    Of the second, single precision loses digits at first: where a client's processor rounds
    otherwise, the first rounds' gradients are off by up to 6e-5 of their size.
    """
    with jax.enable_x64(False), jax.ensure_compile_time_eval():
        counts = jnp.asarray(counts, jnp.int32)
        return tuple(np.asarray(1 - decay**counts, float) for decay in (B1, B2))


def rounding_of(ratios: jax.Array) -> tuple[float, float]:
    """See by the ratios what they have been rounded to -> relative and absolute difference."""
    for dtype, rounding in ROUNDINGS.items():
        if bool(jnp.all(ratios.astype(dtype).astype(ratios.dtype) == ratios)):
            return rounding
    return ROUNDING, 0.0


def solve(
    before: jax.Array,
    after: jax.Array,
    decay: Decay,
    kappa: float = 1.0,
    error: tuple[float | jax.Array, float | jax.Array] = (ROUNDING, 0.0),
) -> jax.Array:
    """Solve for x = g_t / sqrt(v_(t-1)), the root of the smaller magnitude.

    Args:
        before: r_(t-1), raw.
        after: r_t, raw.
        decay: of a round.
        kappa: mean of squared gradients over the square of the mean one, at least 1.
        error: difference of r_t from what it is without a gradient that is no evidence of one,
            relative to r_t and absolute.

    Returns:
        x, shaped as the ratios; 0 where no gradient explains them.
    """
    a, c, b2, d = decay.m * before, 1 - decay.m, decay.v, kappa * (1 - decay.v)
    root = after * jnp.sqrt(jnp.maximum(d * a**2 + c**2 * b2 - after**2 * d * b2, 0))
    # Two forms of the same root, each where it does not cancel.
    same_sign = _quotient(after**2 * b2 - a**2, a * c + root)
    x = jnp.where(a * after > 0, same_sign, _quotient(root - a * c, c**2 - after**2 * d))
    relative, absolute = error
    at_rest = jnp.abs(after - a / jnp.sqrt(b2)) <= relative * jnp.abs(after) + absolute
    return jnp.where(at_rest | (jnp.abs(x) < SMALLEST), 0, x)


@partial(jax.jit, static_argnames=("first", "decay", "local_steps", "kappa"))
def follow(
    ratios: jax.Array,
    first: int,
    decay: Decay,
    local_steps: int = 1,
    kappa: float = 1.0,
    error: tuple[float, jax.Array | float] = (ROUNDING, 0.0),
) -> jax.Array:
    """Follow entries over rounds: their gradients up to a factor that stays the same.

    Args:
        ratios: [round, ...], as the server sees them.
        first: number of the first of these rounds, at least 1.
        decay: of a round.
        local_steps: of a round, at least 1.
        kappa: see `solve`.
        error: of what the server sees, as in `solve`; the absolute one of each entry [round, ...],
            of a round [round], or one for all.

    Returns:
        y [round - 1, ...], of the rounds from the second on, or [round, ...] from round 1 on: the
        gradient over the root of v before the second round, or over the entry's first gradient
        where it had none before. 0 where there is no gradient.
    """
    rest, counts = jnp.sqrt(kappa * (1 - decay.v)), local_steps * (first + np.arange(len(ratios)))
    raw, (relative, absolute) = raw_ratios(ratios, counts), error
    absolute = jnp.asarray(absolute, raw.dtype)
    absolute = raw_ratios(absolute if absolute.ndim else jnp.full(len(raw), absolute), counts)
    if first == 1:  # before it, there were no moments
        raw = jnp.concatenate([jnp.zeros_like(raw[:1]), raw])

    def step(carry, seen):
        (before, scale), (after, absolute) = carry, seen
        x = solve(before, after, decay, kappa, (relative, absolute))
        grown = scale * jnp.sqrt(decay.v + kappa * (1 - decay.v) * x**2)
        wakes = (scale == 0) & (after != 0)
        y = jnp.where(wakes, jnp.sign(after), x * scale)
        return (after, jnp.where(wakes, rest, grown)), y

    awake = jnp.where(raw[0] != 0, 1.0, 0.0)
    seen = raw[1:], absolute[-len(raw[1:]) :]
    _, y = jax.lax.scan(step, (raw[0], awake.astype(raw.dtype)), seen)
    return y


def differences(ratios: jax.Array, first: int, decay: Decay, local_steps: int = 1) -> jax.Array:
    """Take gradients for what moves the ratios of two rounds, at a scale that stays the same.

    For what `follow` cannot undo. Noise, it would grow beyond all bounds; where second moments
    count as no less than a floor, the scale is the root of the floor for all entries below it. And
    a mean of several clients' ratios has no scale of its own.

    Args:
        ratios: [round, ...], as the server sees them.
        first: number of the first of these rounds, at least 1.
        decay: of a round.
        local_steps: of a round, at least 1.

    Returns:
        y, as `follow` has them; the factor of an entry is the root of what v counts as.
    """
    correction, _ = corrections(local_steps * (first + np.arange(len(ratios))))
    shape = (-1, *(1,) * (ratios.ndim - 1))
    raw = ratios * jnp.asarray(correction, ratios.dtype).reshape(shape)
    if first == 1:
        raw = jnp.concatenate([jnp.zeros_like(raw[:1]), raw])
    return (raw[1:] - decay.m * raw[:-1]) / (1 - decay.m)


def _quotient(numerator, denominator):
    zero = denominator == 0
    return jnp.where(zero, 0, numerator / jnp.where(zero, 1, denominator))
