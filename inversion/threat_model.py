"""What an attacker knows: all that an attack is given.

The server is honest but curious. True images and labels have no way in: they are for `scores`
alone.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from fl.simulation.algorithms import MOMENTS, Algorithm

PyTree = Any


class PublicKnowledge(NamedTuple):
    """What everyone knows, the server included.

    Attributes:
        model: the architecture, without its parameters.
        image_shape: (height, width, channels).
        batch: images behind an observation, at least 1. Behind an aggregate there are more than
            anyone could reconstruct: there it says how many to look for.
        algorithm: what clients and server do.
        local_steps: of a client in a round, at least 1, each on a minibatch of its own.
        levels: steps of intensity between black and white in which images are stored.
        noisy: whether messages have noise, and SecAdam's second moments a floor for it.
        clipped_loss: see `fl.simulation.training.sample_losses`.
    """

    model: nn.Module
    image_shape: tuple[int, int, int]
    batch: int
    algorithm: Algorithm
    local_steps: int = 1
    levels: int = 255
    noisy: bool = False
    clipped_loss: bool = False

    @property
    def sent_rate(self) -> float:
        """What a client multiplies its gradient, or what stands for it, by before sending it."""
        return 1.0 if self.algorithm.sends == MOMENTS else self.algorithm.client_rate

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


class AttackerView(NamedTuple):
    """What an attacker holds when it sets out.

    Attributes:
        observations: shaped like params, with a leading axis [client, ...]. Of clients that send
            updates, w - w_i; of SecAdam's, m_i / sqrt(v_i).
        params: the global parameters w that the clients started from.
        public: what everyone knows.
    """

    observations: PyTree
    params: PyTree
    public: PublicKnowledge


class WindowView(NamedTuple):
    """What an attacker who watches a client, or the aggregate, over some rounds holds of it.

    Attributes:
        observations: [round, ...], shaped like params otherwise; as in `AttackerView`.
        params: the global parameters that the clients started from in each round, [round, ...].
        first: number of the first of these rounds, at least 1.
        mixed: number of clients behind each observation: 1 for a client's own messages.
        public: what everyone knows.
    """

    observations: PyTree
    params: PyTree
    first: int
    mixed: int
    public: PublicKnowledge


def layer_params(tree: PyTree, path: tuple[str, ...]) -> dict[str, jax.Array]:
    """Find a layer's part, such as {"kernel": ..., "bias": ...}, in what is shaped like params."""
    part = tree["params"]
    for name in path:
        part = part[name]
    return part
