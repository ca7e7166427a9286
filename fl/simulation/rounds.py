"""Rounds as compiled code: three ways of computing the same thing.

`unrolled` keeps one state a client and dispatches compiled groups of clients step by step;
`stacked` keeps the states along a leading axis and vmaps over it, a whole round in one function;
`pooled` keeps the clients' mean state, where the algorithm's `OneStep` shortcut allows it.
`engine` chooses among them. Each way is built once for the same work, so that runs which
differ in their seed alone share what is compiled.
"""

from collections.abc import Callable
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from fl.simulation.algorithms import Algorithm
from fl.simulation.pgd import Harden

PyTree = Any


class State(NamedTuple):
    """A federation between two rounds.

    Attributes:
        params: the global parameters w.
        server: state of the server's optimizer.
        clients: states of the clients' optimizers: a list of one a client when unrolled, stacked
            [client, ...] when stacked, their mean when pooled.
        key: uint32 [2], from which the random numbers of the rounds to come are drawn.
        memory: what the server's aggregator remembers, see `Aggregator`; () for nothing.
    """

    params: PyTree
    server: PyTree
    clients: PyTree
    key: jax.Array
    memory: PyTree = ()


class Rounds(NamedTuple):
    """One way of computing rounds.

    Attributes:
        init_clients: (params, number of clients) -> `State.clients`.
        one_round: (state, samples, indices [client, step, batch], weights [client, batch],
            `fl.data.sampling.Conduct` or None) -> (state, mean loss over clients and steps).
    """

    init_clients: Callable
    one_round: Callable


class Aggregator(NamedTuple):
    """What a server may put in place of the mean of its clients' messages.

    Attributes:
        init: (one client's message, number of clients) -> memory, a pytree, () for none.
        aggregate: (messages [client, ...], memory) -> (message, memory). Can be compiled.
        accepts: memory -> whether the round that led to it counts; if not, the server takes no
            step. None where all rounds count.
        on_host: `aggregate` is a Python function of NumPy arrays and cannot be compiled. (JAX's
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
    """

    algorithm: Algorithm
    losses: Callable
    harden: Harden
    augment: Callable | None = None
    privatise: Callable | None = None
    aggregator: Aggregator | None = None
    guard: Callable | None = None

    @property
    def needs_messages(self) -> bool:
        """Whether single messages matter, which rules the `OneStep` shortcut out."""
        return self.privatise is not None or self.aggregator is not None

    def gradient(self, params, images, labels, weights):
        """Weighted sum of the samples' losses, and its gradient with respect to params."""
        return jax.value_and_grad(lambda p: self.losses(p, images, labels) @ weights)(params)

    def local_step(self, params, optimizer_state, images, labels, weights, key, conduct=None):
        """One minibatch of one client of some conduct -> (params, optimizer state, loss)."""
        if self.augment:
            images = self.augment(images, key)
        hardened = self.harden(params, images, labels)
        images = hardened if conduct is None else jnp.where(conduct.hardens, hardened, images)
        loss, gradient = self.gradient(params, images, labels, weights)
        update, optimizer_state = self.algorithm.client_optimizer.update(
            gradient, optimizer_state, params
        )
        return optax.apply_updates(params, update), optimizer_state, loss

    def message(self, params, local, optimizer_state, key, conduct=None):
        """What leaves a client of some conduct that went from params to local."""
        message = self.algorithm.message(params, local, optimizer_state)
        if self.privatise:
            message = self.privatise(message, key)
        return message if conduct is None else optax.tree.scale(conduct.scale, message)

    def init_memory(self, params, clients):
        """What the aggregator remembers before the first round; clients is their number."""
        if self.aggregator is None:
            return ()
        state = self.algorithm.client_optimizer.init(params)
        return self.aggregator.init(self.algorithm.message(params, params, state), clients)

    def aggregate(self, messages, memory):
        """Messages stacked [client, ...] -> (what the server makes of them, memory)."""
        if self.aggregator is None:
            return jax.tree.map(lambda message: message.mean(0), messages), memory
        return self.aggregator.aggregate(messages, memory)

    def server_step(self, params, server_state, message, key=None):
        """The mean message, or aggregate -> (params, server optimizer state).

        The key is needed where there is a guard.
        """
        step, server_state = self.algorithm.server_optimizer.update(
            self.algorithm.pseudo_gradient(message), server_state, params
        )
        if self.guard:
            step = self.guard(step, key)
        return optax.apply_updates(params, step), server_state


@lru_cache
def stacked(work: Work) -> Rounds:
    """Clients side by side along a leading axis; local steps in a compiled loop.

    `one_round` is not compiled by itself: compile it alone, or within a loop over rounds.
    """

    def client(params, before, samples, indices, weights, conduct, key, number):
        steps = len(indices)

        def step(carry, minibatch):
            indices, at = minibatch
            minibatch = (*samples.take(indices), weights, _step_key(key, number, at), conduct)
            *carry, loss = work.local_step(*carry, *minibatch)
            return tuple(carry), loss

        # A single step is not worth a loop, which costs convolutions dearly on CPU.
        (local, after), losses = lax.scan(
            step, (params, before), (indices, jnp.arange(steps)), unroll=steps == 1
        )
        message = work.message(params, local, after, _step_key(key, number, steps), conduct)
        if conduct is not None:
            after = optax.tree.where(conduct.forgets, before, after)
        return message, after, losses.mean()

    def one_round(state, samples, indices, weights, conduct):
        messages, clients, losses = jax.vmap(client, (None, 0, None, 0, 0, 0, None, 0))(
            *(state.params, state.clients, samples, indices, weights, conduct, state.key),
            jnp.arange(len(indices)),
        )
        message, memory = work.aggregate(messages, state.memory)
        params, server = _serve(work, state, message, memory, len(indices))
        return State(params, server, clients, _next_key(state.key), memory), losses.mean()

    def init_clients(params, count):
        one = work.algorithm.client_optimizer.init(params)
        return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], count, 0), one)

    return Rounds(init_clients, one_round)


@lru_cache
def unrolled(work: Work, group: int) -> Rounds:
    """Clients one after the other, `group` of them in one compiled function.

    One dispatch a group and local step: compiling takes as long for thirty steps as for two, and
    gradients of convolutions stay out of compiled loops.
    """

    def step(local, clients, samples, indices, weights, conduct, key, first, number):
        done = [
            work.local_step(
                *(params, state, *samples.take(minibatch), weight),
                *(_step_key(key, first + place, number), _of_client(conduct, place)),
            )
            for place, (params, state, minibatch, weight) in enumerate(
                zip(local, clients, indices, weights, strict=True)
            )
        ]
        local, clients, losses = zip(*done, strict=True)
        return local, clients, sum(losses)

    def last_step(params, received, clients, local, samples, *minibatches, key, first, number):
        *_, conduct = minibatches
        local, clients, loss = step(local, clients, samples, *minibatches, key, first, number)
        sent = [
            work.message(
                *(params, *each, _step_key(key, first + place, number + 1)),
                _of_client(conduct, place),
            )
            for place, each in enumerate(zip(local, clients, strict=True))
        ]
        return _receive(received, sent, first), clients, loss

    def serve(state, message, memory, count):
        params, server_state = _serve(work, state, message, memory, count)
        return params, server_state, _next_key(state.key), memory

    def aggregate_and_serve(state, received, count):
        if work.aggregator is None:
            message, memory = jax.tree.map(lambda entry: entry / count, received), state.memory
        else:
            message, memory = work.aggregate(received, state.memory)
        return serve(state, message, memory, count)

    def nothing_received(params, client, count):
        message = work.algorithm.message(params, params, client)
        shape = () if work.aggregator is None else (count,)
        return jax.tree.map(lambda leaf: jnp.zeros((*shape, *leaf.shape), leaf.dtype), message)

    # A sum takes less memory than all messages, where a sum is all that is wanted.
    def _receive(received, sent, first):
        if work.aggregator is None:
            return _sum([*sent, received])
        return jax.tree.map(
            lambda all_, *some: lax.dynamic_update_slice_in_dim(all_, jnp.stack(some), first, 0),
            *(received, *sent),
        )

    step_group = jax.jit(step, donate_argnums=1)
    last_step_group = jax.jit(last_step, donate_argnums=(1, 2))
    server_step = jax.jit(serve, donate_argnums=0)
    compiled_server = jax.jit(aggregate_and_serve, donate_argnums=0)
    nothing = jax.jit(nothing_received, static_argnums=2)

    def one_round(state, samples, indices, weights, conduct):
        count, steps, _ = indices.shape
        clients, local = list(state.clients), [state.params] * count
        # The buffers of the others are given up.
        remembered = _remembered(clients, conduct)
        received, losses = nothing(state.params, clients[0], count), []
        for number in range(steps):
            for members in _groups(count, group):
                minibatches = (
                    *(samples, indices[members, number], weights[members]),
                    jax.tree.map(lambda leaf, members=members: leaf[members], conduct),
                )
                place = {"key": state.key, "first": members.start, "number": number}
                mine, standing = tuple(clients[members]), tuple(local[members])
                if number < steps - 1:
                    local[members], clients[members], loss = step_group(
                        standing, mine, *minibatches, **place
                    )
                else:
                    received, clients[members], loss = last_step_group(
                        state.params, received, mine, standing, *minibatches, **place
                    )
                losses.append(loss)
        for client, before in remembered.items():
            clients[client] = before
        state = state._replace(clients=())
        if work.aggregator is not None and work.aggregator.on_host:
            aggregated = work.aggregate(*jax.device_get((received, state.memory)))
            params, server_state, key, memory = server_step(state, *aggregated, count)
        else:
            params, server_state, key, memory = compiled_server(state, received, count)
        return State(params, server_state, clients, key, memory), sum(losses) / (count * steps)

    def init_clients(params, count):
        init = jax.jit(work.algorithm.client_optimizer.init)
        return [init(params) for _ in range(count)]

    return Rounds(init_clients, one_round)


def sum_unrolled(function: Callable) -> Callable:
    """Map over the leading axis of every argument, one after the other, and add up the results."""
    return lambda *stacks: _sum([function(*each) for each in zip(*stacks, strict=True)])


def sum_vmapped(function: Callable) -> Callable:
    """Map over the leading axis of every argument, side by side, and add up the results."""

    def summed(*stacks):
        return jax.tree.map(lambda leaf: leaf.sum(0), jax.vmap(function)(*stacks))

    return summed


class PooledParts(NamedTuple):
    """A pooled round in two parts, neither of them compiled.

    Attributes:
        statistics: (params, samples, indices [client, step, batch], weights [client, batch], key,
            number of the first of these clients) -> sum over these clients of their gradients'
            statistics and losses.
        finish: (state, that sum over all clients, number of clients) -> (state, mean loss).
        zero: params -> the sum over no clients.
    """

    statistics: Callable
    finish: Callable
    zero: Callable


def _pooled_parts(work, sum_clients, cohort):
    shortcut = work.algorithm.one_step

    def cohort_statistics(params, images, labels, weights, keys):
        if work.augment:
            images = jax.vmap(work.augment)(images, keys)
        flat = [entry.reshape(-1, *entry.shape[2:]) for entry in (images, labels, weights)]
        hardened = work.harden(params, *flat[:2])
        if shortcut.statistics is None:
            loss, gradient = work.gradient(params, hardened, *flat[1:])
            return gradient, loss

        def client_statistics(images, labels, weights):
            loss, gradient = work.gradient(params, images, labels, weights)
            return shortcut.statistics(gradient), loss

        return sum_clients(client_statistics)(hardened.reshape(images.shape), labels, weights)

    def statistics(params, samples, indices, weights, key, first):
        keys = jax.vmap(lambda client: _step_key(key, client, 0))(first + jnp.arange(len(indices)))
        cohorts = _groups(len(indices), cohort or len(indices))
        return _sum(
            [
                cohort_statistics(
                    *(params, *samples.take(indices[members, 0]), weights[members], keys[members])
                )
                for members in cohorts
            ]
        )

    def finish(state, total, count):
        mean, loss = jax.tree.map(lambda entry: entry / count, total)
        message, clients = shortcut.message(state.clients, mean)
        params, server = _serve(work, state, message, (), count)
        return State(params, server, clients, _next_key(state.key)), loss

    def zero(params):
        statistics = shortcut.statistics(params) if shortcut.statistics else params
        return jax.tree.map(jnp.zeros_like, statistics), jnp.zeros(())

    return PooledParts(statistics, finish, zero)


@lru_cache
def pooled(work: Work) -> Rounds:
    """One local step each, and the clients' mean state in place of their states.

    All clients stand at the same parameters, so their samples are hardened together and, where the
    message is linear in the gradient, differentiated together too. Needs an algorithm with a
    `OneStep` shortcut. `one_round` is not compiled by itself.
    """
    parts = _pooled_parts(work, sum_vmapped, cohort=None)

    def one_round(state, samples, indices, weights, _):
        total = parts.statistics(state.params, samples, indices, weights, state.key, 0)
        return parts.finish(state, total, len(indices))

    return Rounds(lambda params, _: work.algorithm.one_step.init(params), one_round)


@lru_cache
def pooled_in_groups(work: Work, group: int, cohort: int | None) -> Rounds:
    """As `pooled`, with `group` clients unrolled in one compiled function.

    Args:
        work: its algorithm must have a `OneStep` shortcut.
        group: clients a dispatch.
        cohort: clients whose samples pass through the model together; None for a whole group.
    """
    parts = _pooled_parts(work, sum_unrolled, cohort)

    def accumulate(params, total, *clients):
        return _sum([parts.statistics(params, *clients), *total])

    def last(state, total, samples, indices, weights, first, count):
        total = accumulate(state.params, total, samples, indices, weights, state.key, first)
        return parts.finish(state, total, count)

    zero = jax.jit(parts.zero)
    accumulate_group = jax.jit(accumulate, donate_argnums=1)
    last_group = jax.jit(last, donate_argnums=0)

    def one_round(state, samples, indices, weights, _):
        *others, final = _groups(len(indices), group)
        # A single group, the common case, has nothing to add its sum to.
        total = [zero(state.params)] if others else []
        for members in others:
            minibatches = samples, indices[members], weights[members]
            total = [accumulate_group(state.params, total, *minibatches, state.key, members.start)]
        minibatches = samples, indices[final], weights[final]
        return last_group(state, total, *minibatches, final.start, len(indices))

    return Rounds(lambda params, _: work.algorithm.one_step.init(params), one_round)


def _serve(work, state, message, memory, count):
    """The server's step after a round of `count` clients, if the round counts."""
    key = _step_key(state.key, count, 0)
    after = work.server_step(state.params, state.server, message, key)
    if work.aggregator is None or work.aggregator.accepts is None:
        return after
    before = state.params, state.server
    return optax.tree.where(work.aggregator.accepts(memory), after, before)


def _of_client(conduct, place):
    return jax.tree.map(lambda leaf: leaf[place], conduct)


def _remembered(clients, conduct):
    """States that are set back after the round, by client."""
    forgetful = () if conduct is None else np.flatnonzero(conduct.forgets)
    return {client: jax.tree.map(jnp.copy, clients[client]) for client in forgetful}


def _step_key(key, client, step):
    """Key of a client's step in the round that starts from `key`; after the last, its message's.

    Numbered as if it were one more client, the server has one too.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.split(key)[0], client), step)


def _next_key(key):
    return jax.random.split(key)[1]


def _groups(count, size):
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _sum(trees):
    """Add pytrees up. On CPU several times faster than a sum over a stacked leading axis."""
    return reduce(partial(jax.tree.map, jnp.add), trees)
