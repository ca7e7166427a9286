"""A federation on the hardware that there is.

This is the one place that chooses how clients and rounds are mapped; what the choice rests on is
measured by `python -m fl.bench`, see `mapping` and `pooling`. Unrolled rounds are dispatched one by
one; rounds of clients side by side are scanned. Where there are several devices, clients are spread
over them, see `sharding`.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fl.data.sampling import Schedule
from fl.simulation import dispatch, pooling, processes, rounds
from fl.simulation.dispatch import Federation
from fl.simulation.mapping import (
    LOOP,
    MAPPINGS,
    SHARDED,
    VMAP,
    Mapper,
    default_mapping,
    group_size,
    stack,
)
from fl.simulation.placing import Parts, all_devices
from fl.simulation.resting import Resting
from fl.simulation.rounds import State, Work
from fl.simulation.sharding import Sharded, members_of, rows_of
from fl.simulation.training import Samples

PyTree = Any


def keep_compiled_code() -> None:
    """Keep compiled code on disk, so that the next process need not compile it again.

    It goes where `JAX_COMPILATION_CACHE_DIR` says, by default `~/.cache/secadam/jax`.
    """
    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(home / "secadam" / "jax"))
    # Also the many small functions that compile in less than JAX's default of a second.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def choose_mapping(name: str | None) -> None:
    """Map clients in one way wherever `start` is not told otherwise, for the whole process.

    Args:
        name: one of `MAPPINGS`; None for the fastest that can be.
    """
    _chosen[:] = [name]


def placement() -> tuple:
    """What the last bits of a federation depend on: the mapping that was chosen, the devices."""
    return *_chosen, jax.default_backend(), jax.device_count()


_chosen = [None]


def start(
    work: Work,
    params: PyTree,
    samples: Samples,
    clients: int,
    local_steps: int,
    mapping: str | None = None,
    keep_clients: bool = False,
    seed: int = 0,
    rest: bool = False,
) -> Federation:
    """Start a federation. Nothing is compiled before the first round.

    Args:
        work: the algorithm, the loss, the hardening and so on.
        params: the initial global parameters.
        samples: the training set; anything with `take` and `only` as `Samples` has them. Of several
            processes each takes its own clients' samples alone to its devices.
        clients: number of clients in the federation.
        local_steps: steps of each client in a round, at least 1.
        mapping: one of `MAPPINGS`; by default what `choose_mapping` was told, and else `SHARDED`
            where there are several devices, or the fastest on one.
        keep_clients: keep every client's own state even where a mean state could stand for all.
        seed: of what clients draw themselves, such as noise; not of their minibatches.
        rest: whether clients may stay away from a round; then their states rest on the host.

    Raises:
        ValueError: for a mapping that is not one of `MAPPINGS`, or, where the host aggregates, is
            `VMAP`.
    """
    mapper = _mapper(work, params, mapping)
    pooled = not keep_clients and not rest and pooling.applies(work, local_steps, params)
    way = (pooling if pooled else rounds).build(work, mapper)
    params = jax.tree.map(jnp.copy, params)  # the caller's own are not given up
    state = State(
        params,
        work.algorithm.init_server(params),
        () if rest else way.init_clients(params, clients),
        jax.random.PRNGKey(seed),
        work.init_memory(params, clients),
    )
    if isinstance(mapper, Sharded):
        federation = dispatch.on_devices(way, mapper, state, samples, clients, pooled)
    else:
        federation = dispatch.on_one_device(way, mapper, state, samples, clients)
    if rest:
        one = work.algorithm.init_client(params)
        federation = dispatch.with_resting(federation, mapper, one, clients)
    run = _checked(federation.run, clients, local_steps, pooled, rest)
    return federation._replace(run=run)


def client_states(state: State, count: int) -> PyTree:
    """What every client keeps, stacked [client, ...], of a federation with `keep_clients`.

    Args:
        state: between two rounds; not given up.
        count: number of clients.
    """
    clients = state.clients
    if isinstance(clients, Resting):
        clients = clients.everybody()
    elif isinstance(clients, Parts):
        clients = rows_of(clients)
    elif isinstance(clients, list):  # unrolled; what clients keep is no list
        clients = stack(clients)
    return jax.tree.map(lambda leaf: leaf[:count], clients)


def copied(state: State) -> State:
    """A copy that stays when rounds go on from this state, which gives it up."""
    clients = state.clients
    common = jax.tree.map(jnp.copy, state._replace(clients=()))
    resting = isinstance(clients, Resting)
    return common._replace(clients=clients.copied() if resting else jax.tree.map(jnp.copy, clients))


def packed(state: State) -> State:
    """A state as checkpoints hold it: its clients in arrays that are whole, or rest on the host."""
    clients = state.clients
    if isinstance(clients, Resting):
        clients = clients.packed()
    elif isinstance(clients, Parts):
        clients = rows_of(clients)
    return state._replace(clients=clients)


def unpacked(state: State, like: State) -> State:
    """A state out of one that is `packed`, for a federation that has a state like another."""
    clients = state.clients
    if isinstance(like.clients, Resting):
        clients = like.clients.unpacked(clients)
    elif isinstance(like.clients, Parts):
        clients = members_of(clients, like.clients)
    return state._replace(clients=clients)


def whole(state: State, count: int) -> State:
    """A state that is spread over processes, in each of them, clients stacked [client, ...].

    Args:
        state: between two rounds; not given up.
        count: number of clients.
    """
    gathered = processes.to_host(packed(state))
    return jax.device_put(gathered._replace(clients=client_states(gathered, count)))


def _mapper(work, params, name):
    on_host = work.aggregator is not None and work.aggregator.on_host
    possible = tuple(each for each in MAPPINGS if not (on_host and each == VMAP))
    one_device = LOOP if on_host else default_mapping()
    name = name or _chosen[0] or (SHARDED if jax.device_count() > 1 else one_device)
    if name not in possible:
        raise ValueError(f"unknown mapping {name}: choose from {', '.join(possible)}")
    mapper = Mapper((one_device if name == SHARDED else name) == VMAP, group_size(params))
    return Sharded(mapper, all_devices()) if name == SHARDED else mapper


def _checked(run, clients, local_steps, pooled, rest):
    """Refuse a schedule that the federation was not started for."""

    def checked(state, schedule: Schedule):
        rounds, cohort, steps, _ = schedule.indices.shape
        fits = schedule.clients.shape == (rounds, cohort) and len(schedule.weights) == clients
        if rounds < 1 or not fits or not 1 <= cohort <= clients or steps != local_steps:
            raise ValueError(
                f"minibatches [round, client, step, batch] of shape {schedule.indices.shape} for a "
                f"federation of {clients} clients and {local_steps} local steps"
            )
        if pooled and schedule.deviates is not None:
            raise ValueError("clients that deviate from the protocol need keep_clients")
        if not rest and cohort < clients:
            raise ValueError("clients that stay away need rest")
        return run(state, schedule)

    return checked
