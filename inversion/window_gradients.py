"""Gradients behind the observations of a window: the ratio undone, and calibrated."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from calibration import calibrate
from drift import follow_drift
from jax import lax
from ratio import Decay, differences, follow, rounding_of
from row_factors import even_columns, row_sizes, size_of
from threat_model import WindowView, layer_params

from fl.simulation.algorithms import MOMENTS

PyTree = Any

# Of numbers in single precision, relative to the larger ones among those with the same exponent.
SPACING = 2.0**-23


def gradients_behind(view: WindowView) -> int:
    """Number of gradients behind an observation: one for each client and local step."""
    return view.mixed * view.public.local_steps


def images_behind(view: WindowView) -> int:
    """Number of images behind an observation."""
    return gradients_behind(view) * view.public.batch


def is_one_ratio(view: WindowView) -> bool:
    """Whether an observation is one ratio, which can be undone, and nothing added to it."""
    public = view.public
    return not public.noisy and (view.mixed == 1 or public.algorithm.sends == MOMENTS)


def layer_gradients(view: WindowView, path: tuple[str, ...]) -> jax.Array:
    """Gradients of a dense layer, up to a gain for each row.

    Args:
        view: of one ratio, see `is_one_ratio`.
        path: of the layer.

    Returns:
        [round, row, unit], the bias as the last row, of the rounds that can be undone.

    Raises:
        calibration.CannotCalibrateError: where the rank says nothing.
    """
    rank = images_behind(view)
    layer, sent = (layer_params(tree, path) for tree in (view.observations, view.params))
    y = _with_bias(*(follow_leaf(view, layer[name], sent[name]) for name in ("kernel", "bias")))
    scales = calibrate(y, rank).scales
    # Of a single gradient, an observation is undone without an error that would add up.
    return y * (scales[None] if gradients_behind(view) == 1 else follow_drift(y, rank, scales))


@partial(jax.jit, static_argnames="rank")
def beyond_rank(gradients: jax.Array, rank: int) -> jax.Array:
    """Tell how wrong gradients are: the share of each round's, in norm, that is beyond the rank.

    Where a round's gradients are small beside those of other rounds, rounding is large beside them.

    Args:
        gradients: [round, row, unit], as of `layer_gradients`.
        rank: of a round's gradient at most.

    Returns:
        [round], from 0 to 1; 0 where there is no gradient.
    """
    rows = row_sizes(gradients)

    def of_round(gradient):  # one after the other, so that there is no second copy of all
        gradient = even_columns(gradient / rows)
        squares = jnp.linalg.eigvalsh(gradient.T @ gradient)  # the largest come last
        beyond = jnp.maximum(squares[: max(0, len(squares) - rank)].sum(), 0)
        return jnp.sqrt(beyond / size_of(squares.sum()))

    return lax.map(of_round, gradients)


def follow_leaf(view: WindowView, leaf: jax.Array, sent: jax.Array) -> jax.Array:
    """Gradients of a leaf of what is observed, up to a factor for each entry.

    Args:
        view: what the server holds.
        leaf: of `view.observations`, [round, ...].
        sent: the same of `view.params`.

    Returns:
        In double precision, of the rounds that can be undone: see `ratio.follow`.
    """
    public, steps = view.public, view.public.local_steps
    ratios = jnp.asarray(leaf, float) / public.sent_rate
    if not is_one_ratio(view):
        return differences(ratios, view.first, Decay.of_round(steps), steps)
    relative, absolute = rounding_of(ratios)
    if public.algorithm.sends != MOMENTS:  # an update is a difference of rounded parameters
        absolute = SPACING * jnp.abs(jnp.asarray(sent, float)) / public.sent_rate
    kappa = float(gradients_behind(view))
    return follow(ratios, view.first, Decay.of_round(steps), steps, kappa, (relative, absolute))


def layer_rows(tree: PyTree, path: tuple[str, ...], rounds: slice = slice(None)) -> jax.Array:
    """A dense layer's kernel with the bias as one more row, [round, row, unit]."""
    layer = layer_params(tree, path)
    return _with_bias(*(jnp.asarray(layer[name][rounds], float) for name in ("kernel", "bias")))


def _with_bias(kernel, bias):
    """One array of both, [round, row, unit]."""
    return jnp.concatenate([kernel, bias[:, None]], axis=1)
