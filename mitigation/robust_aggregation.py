"""Robust aggregation: what a server may put in place of the mean of its clients' messages.

Each rule takes messages stacked [client, ...], pytrees of any structure, and gives one message. So
each needs the clients' messages in the clear, which secure aggregation denies the server: a
federation that uses one of them gives up the privacy that SecAdam promises. Norm bounding is the
exception that clients could apply themselves, if they were trusted to.

=================  ===============================================================================
median             coordinate-wise median (Yin et al. 2018, arXiv:1803.01498)
trimmed_mean       coordinate-wise trimmed mean (ibid.)
multi_krum         mean of the messages closest to others (Blanchard et al. 2017, arXiv:1703.02757)
norm_bounding      mean of messages scaled down to a norm (Sun et al. 2019, arXiv:1911.07963)
geometric_median   RFA (Pillutla et al. 2022, arXiv:1912.13445)
foolsgold          less weight for clients alike over rounds (Fung et al. 2020, arXiv:1808.04866)
=================  ===============================================================================
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from sorting import reduce_sorted

from fl.simulation.rounds import Aggregator

# RFA's smoothing and number of Weiszfeld steps, as its authors have them.
RFA_SMOOTHING = 1e-6
RFA_STEPS = 3
# FoolsGold's confidence, by which weights are spread towards 0 and 1.
FOOLSGOLD_CONFIDENCE = 1.0


def median() -> Aggregator:
    """Coordinate-wise median; of an even number, the mean of the middle two."""

    def middle(rows):
        return rows[(len(rows) - 1) // 2 : len(rows) // 2 + 1].mean(0)

    return _forgetful(partial(jax.tree.map, partial(reduce_sorted, reduce=middle)))


def trimmed_mean(trimmed: int) -> Aggregator:
    """Coordinate-wise mean without the largest and the smallest entries.

    Args:
        trimmed: how many entries to leave out at either end, at least 0. Of n clients, less than
            half must be: `aggregate` raises ValueError otherwise.
    """
    _check_count("trimmed", trimmed)

    def aggregate(messages):
        clients = _count(messages)
        _check_clients(clients, trimmed_mean_clients(trimmed))
        kept = slice(trimmed, clients - trimmed)
        inner = partial(reduce_sorted, reduce=lambda rows: rows[kept].mean(0))
        return jax.tree.map(inner, messages)

    return _forgetful(aggregate)


def multi_krum(adversaries: int) -> Aggregator:
    """Mean of the n - f messages of the smallest scores, for n clients of which f are adversaries.

    A message's score is the sum of its squared distances to the n - f - 2 closest others.

    Args:
        adversaries: the number f, at least 0. Krum's guarantee needs n >= 2 f + 3: `aggregate`
            raises ValueError for fewer clients.
    """
    _check_count("adversaries", adversaries)

    def aggregate(messages):
        clients = _count(messages)
        _check_clients(clients, multi_krum_clients(adversaries))
        distances = _squared_distances(messages)
        # Each message's first distance is that to itself.
        closest = jnp.sort(distances, axis=1)[:, 1 : clients - adversaries - 1]
        chosen = jnp.argsort(closest.sum(1))[: clients - adversaries]
        # Several times as fast as picking messages out and averaging them.
        weights = jnp.zeros(clients).at[chosen].set(1 / (clients - adversaries))
        return _weighted_sum(messages, weights)

    return _forgetful(aggregate)


def trimmed_mean_clients(trimmed: int) -> int:
    """How many clients leave something to a trimmed mean."""
    return 2 * trimmed + 1


def multi_krum_clients(adversaries: int) -> int:
    """How many clients Krum's guarantee needs."""
    return 2 * adversaries + 3


def norm_bounding(bound: float) -> Aggregator:
    """Mean of the messages, each scaled down to a norm.

    Args:
        bound: largest L2 norm of a message, above 0.
    """
    if not bound > 0:
        raise ValueError(f"bound must be above 0, got {bound}")

    def aggregate(messages):
        norms = jnp.sqrt(_sum_squares(messages))
        return _weighted_sum(messages, bound / jnp.maximum(norms, bound) / len(norms))

    return _forgetful(aggregate)


def geometric_median(smoothing: float = RFA_SMOOTHING, steps: int = RFA_STEPS) -> Aggregator:
    """Robust federated averaging: the point of the smallest sum of distances to all messages.

    Found by the smoothed Weiszfeld algorithm (Pillutla et al. 2022, algorithm 2), from the mean.

    Args:
        smoothing: distances below it count as it, above 0.
        steps: how often messages are weighed anew, at least 1. Where the mean is far off, more
            than the authors' three come closer to the median.
    """
    if not smoothing > 0:
        raise ValueError(f"smoothing must be above 0, got {smoothing}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")

    def aggregate(messages):
        clients = _count(messages)
        weights = jnp.full(clients, 1 / clients)
        for _ in range(steps):
            center = _weighted_sum(messages, weights)
            distances = jnp.sqrt(_sum_squares(_less(messages, center)))
            weights = 1 / jnp.maximum(distances, smoothing)
            weights /= weights.sum()
        return _weighted_sum(messages, weights)

    return _forgetful(aggregate)


def foolsgold(confidence: float = FOOLSGOLD_CONFIDENCE) -> Aggregator:
    """Weigh clients by how unlike one another their messages have been, summed over all rounds.

    Algorithm 1 of Fung et al. 2020, with every entry of the messages counting alike. It gives a
    mean of the clients by these weights, where the paper adds the weighted messages up: its server
    would step further, the more clients there are. Memory: the sum of each client's messages.

    Args:
        confidence: kappa, above 0.
    """
    if not confidence > 0:
        raise ValueError(f"confidence must be above 0, got {confidence}")

    def init(message, clients):
        return jax.tree.map(lambda leaf: jnp.zeros((clients, *leaf.shape), leaf.dtype), message)

    def aggregate(messages, history):
        history = jax.tree.map(jnp.add, history, messages)
        weights = _foolsgold_weights(_cosines(history), confidence)
        # Where nobody is trusted nothing is learned.
        weights /= jnp.maximum(weights.sum(), jnp.finfo(weights.dtype).tiny)
        return _weighted_sum(messages, weights), history

    return Aggregator(init, aggregate)


def _foolsgold_weights(cosines, confidence):
    """Cosine similarities [client, client] -> weights in [0, 1], [client]."""
    # Nobody is compared with themselves, or held to be less than unlike the others.
    cosines = jnp.where(jnp.eye(len(cosines), dtype=bool), 0, cosines)
    largest = cosines.max(1)
    # Pardoning: who resembles somebody more conspicuous is held less to account for it.
    ratio = largest[:, None] / jnp.where(largest == 0, 1, largest)[None]
    pardoned = jnp.where(largest[None] > largest[:, None], cosines * ratio, cosines)
    weights = jnp.clip(1 - pardoned.max(1), 0, 1)
    weights /= jnp.maximum(weights.max(), jnp.finfo(weights.dtype).tiny)
    # The logit is infinite at 0 and at 1; both are cut off below.
    spread = confidence * (jnp.log(weights) - jnp.log1p(-weights) + 0.5)
    return jnp.clip(spread, 0, 1)


def _forgetful(aggregate):
    """An aggregator that remembers nothing."""
    return Aggregator(lambda message, clients: (), lambda messages, _: (aggregate(messages), ()))


def _check_count(name, value):
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value}")


def _check_clients(clients, least):
    if clients < least:
        raise ValueError(f"needs at least {least} clients, got {clients}")


def _count(messages):
    return len(jax.tree.leaves(messages)[0])


def _add(parts):
    return reduce(jnp.add, parts)


def _sum_squares(messages):
    """Squared L2 norm of each message, [client]."""
    leaves = jax.tree.leaves(messages)
    return _add([jnp.sum(leaf**2, axis=tuple(range(1, leaf.ndim))) for leaf in leaves])


def _inner_products(messages):
    """Inner products of all pairs of messages, [client, client]."""
    flat = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(messages)]
    return _add([jnp.matmul(leaf, leaf.T, precision="highest") for leaf in flat])


def _squared_distances(messages):
    """Squared distances of all pairs of messages, [client, client]; 0 of each to itself."""
    # Less what all have in common, of which inner products would lose the differences.
    centered = _less(messages, _mean(messages))
    products = _inner_products(centered)
    squares = jnp.diagonal(products)
    distances = jnp.maximum(squares[:, None] + squares[None] - 2 * products, 0)
    return jnp.where(jnp.eye(len(squares), dtype=bool), 0, distances)


def _cosines(messages):
    """Cosine similarities of all pairs of messages, [client, client]; 0 for a message of zeros."""
    products = _inner_products(messages)
    norms = jnp.sqrt(jnp.diagonal(products))
    return products / jnp.maximum(norms[:, None] * norms[None], jnp.finfo(norms.dtype).tiny)


def _weighted_sum(messages, weights):
    # On CPU a matrix product is several times as fast as a sum over a leading axis; on GPU it is
    # exact only when asked to be.
    return jax.tree.map(partial(jnp.tensordot, weights, axes=1, precision="highest"), messages)


def _mean(messages):
    clients = _count(messages)
    return _weighted_sum(messages, jnp.full(clients, 1 / clients))


def _less(messages, message):
    """Messages, each less the same one."""
    return jax.tree.map(lambda leaf, own: leaf - own[None], messages, message)
