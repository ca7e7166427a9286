"""One state for all clients: an exact shortcut for clients who take a single local step a round.

Where what a client sends and keeps is linear in statistics of its gradient g, their means over
clients obey the same recurrence as a single client's, and one mean state stands for all clients'.
The statistics are g itself where clients run plain SGD, and g and g^2 for Adam's moments. It holds
as long as everybody takes part and nobody asks for a single client's message or state.

`python -m fl.bench` shows what it gains, most where states are large beside the work on samples:
1.5 to 3 times the speed for dense models, nothing for convolutions, for which it is not used.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fl.simulation.algorithms import B1, B2, MOMENTS, Algorithm, Moments
from fl.simulation.mapping import Mapper, add_up, is_convolutional
from fl.simulation.rounds import Rounds, State, Work, next_key, step_key
from fl.simulation.sharding import Sharded

PyTree = Any


class Shortcut(NamedTuple):
    """How the mean client of an algorithm works.

    Attributes:
        statistics: gradient -> what is averaged over clients; None where that is the gradient,
            whose mean is the gradient of the mean loss.
        message: (mean client state, mean statistics) -> (mean message, mean client state).
    """

    statistics: Callable | None
    message: Callable


def applies(work: Work, local_steps: int, params: PyTree) -> bool:
    """Whether a mean client can stand for all clients, and gains anything.

    Args:
        work: what is computed.
        local_steps: of each client in a round.
        params: of the model.
    """
    if local_steps > 1 or is_convolutional(params):
        return False
    single = (work.privatise, work.aggregator, work.deviate)
    return single == (None, None, None) and find(work.algorithm) is not None


@lru_cache
def find(algorithm: Algorithm) -> Shortcut | None:
    """The shortcut of an algorithm; None where there is none."""
    if algorithm.sends == MOMENTS:
        return Shortcut(lambda g: Moments(g, jax.tree.map(jnp.square, g)), _moments(algorithm))
    return Shortcut(None, _descent(algorithm)) if _sends_gradients(algorithm) else None


@lru_cache
def build(work: Work, mapper: Mapper | Sharded) -> Rounds:
    """Build rounds of the mean client; see `fl.simulation.rounds.build`.

    All clients stand at the same parameters, so their samples are hardened together and, where the
    message is linear in the gradient, differentiated together too.
    """
    shortcut = find(work.algorithm)

    def statistics(params, samples, key, clients, indices, weights):
        """Sum over some clients of their gradients' statistics and losses."""
        images, labels = samples.take(indices[:, 0])
        if work.augment:
            keys = jax.vmap(lambda client: step_key(key, client, 0))(clients)
            images = jax.vmap(work.augment)(images, keys)
        flat = [entry.reshape(-1, *entry.shape[2:]) for entry in (images, labels, weights)]
        hardened = work.harden(params, *flat[:2])
        if shortcut.statistics is None:
            loss, gradient = work.gradient(params, hardened, *flat[1:])
            return gradient, loss

        def of_client(images, labels, weights):
            loss, gradient = work.gradient(params, images, labels, weights)
            return shortcut.statistics(gradient), loss

        return mapper.sum(of_client)(hardened.reshape(images.shape), labels, weights)

    def with_group(params, total, samples, key, *group):
        return add_up([statistics(params, samples, key, *group), *total])

    def add_last_group(state, total, samples, count, *group):
        total = with_group(state.params, total, samples, state.key, *group)
        _, total = mapper.across(((), total), 0)
        mean, loss = jax.tree.map(lambda entry: entry / count, total)
        message, clients = shortcut.message(state.clients, mean)
        key = step_key(state.key, count, 0)
        params, server = work.serve(state, message, (), 1.0, key)
        return State(params, server, clients, next_key(state.key)), loss

    add_group = mapper.compile(with_group, common=(0, 2, 3), gives_members=True)
    add_last_group = mapper.compile(add_last_group, common=(0, 2, 3), donate_argnums=0)

    def one_round(state, samples, cohort, count, registered):
        *others, last = mapper.cuts(cohort.clients)
        total = []  # of no group so far
        for cut in others:
            group = mapper.part(cohort[:3], cut)
            total = [add_group(state.params, total, samples, state.key, *group)]
        return add_last_group(state, total, samples, count, *mapper.part(cohort[:3], last))

    return Rounds(lambda params, _: work.algorithm.init_client(params), one_round)


def _moments(algorithm):
    """Adam's recurrence, with the means of g and g^2."""

    def message(state, mean):
        adam = state[0]._replace(
            count=state[0].count + 1,
            mu=optax.tree.update_moment(mean.m, state[0].mu, B1, order=1),
            nu=optax.tree.update_moment(mean.v, state[0].nu, B2, order=1),
        )
        return algorithm.message(None, None, (adam, *state[1:]))

    return message


def _descent(algorithm):
    def message(state, gradient):
        return optax.tree.scale(algorithm.client_rate, gradient), state

    return message


def _sends_gradients(algorithm):
    """Whether clients keep nothing, and send their gradient times their rate: tried out."""
    w, gradient = np.random.default_rng(0).normal(size=(2, 8))
    if jax.tree.leaves(algorithm.init_client(w)):
        return False
    gradient /= algorithm.client_rate  # a step of about 1, whatever the rate
    received = algorithm.broadcast(w, algorithm.init_server(w))
    stepped = algorithm.local_step(received, w, algorithm.init_client(w), gradient)
    sent, _ = algorithm.message(received, *stepped)
    return np.allclose(sent, algorithm.client_rate * gradient, rtol=1e-5, atol=1e-6)
