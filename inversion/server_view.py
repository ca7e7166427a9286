"""What leaves the clients in one more step, and the truth behind it.

The two are kept apart: attacks are given `Observation.clients` or `.aggregate`, scores alone are
given `Truth`.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fl.data.sampling import Schedule
from fl.simulation import engine, pgd, processes
from fl.simulation.algorithms import Algorithm, Moments
from fl.simulation.engine import Federation
from fl.simulation.rounds import Aggregator, State, Work, next_key
from fl.simulation.training import Samples

PyTree = Any


class Observation(NamedTuple):
    """What the server would see.

    Attributes:
        params: the global parameters w that the clients started from.
        clients: what each client's message shows on its own, stacked [client, ...]: w - w_i, or
            m_i / sqrt(v_i) in SecAdam.
        aggregate: what the mean of the messages shows: under secure aggregation, this alone. In
            SecAdam it is the ratio of means, which is not the mean of ratios.
    """

    params: PyTree
    clients: PyTree
    aggregate: PyTree

    def scaled(self, factor: float) -> "Observation":
        """What messages show times a factor, the parameters as they are."""
        return self._replace(
            clients=optax.tree.scale(factor, self.clients),
            aggregate=optax.tree.scale(factor, self.aggregate),
        )


class Window(NamedTuple):
    """What the server would see of some rounds in a row.

    Attributes:
        first: number of the first of these rounds, at least 1.
        params: the global parameters that clients started from in each, [round, ...].
        clients: what each watched client's messages show on their own, [client, round, ...].
        aggregate: what the means of all clients' messages show, [round, ...].
    """

    first: int
    params: PyTree
    clients: PyTree
    aggregate: PyTree


class Truth(NamedTuple):
    """The minibatches behind an observation.

    Attributes:
        images: [client, batch, height, width, channels] in [0, 1], as the clients hold them.
        labels: int [client, batch].
        present: bool [client, batch]; False where a client held fewer samples than a batch.
        indices: int [client, batch], into the training set.
    """

    images: jax.Array
    labels: jax.Array
    present: jax.Array
    indices: np.ndarray


def observe(
    work: Work, state: State, samples: Samples, indices: np.ndarray, weights: np.ndarray
) -> tuple[Observation, Truth]:
    """Let every client take one step from the final parameters.

    The minibatches are not hardened, but augmented and privatised as in training.

    Args:
        work: as in training.
        state: after training, with every client's own optimizer state.
        samples: the training set.
        indices: int32 [client, batch].
        weights: float32 [client, batch], 0 for filling.
    """
    work = work._replace(harden=pgd.none())
    messages = _messages(work, state, samples, indices, weights)
    reveal = work.algorithm.reveal
    observation = Observation(
        params=state.params,
        clients=jax.vmap(reveal)(messages),
        aggregate=reveal(_mean(messages)),
    )
    images, labels = samples.take(jnp.asarray(indices))
    return observation, Truth(images, labels, jnp.asarray(weights > 0), indices)


def observe_stale(
    work: Work,
    state: State,
    samples: Samples,
    indices: np.ndarray,
    later_indices: np.ndarray,
    weights: np.ndarray,
    as_trained: bool = False,
) -> tuple[Observation, Truth]:
    """As the published code has it for clients that send updates (`stale-update`).

    There, the attacked update is the global parameters minus the client's of the *previous* round,
    w' - w_i with w' = w - mean(w - w_i), and it is scored against a later, unrelated minibatch.

    Args:
        work: as in training; its algorithm must be one that sends updates.
        state: after training, with every client's own optimizer state.
        samples: the training set.
        indices: int32 [client, batch], of the round that is over.
        later_indices: int32 [client, batch], of the round that the update is passed off as.
        weights: float32 [client, batch], 0 for filling.
        as_trained: whether the round that is over hardened its minibatches, and w' - w_i is clipped
            and noised itself (`hardened-stale`); else it is w' minus what the client sent for w_i.
    """
    if not as_trained:
        work = work._replace(harden=pgd.none())
    drawn = samples, indices, weights
    messages = _messages(work, state, *drawn)
    mean = _mean(messages)
    params, _ = work.serve(state, mean, state.memory, 1.0, state.key)
    afresh = as_trained and work.privatise
    if afresh:
        messages = _messages(work._replace(privatise=None), state, *drawn)
    stale = jax.tree.map(lambda sent, average: sent - average[None], messages, mean)
    if afresh:
        keys = jax.random.split(next_key(state.key), len(indices))
        keys = keys[:1].repeat(len(keys), 0) if work.shared_noise else keys
        stale = jax.vmap(work.privatise)(stale, keys)
    images, labels = samples.take(jnp.asarray(later_indices))
    # The mean of the stale updates is zero: what the aggregate shows is the mean update itself.
    observation = Observation(params, clients=stale, aggregate=mean)
    return observation, Truth(images, labels, jnp.asarray(weights > 0), later_indices)


class Behind(NamedTuple):
    """What was behind the messages of a window's last rounds.

    Attributes:
        clients: of each watched client and round, [client * round, image].
        aggregate: of all clients in each round, [round, image].
    """

    clients: Truth
    aggregate: Truth


class Memory(NamedTuple):
    """What the server of `watchful` remembers.

    Attributes:
        key: of what protects the next round's ratios.
        clients: what each watched client's last message shows, [client, ...].
        aggregate: what the mean of the last messages shows.
    """

    key: jax.Array
    clients: PyTree
    aggregate: PyTree


@lru_cache
def watchful(
    algorithm: Algorithm, watched: tuple[int, ...] = (), protect: Callable | None = None
) -> Aggregator:
    """The mean, by a server that remembers what it saw of the last round.

    Args:
        algorithm: of the federation.
        watched: numbers of the clients whose own messages it looks at.
        protect: (ratio, key) -> the ratio that the server gets to see, and steps along; None for
            the ratio itself. Only of algorithms that send moments.
    """

    def shown(message, key):
        ratio = algorithm.reveal(message)
        return ratio if protect is None else protect(ratio, key)

    def init(message, clients):
        ratio = jax.tree.map(jnp.zeros_like, algorithm.reveal(message))
        own = jax.tree.map(lambda leaf: jnp.zeros((len(watched), *leaf.shape), leaf.dtype), ratio)
        return Memory(jax.random.key_data(jax.random.key(0)), own, ratio)

    def aggregate(messages, memory):
        own_key, key, next_key = jax.random.split(jax.random.wrap_key_data(memory.key), 3)
        # Several times as fast on CPU as a mean over the leading axis.
        count = len(jax.tree.leaves(messages)[0])
        mean = jax.tree.map(lambda leaf: jnp.tensordot(jnp.ones(count) / count, leaf, 1), messages)
        ratio = shown(mean, key)
        own = jax.tree.map(lambda leaf: leaf[jnp.array(watched, int)], messages)
        own = jax.vmap(shown)(own, jax.random.split(own_key, len(watched)))
        if protect is not None:
            mean = Moments(ratio, jax.tree.map(jnp.ones_like, ratio))
        return mean, Memory(jax.random.key_data(next_key), own, ratio)

    return Aggregator(init, aggregate)


def watch(federation: Federation, first: int, schedules: Iterator[Schedule]) -> Window:
    """Run rounds of a federation whose work has a `watchful` server, and keep what it sees.

    Args:
        federation: its state is given up.
        first: number of the first round.
        schedules: one for each round.
    """
    state, params, clients, aggregate = federation.state, [], [], []
    for schedule in schedules:
        params.append(processes.to_host(state.params))
        state, _ = federation.run(state, schedule)
        clients.append(processes.to_host(state.memory.clients))
        aggregate.append(processes.to_host(state.memory.aggregate))

    def stacked(trees, axis=0):
        return jax.tree.map(lambda *leaves: np.stack(leaves, axis), *trees)

    return Window(first, stacked(params), stacked(clients, 1), stacked(aggregate))


def _messages(work, state, samples, indices, weights):
    """Every client's message, stacked [client, ...], computed one after the other."""
    received = work.algorithm.broadcast(state.params, state.server)

    @jax.jit
    def message(received, client, samples, indices, weights, key, noise_key):
        step_key, message_key = jax.random.split(key)[0], jax.random.split(noise_key)[1]
        minibatch = (*samples.take(indices), weights, step_key)
        local, after, _ = work.local_step(received, received.params, client, *minibatch)
        return work.message(received, local, after, client, message_key)[0]

    clients = engine.client_states(state, len(indices))
    keys = jax.random.split(state.key, len(indices))
    sent = [
        message(
            received,
            jax.tree.map(lambda leaf, own=number: leaf[own], clients),
            samples,
            indices[number],
            weights[number],
            keys[number],
            keys[0 if work.shared_noise else number],
        )
        for number in range(len(indices))
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *sent)


def _mean(messages):
    return jax.tree.map(lambda leaf: leaf.mean(0), messages)
