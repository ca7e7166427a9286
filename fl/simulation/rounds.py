"""A round of federated learning, as the paper's pseudocode has it.

What clients and server compute is `Work`; how clients are mapped onto hardware is a `Mapper`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fl.simulation.algorithms import Algorithm
from fl.simulation.mapping import Mapper
from fl.simulation.pgd import Harden
from fl.simulation.sharding import Sharded

PyTree = Any


class State(NamedTuple):
    """A federation between two rounds.

    Attributes:
        params: the global parameters w.
        server: what the algorithm's server keeps.
        clients: what the algorithm's clients keep, as `Mapper` has members, or of clients that may
            rest as `fl.simulation.resting` has them.
        key: uint32 [2], from which the random numbers of the rounds to come are drawn.
        memory: what the server's aggregator remembers, see `Aggregator`; () for nothing.
    """

    params: PyTree
    server: PyTree
    clients: PyTree
    key: jax.Array
    memory: PyTree = ()


class Aggregator(NamedTuple):
    """What a server may put in place of the mean of its clients' messages.

    Attributes:
        init: (one client's message, number of clients) -> memory, a pytree, () for none.
        aggregate: (messages [client, ...], memory) -> (message, memory). Can be compiled.
        accepts: memory -> whether the round that led to it counts; if not, the server takes no
            step. None where all rounds count.
        on_host: `aggregate` is a Python function of NumPy arrays, cannot be compiled, and is given
            two more arguments: what the server broadcast, and the clients' numbers. (JAX's
            callbacks from compiled code may hang on a single core.)
    """

    init: Callable
    aggregate: Callable
    accepts: Callable | None = None
    on_host: bool = False


class Work(NamedTuple):
    """What is computed, however it is mapped.

    Attributes:
        algorithm: see `fl.simulation.algorithms`.
        losses: (params, images, labels) -> the samples' losses [batch].
        harden: see `fl.simulation.pgd`.
        augment: (images [batch, ...], key) -> images, before hardening; None for as they are.
        privatise: (message, key) -> the message that leaves the client; None for as it is.
        aggregator: in place of the mean of the messages; None for the mean.
        guard: (the step that the server is about to add to the parameters, key) -> the step that
            it adds; None for as it is.
        deviate: (message, client state, client state before the round) -> (message, client state):
            what a client that deviates from the protocol sends and keeps, from what an honest one
            would; None for the same.
        shared_noise: whether the clients of a round privatise with one key, and so add the same
            noise, as they would with generators of one seed. Nobody should.
    """

    algorithm: Algorithm
    losses: Callable
    harden: Harden
    augment: Callable | None = None
    privatise: Callable | None = None
    aggregator: Aggregator | None = None
    guard: Callable | None = None
    deviate: Callable | None = None
    shared_noise: bool = False

    def gradient(self, params, images, labels, weights):
        """Weighted sum of the samples' losses, and its gradient with respect to params."""
        return jax.value_and_grad(lambda p: self.losses(p, images, labels) @ weights)(params)

    def local_step(self, received, local, state, images, labels, weights, key, deviates=None):
        """One minibatch of one client -> (local params, client state, loss).

        Clients that deviate do not harden.
        """
        if self.augment:
            images = self.augment(images, key)
        hardened = self.harden(local, images, labels)
        images = hardened if deviates is None else jnp.where(deviates, images, hardened)
        loss, gradient = self.gradient(local, images, labels, weights)
        return *self.algorithm.local_step(received, local, state, gradient), loss

    def message(self, received, local, state, before, key, deviates=None):
        """What a client sends at the end of its local steps, and what it keeps."""
        message, state = self.algorithm.message(received, local, state)
        if self.privatise:
            message = self.privatise(message, key)
        if self.deviate is None or deviates is None:
            return message, state
        deviating = self.deviate(message, state, before)
        return optax.tree.where(deviates, deviating, (message, state))

    def init_memory(self, params, clients):
        """What the aggregator remembers before the first round; clients is their number."""
        if self.aggregator is None:
            return ()
        return self.aggregator.init(self.example_message(params), clients)

    def example_message(self, params):
        """A message of a client that has not moved from params."""
        received = self.algorithm.broadcast(params, self.algorithm.init_server(params))
        return self.algorithm.message(received, params, self.algorithm.init_client(params))[0]

    def aggregate(self, total, memory, count):
        """What the messages of `count` clients come to -> (mean message, or other; memory).

        Args:
            total: the sum of the messages; with an aggregator, all of them [client, ...].
            memory: of the aggregator.
            count: number of clients.
        """
        if self.aggregator is None:
            return jax.tree.map(lambda entry: entry / count, total), memory
        return self.aggregator.aggregate(total, memory)

    def serve(self, state: State, message: PyTree, memory: PyTree, share: float, key: jax.Array):
        """The server's step along a mean message, if the round counts -> (params, server state)."""
        step, server = self.algorithm.server_step(state.params, state.server, message, share)
        if self.guard:
            step = self.guard(step, key)
        after = optax.apply_updates(state.params, step), server
        if self.aggregator is None or self.aggregator.accepts is None:
            return after
        return optax.tree.where(
            self.aggregator.accepts(memory), after, (state.params, state.server)
        )


class Cohort(NamedTuple):
    """The clients that take part in a round, and what they train on.

    Attributes:
        clients: int [cohort], their numbers, ascending. Here and below, what is sharded has more
            axes than this, or clients that only fill a place, see `fl.simulation.sharding`.
        indices: int [cohort, step, batch], into the training set.
        weights: [cohort, batch], see `fl.data.sampling.Schedule`.
        deviates: bool [cohort], who deviates from the protocol; None for nobody.
    """

    clients: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    deviates: np.ndarray | None


class Rounds(NamedTuple):
    """One way of computing rounds.

    Attributes:
        init_clients: (params, number of clients) -> `State.clients`.
        one_round: (state whose clients are those of the cohort, samples, `Cohort`, how many they
            are, number of clients in the federation) -> (state, mean loss over clients and steps).
            Under a vmapped `Mapper` the caller compiles it.
    """

    init_clients: Callable
    one_round: Callable


# Runs that differ in their seed alone share what is compiled.
@lru_cache
def build(work: Work, mapper: Mapper | Sharded) -> Rounds:
    """Build rounds in which every client keeps a state of its own."""
    algorithm, aggregator = work.algorithm, work.aggregator

    # What one client does. `common` is (broadcast, samples, key of the round, number of the step).

    def step(common, state, local, client, indices, weights, deviates):
        received, samples, key, number = common
        minibatch = (*samples.take(indices[number]), weights, step_key(key, client, number))
        local, state, loss = work.local_step(received, local, state, *minibatch, deviates)
        return (), mapper.present(client, loss), (local, state)

    def last_step(common, state, local, before, client, *minibatch):
        received, _, key, number = common
        before = state if before is None else before
        _, loss, (local, state) = step(common, state, local, client, *minibatch)
        message_key = step_key(key, 0 if work.shared_noise else client, number + 1)
        message, state = work.message(received, local, state, before, message_key, minibatch[-1])
        # A sum takes less memory than all messages, where a sum is all that is wanted.
        if aggregator is None:
            return (), (mapper.present(client, message), loss), state
        return message, ((), loss), state

    # What the server does.

    def nothing_received(params, clients):
        message = work.example_message(params)
        some, none = (message, ()) if aggregator else ((), message)
        return mapper.nothing(some, (none, jnp.zeros(())), len(clients))

    def serve(state, message, memory, count, registered):
        key = step_key(state.key, registered, 0)
        params, server = work.serve(state, message, memory, count / registered, key)
        return State(params, server, (), next_key(state.key), memory)

    def aggregate_and_serve(state, total, taken, registered, losses, count):
        # The number of clients is there twice: as one that is divided by, and as a shape.
        messages, (sum_, loss) = mapper.across(total, count)
        total = messages if aggregator else sum_
        message, memory = work.aggregate(total, state.memory, taken)
        return serve(state, message, memory, taken, registered), loss / losses

    step_all, last_step_all = map(mapper.accumulate, (step, last_step))
    start_receiving = mapper.compile(nothing_received, common=(0,), gives_members=True)
    receive = mapper.compile(mapper.across, common=(1,), static_argnums=(1,))
    everything = (0, 1, 2, 3, 4)
    finish_on_host = mapper.compile(serve, common=everything, donate_argnums=0)
    finish = mapper.compile(
        aggregate_and_serve, common=(0, 2, 3, 4), donate_argnums=0, static_argnums=(5,)
    )

    def one_round(state, samples, cohort, count, registered):
        own, state = state.clients, state._replace(clients=())
        steps = cohort.indices.shape[-2]

        # The server broadcasts the parameters, from which each client of the cohort sets out.
        received = algorithm.broadcast(state.params, state.server)
        local = mapper.same(state.params, count)
        before = jax.tree.map(jnp.copy, own) if work.deviate and steps > 1 else None

        # Each takes its local steps; with the last one it sends its message.
        def take_step(number, carry):
            local, own, total = carry
            common = received, samples, state.key, number
            total, kept = step_all(common, own, total, local, *cohort)
            return *mapper.unzip(kept), total

        messages, (sum_, loss) = start_receiving(state.params, cohort.clients)
        local, own, (_, loss) = mapper.loop(take_step, (local, own, ((), loss)), steps - 1)
        common = received, samples, state.key, steps - 1
        total, own = last_step_all(common, own, (messages, (sum_, loss)), local, before, *cohort)

        # The server makes one message of them all, and steps along it.
        if aggregator and aggregator.on_host:
            messages, (_, loss) = receive(total, count)
            got = jax.device_get((messages, state.memory, received))
            message, memory = aggregator.aggregate(*got, cohort.clients.ravel()[:count])
            state = finish_on_host(state, message, memory, count, registered)
            loss /= count * steps
        else:
            state, loss = finish(state, total, count, registered, count * steps, count)
        return state._replace(clients=own), loss

    def init_clients(params, count):
        return mapper.repeat(jax.jit(algorithm.init_client)(params), count)

    return Rounds(init_clients, one_round)


def step_key(key, client, step):
    """Key of a client's step in the round that starts from `key`; after the last, its message's.

    Numbered as if it were one more client, the server has one too.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.split(key)[0], client), step)


def next_key(key):
    """Key of the round after the one that starts from `key`."""
    return jax.random.split(key)[1]
