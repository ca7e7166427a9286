"""The federated algorithms, as pure functions over pytrees.

Each round, every client receives what the server broadcasts, the global parameters w first of all,
takes its local steps from w, and sends a message. The server averages the messages and steps. What
a client keeps, such as the state of its optimizer, lives on from round to round.

=================  ============  ===================  =====================  ==================
algorithm          client        message              server learns          server
=================  ============  ===================  =====================  ==================
fedavg, secagg     SGD(0.1)      w - w_i              mean                   SGD(1)
adam               Adam(0.001)   w - w_i              mean                   SGD(1)
fedadam            SGD(0.1)      w - w_i              mean                   Adam(0.01)
secadam            Adam(0.001)   moments m_i, v_i     mean m / sqrt(mean v)  SGD(0.001)
secadam_fedadam    Adam(0.001)   moments m_i, v_i     mean m / sqrt(mean v)  Adam(0.001)
fedprox            proximal SGD  w - w_i              mean                   SGD(1)
scaffold           corrected SGD w - w_i, c_i' - c_i  mean of both           SGD(1), control c
=================  ============  ===================  =====================  ==================
"""

import inspect
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any

# What messages hold: w - w_i, `Moments`, or `Controlled`.
UPDATES, MOMENTS, CONTROLLED = "updates", "moments", "controlled"
B1, B2 = 0.9, 0.999
# Added to the second moments, so that the ratio stays finite where no gradient ever was: the
# square of the 1e-8 that Adam adds to their root.
MOMENT_OFFSET = 1e-8**2


class Broadcast(NamedTuple):
    """What the server sends to every client of a round.

    Attributes:
        params: the global parameters w.
        extra: what an algorithm sends besides, a pytree; () for nothing.
    """

    params: PyTree
    extra: PyTree = ()


class Moments(NamedTuple):
    """What a SecAdam client sends: its bias-corrected Adam moments, each shaped like w."""

    m: PyTree
    v: PyTree


class Controlled(NamedTuple):
    """What a SCAFFOLD client sends: w - w_i, and the change of its control variate."""

    update: PyTree
    control: PyTree


class Algorithm(NamedTuple):
    """A federated algorithm.

    Attributes:
        init_client: params -> what a client keeps from round to round.
        local_step: (`Broadcast`, local params, client state, gradient) -> (local params, client
            state).
        message: (`Broadcast`, local params, client state) -> (what the client sends, client state).
        init_server: params -> server state.
        broadcast: (params, server state) -> `Broadcast`.
        reveal: a message, or the mean of messages -> the pseudo-gradient that it shows the server,
            shaped like params.
        server_step: (params, server state, mean message, share of all clients that took part) ->
            (what to add to the parameters, server state).
        sends: what a message holds: `UPDATES`, `MOMENTS` or `CONTROLLED`.
        secure: whether the algorithm's promise rests on secure aggregation.
        client_rate: the clients' learning rate, which is public.
    """

    init_client: Callable
    local_step: Callable
    message: Callable
    init_server: Callable
    broadcast: Callable
    reveal: Callable
    server_step: Callable
    sends: str
    secure: bool
    client_rate: float


def fedavg(client_rate: float = 0.1, server_rate: float = 1.0) -> Algorithm:
    """FedAvg (McMahan et al. 2017, arXiv:1602.05629): w <- w - mean of (w - w_i)."""
    return _fedopt(optax.sgd(client_rate), optax.sgd(server_rate), client_rate)


def adam(client_rate: float = 0.001, server_rate: float = 1.0) -> Algorithm:
    """FedAvg whose clients run Adam (Kingma and Ba 2015, arXiv:1412.6980)."""
    return _fedopt(optax.adam(client_rate, B1, B2), optax.sgd(server_rate), client_rate)


def fedadam(client_rate: float = 0.1, server_rate: float = 0.01) -> Algorithm:
    """FedAdam (Reddi et al. 2021, arXiv:2003.00295): Adam at the server, on the mean update."""
    return _fedopt(optax.sgd(client_rate), optax.adam(server_rate, B1, B2), client_rate)


def secagg(client_rate: float = 0.1, server_rate: float = 1.0) -> Algorithm:
    """FedAvg under secure aggregation (Bonawitz et al. 2017): the server sees the mean alone."""
    return fedavg(client_rate, server_rate)._replace(secure=True)


def secadam(
    client_rate: float = 0.001,
    server_rate: float = 0.001,
    offset: float = MOMENT_OFFSET,
    bias_correction: bool = True,
    floor: float | None = None,
) -> Algorithm:
    """SecAdam: the server learns only u = mean(m) / sqrt(mean(v)), and steps along it.

    Args:
        client_rate: learning rate of the clients' Adam, above 0.
        server_rate: step along u, above 0.
        offset: added to every entry of v, at least 0.
        bias_correction: whether clients send bias-corrected moments, as the paper has it.
        floor: what an entry of mean(v) counts as at least in u, at least 0; None for as it is. For
            noisy moments, of which entries are negative: see `clip_and_noise.moments_privatiser`.
    """
    server = optax.sgd(server_rate)
    return _secadam(client_rate, server, offset, bias_correction, floor)


def secadam_fedadam(
    client_rate: float = 0.001,
    server_rate: float = 0.001,
    offset: float = MOMENT_OFFSET,
    local_steps: int = 1,
) -> Algorithm:
    """SecAdam with Adam at the server, whose decays match the clients' over a whole round.

    Args:
        client_rate: learning rate of the clients' Adam, above 0.
        server_rate: learning rate of the server's Adam, above 0.
        offset: added to every entry of v, at least 0.
        local_steps: E, the steps of a round; the server decays by 0.9^E and 0.999^E.
    """
    server = optax.adam(server_rate, B1**local_steps, B2**local_steps)
    return _secadam(client_rate, server, offset)


def fedprox(
    client_rate: float = 0.1, server_rate: float = 1.0, proximity: float = 0.01
) -> Algorithm:
    """FedProx (Li et al. 2020, arXiv:1812.06127): clients pay for leaving w.

    Args:
        client_rate: learning rate of the clients' SGD, above 0.
        server_rate: step along the mean update, above 0.
        proximity: mu, at least 0; a client minimises its loss plus mu / 2 |w_i - w|^2.
    """
    plain = fedavg(client_rate, server_rate)

    def local_step(received, local, state, gradient):
        pull = jax.tree.map(lambda w_i, w: proximity * (w_i - w), local, received.params)
        return plain.local_step(received, local, state, optax.tree.add(gradient, pull))

    return plain._replace(local_step=local_step)


def scaffold(client_rate: float = 0.1, server_rate: float = 1.0, local_steps: int = 1) -> Algorithm:
    """SCAFFOLD (Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1, option II).

    Client i keeps a control variate c_i, and the server their mean c, which it broadcasts. Local
    steps follow g - c_i + c; after them c_i becomes c_i - c + (w - w_i) / (K client_rate).

    Args:
        client_rate: learning rate of the clients' SGD, above 0.
        server_rate: step along the mean update, above 0.
        local_steps: K, the steps of a round.
    """

    def local_step(received, local, own, gradient):
        corrected = jax.tree.map(lambda g, c_i, c: g - c_i + c, gradient, own, received.extra)
        return optax.tree.add_scale(local, -client_rate, corrected), own

    def message(received, local, own):
        update = optax.tree.sub(received.params, local)
        change = optax.tree.scale(1 / (local_steps * client_rate), update)
        change = optax.tree.sub(change, received.extra)
        return Controlled(update, change), optax.tree.add(own, change)

    def server_step(params, control, mean, share):
        step = optax.tree.scale(-server_rate, mean.update)
        return step, optax.tree.add_scale(control, share, mean.control)

    zeros, said = optax.tree.zeros_like, (server_step, CONTROLLED, False, client_rate)
    return Algorithm(zeros, local_step, message, zeros, Broadcast, attrgetter("update"), *said)


def _secadam(client_rate, server_optimizer, offset, bias_correction=True, floor=None):
    """SecAdam's clients, with an optimizer that the server applies to the ratio."""

    def message(received, local, state):
        return _sent(state[0], offset, bias_correction), state

    client = optax.adam(client_rate, B1, B2)
    plain = _fedopt(client, server_optimizer, client_rate, partial(_ratio, floor=floor))
    return plain._replace(message=message, sends=MOMENTS, secure=True)


def _fedopt(client, server, client_rate, reveal=lambda mean: mean):
    """One optax optimizer at the clients, another at the server (Reddi et al. 2021)."""

    def local_step(received, local, state, gradient):
        update, state = client.update(gradient, state, local)
        return optax.apply_updates(local, update), state

    def message(received, local, state):
        return jax.tree.map(jnp.subtract, received.params, local), state

    def server_step(params, state, mean, share):
        return server.update(reveal(mean), state, params)

    def broadcast(params, state):
        return Broadcast(params)

    said = (reveal, server_step, UPDATES, False, client_rate)
    return Algorithm(client.init, local_step, message, server.init, broadcast, *said)


def _sent(state, offset, bias_correction):
    """The moments that a client sends, from the state of `optax.scale_by_adam`."""
    m, v = state.mu, state.nu
    if bias_correction:
        m = optax.tree.bias_correction(m, B1, state.count)
        v = optax.tree.bias_correction(v, B2, state.count)
    return Moments(m, jax.tree.map(lambda entry: entry + offset, v))


def _ratio(mean, floor):
    v = mean.v
    if floor is not None:
        v = jax.tree.map(lambda entry: jnp.maximum(entry, floor), v)
    return jax.tree.map(lambda m, v: m / jnp.sqrt(v), mean.m, v)


ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "fedavg": fedavg,
    "adam": adam,
    "fedadam": fedadam,
    "secagg": secagg,
    "secadam": secadam,
    "secadam_fedadam": secadam_fedadam,
    "fedprox": fedprox,
    "scaffold": scaffold,
}
# The published code's names.
ALIASES = {"sgd": "fedavg", "ours": "secadam", "oursfedadam": "secadam_fedadam"}


def build(name: str, local_steps: int = 1, **settings: Any) -> Algorithm:
    """Build an algorithm.

    Args:
        name: a key of `ALGORITHMS`.
        local_steps: of a round, for the algorithms that depend on it.
        settings: further arguments of the algorithm's function.
    """
    builder = ALGORITHMS[name]
    if "local_steps" in inspect.signature(builder).parameters:
        builder = partial(builder, local_steps=local_steps)
    return builder(**settings)
