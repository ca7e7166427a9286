"""Exact inversion of a dense first layer before a ReLU: every image of a minibatch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from disaggregation import disaggregate
from gradient_matching import matcher
from optimise import Problem
from threat_model import PublicKnowledge, layer_params


def exact(public: PublicKnowledge) -> Problem:
    """Tell the minibatch's images apart (SPEAR: Dimitrov et al. 2024, arXiv:2403.03945).

    See `disaggregate`: where `analytic` finds the images that alone activate some neuron, this
    finds all whose derivatives stand out of the rounding of the observation, up to that rounding.
    The learning rate cancels. Of SecAdam's first observation, which has the signs of the gradient
    alone, and of aggregates, which hold more images than can be told apart, it leaves what
    `analytic` leaves.

    The images come in no particular order: the labels play no part.

    Raises:
        ValueError: for a model whose first layer is not dense, or is the last one, so that no ReLU
            follows.
    """
    layers = public.layers()
    path, layer = layers[0]
    name = type(public.model).__name__
    if layer is not nn.Dense:
        raise ValueError(
            f"the exact attack needs a model whose first layer is dense, which that of {name} is "
            f"not: it is of type {layer.__name__}"
        )
    if len(layers) == 1:
        raise ValueError(
            f"the exact attack needs a model whose first layer is followed by a ReLU, which that "
            f"of {name} is not: it is the last"
        )
    match = matcher(public)

    def init(key, observation, params, labels):
        # In single precision, rounding here would exceed that of the observation.
        with jax.enable_x64(True):
            images = disaggregate(
                _rows(observation, path),
                public.batch,
                key,
                bounded=True,
                weights=_rows(params, path),
            ).images
        return images.astype(jnp.float32).reshape(-1, *public.image_shape)

    def loss(images, observation, params, labels):
        return match(params, images, labels, observation).cosine_distance()

    return Problem(init, loss, optax.identity(), steps=0, in_turn=True)


def _rows(tree, path):
    """A dense layer's kernel with the bias as one more row, in double precision."""
    layer = layer_params(tree, path)
    return jnp.concatenate([layer["kernel"], layer["bias"][None]]).astype(jnp.float64)
