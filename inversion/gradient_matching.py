"""How well the gradient at some images matches an observation: what most attacks minimise."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from threat_model import PublicKnowledge, layer_params

from fl.simulation.training import sample_losses


class Match(NamedTuple):
    """Scalar products of the gradient g at some images and the observation o.

    Attributes:
        gradient: <g, g>.
        both: <g, o>.
        observation: <o, o>.
    """

    gradient: jax.Array
    both: jax.Array
    observation: jax.Array

    def squared_distance(self, rate: float) -> jax.Array:
        """|g - o / rate|^2, at least 0 but for rounding."""
        return self.gradient - 2 * self.both / rate + self.observation / rate**2

    def cosine_distance(self) -> jax.Array:
        """1 - <g, o> / (|g| |o|), in [0, 2]; 1 where either is zero."""
        # Smaller ones would overflow the derivative, whose power is -3/2.
        scale = [jax.lax.rsqrt(jnp.maximum(x, 1e-24)) for x in (self.gradient, self.observation)]
        return 1 - self.both * scale[0] * scale[1]


def matcher(public: PublicKnowledge) -> Callable:
    """Return the cheapest way of matching for a model.

    Returns:
        (params, images [batch, height, width, channels], labels [batch], observation) -> `Match`
        with the gradient of the mean loss with respect to params.
    """
    layers, losses = public.layers(), sample_losses(public.model, public.clipped_loss)
    if all(layer is nn.Dense for _, layer in layers):
        return partial(_match_dense, losses, [path for path, _ in layers])
    return partial(match_gradient, losses)


def match_gradient(losses: Callable, params, images, labels, observation) -> Match:
    """Match by way of the gradient itself; for any model."""
    gradient = jax.grad(lambda p: losses(p, images, labels).mean())(params)
    return Match(
        optax.tree.norm(gradient, squared=True),
        optax.tree.vdot(gradient, observation),
        optax.tree.norm(observation, squared=True),
    )


def _match_dense(losses, paths, params, images, labels, observation):
    """Match without ever forming the gradient, which has far more entries than the images.

    With inputs X [batch, in] and loss derivatives D [batch, out] at its outputs, a dense layer has
    the gradients X'D and 1'D. Then <X'D, O> = <X O, D> and |X'D|^2 = <X X', D D'> (Goodfellow
    2015, arXiv:1510.01799).
    """
    inputs, derivatives = _inputs_and_derivatives(losses, paths, params, images, labels)
    squares, products = [], []
    for path in paths:
        x, d, sent = inputs[path], derivatives[path], layer_params(observation, path)
        squares.append(jnp.sum((x @ x.T + 1) * (d @ d.T)))
        products.append(jnp.sum((x @ sent["kernel"]) * d) + d.sum(0) @ sent["bias"])
    return Match(sum(squares), sum(products), optax.tree.norm(observation, squared=True))


def _inputs_and_derivatives(losses, paths, params, images, labels):
    """Each dense layer's inputs, and the mean loss's derivatives at its outputs, by path."""

    def loss(shifts):
        inputs = {}

        def watch(call, args, kwargs, context):
            output = call(*args, **kwargs)
            path = context.module.path
            if path not in shifts:
                return output
            inputs[path] = args[0]
            return output + shifts[path]

        with nn.intercept_methods(watch):
            return losses(params, images, labels).mean(), inputs

    shifts = {
        path: jnp.zeros((len(images), *layer_params(params, path)["bias"].shape), images.dtype)
        for path in paths
    }
    derivatives, inputs = jax.grad(loss, has_aux=True)(shifts)
    return inputs, derivatives
