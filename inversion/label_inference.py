"""Label inference: the labels that a server reads off what a client sent."""

from typing import Any

import jax
import jax.numpy as jnp
from threat_model import layer_params

PyTree = Any


def infer_labels(observation: PyTree, batch: int) -> jax.Array:
    """Read a minibatch's labels off an observation (Yin et al. 2021, arXiv:2104.07586, eq. 7).

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
