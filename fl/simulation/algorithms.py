"""The federated algorithms, as pure functions over pytrees.

Each round, every client starts from the global parameters w, takes its local steps with an optax
optimizer whose state lives on from round to round, and sends a message. The server averages the
messages, turns the mean into a pseudo-gradient and takes one step of its own optax optimizer
(FedOpt: Reddi et al. 2021, arXiv:2003.00295). The algorithms differ in these four parts alone:

=================  ============  =====================  ===================  ====================
algorithm          client        message                pseudo-gradient      server
=================  ============  =====================  ===================  ====================
fedavg, secagg     SGD(0.1)      w - w_i                mean                 SGD(1)
adam               Adam(0.001)   w - w_i                mean                 SGD(1)
fedadam            SGD(0.1)      w - w_i                mean                 Adam(0.01)
secadam            Adam(0.001)   moments m_i, v_i       mean m / sqrt(mean v)  SGD(0.001)
secadam_fedadam    Adam(0.001)   moments m_i, v_i       mean m / sqrt(mean v)  Adam(0.001)
=================  ============  =====================  ===================  ====================
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any

# What messages hold.
UPDATES, MOMENTS = "updates", "moments"
B1, B2 = 0.9, 0.999
# Added to the second moments, so that the ratio stays finite where no gradient ever was: the
# square of the 1e-8 that Adam adds to their root.
MOMENT_OFFSET = 1e-8**2


class Moments(NamedTuple):
    """What a SecAdam client sends: its bias-corrected Adam moments, each shaped like w."""

    m: PyTree
    v: PyTree


class OneStep(NamedTuple):
    """An exact shortcut for clients that all take one local step in every round.

    Where a message depends linearly on statistics of the local gradient (g itself, or g and g^2),
    and so does the optimizer state, their means over clients obey the same recurrence as a single
    client's. One mean state then stands for all clients' states. It holds only as long as nobody
    asks for a single client's message or state.

    Attributes:
        statistics: gradient -> statistics, to be averaged over clients; None where that is the
            gradient itself, whose mean is the gradient of the mean loss.
        init: params -> mean client state.
        message: (mean client state, mean statistics) -> (mean message, mean client state).
    """

    statistics: Callable | None
    init: Callable
    message: Callable


class Algorithm(NamedTuple):
    """A federated algorithm.

    Attributes:
        client_optimizer: what a client takes its local steps with.
        message: (w, w_i, client optimizer state) -> what client i sends.
        pseudo_gradient: mean message -> the gradient that the server's optimizer is shown.
        server_optimizer: what the server steps with.
        one_step: the shortcut for one local step; None where there is none.
        sends: what a message holds, `UPDATES` (w - w_i) or `MOMENTS` (`Moments`).
        secure: whether the algorithm's promise rests on secure aggregation.
        client_rate: the clients' learning rate, which is public.
    """

    client_optimizer: optax.GradientTransformation
    message: Callable
    pseudo_gradient: Callable
    server_optimizer: optax.GradientTransformation
    one_step: OneStep | None
    sends: str
    secure: bool
    client_rate: float


def fedavg(client_rate: float = 0.1, server_rate: float = 1.0) -> Algorithm:
    """FedAvg (McMahan et al. 2017, arXiv:1602.05629): w <- w - mean of (w - w_i)."""
    client = optax.sgd(client_rate)
    return _averaging(client, optax.sgd(server_rate), _linear(client), client_rate)


def adam(client_rate: float = 0.001, server_rate: float = 1.0) -> Algorithm:
    """FedAvg whose clients run Adam (Kingma and Ba 2015, arXiv:1412.6980)."""
    client = optax.adam(client_rate, B1, B2)
    return _averaging(client, optax.sgd(server_rate), None, client_rate)


def fedadam(client_rate: float = 0.1, server_rate: float = 0.01) -> Algorithm:
    """FedAdam (Reddi et al. 2021, arXiv:2003.00295): Adam at the server, on the mean update."""
    client = optax.sgd(client_rate)
    return _averaging(client, optax.adam(server_rate, B1, B2), _linear(client), client_rate)


def secagg(client_rate: float = 0.1, server_rate: float = 1.0) -> Algorithm:
    """FedAvg under secure aggregation (Bonawitz et al. 2017): the server sees the mean alone."""
    return fedavg(client_rate, server_rate)._replace(secure=True)


def secadam(
    client_rate: float = 0.001,
    server_rate: float = 0.001,
    offset: float = MOMENT_OFFSET,
    bias_correction: bool = True,
) -> Algorithm:
    """SecAdam: the server learns only u = mean(m) / sqrt(mean(v)), and steps along it.

    Args:
        client_rate: learning rate of the clients' Adam, above 0.
        server_rate: step along u, above 0.
        offset: added to every entry of v, at least 0.
        bias_correction: whether clients send bias-corrected moments, as the paper has it.
    """
    send = partial(_sent, offset=offset, bias_correction=bias_correction)
    return Algorithm(
        client_optimizer=optax.adam(client_rate, B1, B2),
        message=lambda w, w_i, state: send(state[0]),
        pseudo_gradient=_ratio,
        server_optimizer=optax.sgd(server_rate),
        one_step=OneStep(
            statistics=lambda g: Moments(g, jax.tree.map(jnp.square, g)),
            init=optax.scale_by_adam(B1, B2).init,
            message=partial(_mean_moments, send),
        ),
        sends=MOMENTS,
        secure=True,
        client_rate=client_rate,
    )


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
    return secadam(client_rate, server_rate, offset)._replace(server_optimizer=server)


def _averaging(client, server, one_step, client_rate):
    return Algorithm(
        client_optimizer=client,
        message=lambda w, w_i, _: jax.tree.map(jnp.subtract, w, w_i),
        pseudo_gradient=lambda mean: mean,
        server_optimizer=server,
        one_step=one_step,
        sends=UPDATES,
        secure=False,
        client_rate=client_rate,
    )


def _linear(client):
    """The shortcut of an optimizer whose update is linear in the gradient."""

    def message(state, gradient):
        update, state = client.update(gradient, state)
        return jax.tree.map(jnp.negative, update), state

    return OneStep(statistics=None, init=client.init, message=message)


def _mean_moments(send, state, statistics):
    """The mean of all clients' messages after one step, from the means of g and g^2."""
    state = state._replace(
        count=state.count + 1,
        mu=optax.tree.update_moment(statistics.m, state.mu, B1, order=1),
        nu=optax.tree.update_moment(statistics.v, state.nu, B2, order=1),
    )
    return send(state), state


def _sent(state, offset, bias_correction):
    """The moments that a client sends, from the state of `optax.scale_by_adam`."""
    m, v = state.mu, state.nu
    if bias_correction:
        m = optax.tree.bias_correction(m, B1, state.count)
        v = optax.tree.bias_correction(v, B2, state.count)
    return Moments(m, jax.tree.map(lambda entry: entry + offset, v))


def _ratio(mean):
    return jax.tree.map(lambda m, v: m / jnp.sqrt(v), mean.m, mean.v)


ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "fedavg": fedavg,
    "adam": adam,
    "fedadam": fedadam,
    "secagg": secagg,
    "secadam": secadam,
    "secadam_fedadam": secadam_fedadam,
}
# The published code's names.
ALIASES = {"sgd": "fedavg", "ours": "secadam", "oursfedadam": "secadam_fedadam"}
