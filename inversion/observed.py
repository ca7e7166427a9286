"""What the server sees of a round, and the labels that it reads off it.

An attack is given nothing but what is defined here. True images and labels have no way in: they
are for `metrics` alone.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

PyTree = Any


class PublicFacts(NamedTuple):
    """What everyone knows, the server included.

    Attributes:
        model: the architecture, without its parameters.
        image_shape: (height, width, channels).
        batch: images behind an observation, at least 1. Behind an aggregate there are more than
            anyone could reconstruct: there it says how many to look for.
        algorithm: canonical name, see `fl.simulation.algorithms.ALGORITHMS`.
        client_rate: the clients' learning rate, above 0.
    """

    model: nn.Module
    image_shape: tuple[int, int, int]
    batch: int
    algorithm: str
    client_rate: float

    def layers(self) -> list[tuple[tuple[str, ...], type]]:
        """List the layers that hold parameters, in the order in which images pass through them.

        Returns:
            (path to the layer's parameters in params["params"], the layer's class) for each.
        """
        called = []

        def record(call, args, kwargs, context):
            called.append((context.module.path, type(context.module)))
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            shapes = jax.eval_shape(
                self.model.init, jax.random.key(0), jnp.zeros((1, *self.image_shape))
            )
        owners = {path[:-1] for path in flatten_dict(shapes["params"])}
        return [(path, layer) for path, layer in called if path in owners]


class Observed(NamedTuple):
    """What the server sees: all that an attack is given.

    Attributes:
        observations: shaped like params, with a leading axis [client, ...]. Of clients that send
            updates, w - w_i; of SecAdam's, m_i / sqrt(v_i).
        params: the global parameters w that the clients started from.
        facts: what is public.
    """

    observations: PyTree
    params: PyTree
    facts: PublicFacts


def layer_params(tree: PyTree, path: tuple[str, ...]) -> dict[str, jax.Array]:
    """Find a layer's part, such as {"kernel": ..., "bias": ...}, in what is shaped like params."""
    part = tree["params"]
    for name in path:
        part = part[name]
    return part


def infer_labels(observation: PyTree, batch: int) -> jax.Array:
    """Read a minibatch's labels off what a client sent (Yin et al. 2021, arXiv:2104.07586, eq. 7).

    The gradient of column c of the classifier's kernel is the mean over the minibatch of
    (p_c - [the label is c]) times the representation, which after a ReLU has no negative entry.
    So only a class that occurs can have a negative entry in its column; classes are ranked by the
    smallest one.

    Args:
        observation: of one client, shaped like params.
        batch: labels to infer, at least 1. Each class is inferred once, or as evenly as possible
            where there are fewer classes than labels.

    Returns:
        labels int32 [batch], in ascending order.
    """
    smallest = layer_params(observation, ("classifier",))["kernel"].min(axis=0)
    return jnp.sort(jnp.resize(jnp.argsort(smallest), batch))
