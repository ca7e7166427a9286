"""Rounds as compiled code: three ways of computing the same thing.

`unrolled` keeps one state a client and dispatches compiled groups of clients step by step;
`stacked` keeps the states along a leading axis and vmaps over it, a whole round in one function;
`pooled` keeps the clients' mean state, where the algorithm's `OneStep` shortcut allows it.
`fl.simulation` chooses among them. Each way is built once for the same work, so that runs which
differ in their seed alone share what is compiled.
"""

from collections.abc import Callable
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from fl.algorithms import Algorithm
from fl.hardening import Harden

PyTree = Any


class State(NamedTuple):
    """A federation between two rounds.

    Attributes:
        params: the global parameters w.
        server: state of the server's optimizer.
        clients: states of the clients' optimizers: a list of one a client when unrolled, stacked
            [client, ...] when stacked, their mean when pooled.
        key: uint32 [2], from which the random numbers of the rounds to come are drawn.
    """

    params: PyTree
    server: PyTree
    clients: PyTree
    key: jax.Array


class Rounds(NamedTuple):
    """One way of computing rounds.

    Attributes:
        init_clients: (params, number of clients) -> `State.clients`.
        one_round: (state, samples, indices [client, step, batch], weights [client, batch]) ->
            (state, mean loss over clients and steps).
    """

    init_clients: Callable
    one_round: Callable


class Work(NamedTuple):
    """What is computed, however it is mapped.

    Attributes:
        algorithm: see `fl.algorithms`.
        losses: (params, images, labels) -> the samples' losses [batch].
        harden: see `fl.hardening`.
        augment: (images [batch, ...], key) -> images, before hardening; None for as they are.
        privatise: (message, key) -> the message that leaves the client; None for as it is. Since
            it acts on single messages, it rules the `OneStep` shortcut out.
    """

    algorithm: Algorithm
    losses: Callable
    harden: Harden
    augment: Callable | None = None
    privatise: Callable | None = None

    def gradient(self, params, images, labels, weights):
        """Weighted sum of the samples' losses, and its gradient with respect to params."""
        return jax.value_and_grad(lambda p: self.losses(p, images, labels) @ weights)(params)

    def local_step(self, params, optimizer_state, images, labels, weights, key):
        """One minibatch of one client -> (params, optimizer state, loss)."""
        if self.augment:
            images = self.augment(images, key)
        images = self.harden(params, images, labels)
        loss, gradient = self.gradient(params, images, labels, weights)
        update, optimizer_state = self.algorithm.client_optimizer.update(
            gradient, optimizer_state, params
        )
        return optax.apply_updates(params, update), optimizer_state, loss

    def message(self, params, local, optimizer_state, key):
        """What leaves a client that went from params to local."""
        message = self.algorithm.message(params, local, optimizer_state)
        return self.privatise(message, key) if self.privatise else message

    def server_step(self, params, server_state, mean_message):
        """The mean of the clients' messages -> (params, server optimizer state)."""
        update, server_state = self.algorithm.server_optimizer.update(
            self.algorithm.pseudo_gradient(mean_message), server_state, params
        )
        return optax.apply_updates(params, update), server_state


@lru_cache
def stacked(work: Work) -> Rounds:
    """Clients side by side along a leading axis; local steps in a compiled loop.

    `one_round` is not compiled by itself: compile it alone, or within a loop over rounds.
    """

    def client(params, optimizer_state, samples, indices, weights, key, number):
        steps = len(indices)

        def step(carry, minibatch):
            indices, at = minibatch
            key_here = _step_key(key, number, at)
            *carry, loss = work.local_step(*carry, *samples.take(indices), weights, key_here)
            return tuple(carry), loss

        # A single step is not worth a loop, which costs convolutions dearly on CPU.
        (local, optimizer_state), losses = lax.scan(
            step, (params, optimizer_state), (indices, jnp.arange(steps)), unroll=steps == 1
        )
        message = work.message(params, local, optimizer_state, _step_key(key, number, steps))
        return message, optimizer_state, losses.mean()

    def one_round(state, samples, indices, weights):
        messages, clients, losses = jax.vmap(client, (None, 0, None, 0, 0, None, 0))(
            *(state.params, state.clients, samples, indices, weights, state.key),
            jnp.arange(len(indices)),
        )
        mean = jax.tree.map(lambda message: message.mean(0), messages)
        params, server = work.server_step(state.params, state.server, mean)
        return State(params, server, clients, _next_key(state.key)), losses.mean()

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

    def step(local, clients, samples, indices, weights, key, first, number):
        done = [
            work.local_step(
                *(params, state, *samples.take(minibatch), weight),
                _step_key(key, first + place, number),
            )
            for place, (params, state, minibatch, weight) in enumerate(
                zip(local, clients, indices, weights, strict=True)
            )
        ]
        local, clients, losses = zip(*done, strict=True)
        return local, clients, sum(losses)

    def last_step(params, total, clients, local, samples, indices, weights, key, first, number):
        local, clients, loss = step(local, clients, samples, indices, weights, key, first, number)
        sent = [
            work.message(params, *each, _step_key(key, first + place, number + 1))
            for place, each in enumerate(zip(local, clients, strict=True))
        ]
        return _sum([*sent, total]), clients, loss

    def server(params, server_state, total, count, key):
        mean = jax.tree.map(lambda entry: entry / count, total)
        return *work.server_step(params, server_state, mean), _next_key(key)

    def zero(params, client):
        return jax.tree.map(jnp.zeros_like, work.algorithm.message(params, params, client))

    step_group = jax.jit(step, donate_argnums=1)
    last_step_group = jax.jit(last_step, donate_argnums=(1, 2))
    server_step = jax.jit(server, donate_argnums=(0, 1))
    zero_message = jax.jit(zero)

    def one_round(state, samples, indices, weights):
        count, steps, _ = indices.shape
        clients, local = list(state.clients), [state.params] * count
        total, losses = zero_message(state.params, clients[0]), []
        for number in range(steps):
            for members in _groups(count, group):
                minibatches = samples, indices[members, number], weights[members]
                randomness = state.key, members.start, number
                mine, standing = tuple(clients[members]), tuple(local[members])
                if number < steps - 1:
                    local[members], clients[members], loss = step_group(
                        standing, mine, *minibatches, *randomness
                    )
                else:
                    total, clients[members], loss = last_step_group(
                        state.params, total, mine, standing, *minibatches, *randomness
                    )
                losses.append(loss)
        params, server_state, key = server_step(state.params, state.server, total, count, state.key)
        return State(params, server_state, clients, key), sum(losses) / (count * steps)

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
        params, server = work.server_step(state.params, state.server, message)
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

    def one_round(state, samples, indices, weights):
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

    def one_round(state, samples, indices, weights):
        *others, final = _groups(len(indices), group)
        # A single group, the common case, has nothing to add its sum to.
        total = [zero(state.params)] if others else []
        for members in others:
            minibatches = samples, indices[members], weights[members]
            total = [accumulate_group(state.params, total, *minibatches, state.key, members.start)]
        minibatches = samples, indices[final], weights[final]
        return last_group(state, total, *minibatches, final.start, len(indices))

    return Rounds(lambda params, _: work.algorithm.one_step.init(params), one_round)


def _step_key(key, client, step):
    """Key of a client's step in the round that starts from `key`; after the last, its message's."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.split(key)[0], client), step)


def _next_key(key):
    return jax.random.split(key)[1]


def _groups(count, size):
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _sum(trees):
    """Add pytrees up. On CPU several times faster than a sum over a stacked leading axis."""
    return reduce(partial(jax.tree.map, jnp.add), trees)
