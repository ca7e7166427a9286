"""A federation on the hardware that there is.

This is the one place that chooses how clients and rounds are mapped; what the choice rests on is
measured by `python -m fl.bench`, see `mapping` and `pooling`. Unrolled rounds are dispatched one by
one; rounds of clients side by side are scanned, and their clients spread over the devices.
"""

import math
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fl.data.sampling import Schedule
from fl.simulation import pooling, rounds
from fl.simulation.mapping import (
    MAPPINGS,
    UNROLLED,
    VMAP,
    Mapper,
    default_mapping,
    group_size,
    stack,
)
from fl.simulation.rounds import Cohort, State, Work
from fl.simulation.training import Samples

PyTree = Any

# Rounds in one dispatch when scanned.
SCANNED = 50


def keep_compiled_code() -> None:
    """Keep compiled code on disk, so that the next process need not compile it again.

    It goes where `JAX_COMPILATION_CACHE_DIR` says, by default `~/.cache/secadam/jax`.
    """
    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(home / "secadam" / "jax"))
    # Also the many small functions that compile in less than JAX's default of a second.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


class Federation(NamedTuple):
    """A federation before its first round.

    Attributes:
        state: where it starts.
        run: (state, `Schedule`) -> (state, losses [round]). Runs some rounds and gives up the
            buffers of the state passed in. The losses are means over clients and local steps, on
            the hardened minibatches, in nats. Raises ValueError for no round, for other clients or
            steps than the federation was started for, and for clients that stay away or deviate
            where they have no states of their own (`keep_clients`).
        chunk: rounds a call should run, the same in each: another number compiles anew.
    """

    state: State
    run: Callable
    chunk: int


def start(
    work: Work,
    params: PyTree,
    samples: Samples,
    clients: int,
    local_steps: int,
    mapping: str | None = None,
    keep_clients: bool = False,
    seed: int = 0,
) -> Federation:
    """Start a federation. Nothing is compiled before the first round.

    Args:
        work: the algorithm, the loss, the hardening and so on.
        params: the initial global parameters.
        samples: the training set; anything with `take` as `Samples` has it.
        clients: number of clients in the federation.
        local_steps: steps of each client in a round, at least 1.
        mapping: one of `MAPPINGS`; by default the fastest that can be.
        keep_clients: keep every client's own state even where a mean state could stand for all.
        seed: of what clients draw themselves, such as noise; not of their minibatches.

    Raises:
        ValueError: for a mapping that is not one of `MAPPINGS`, or where the host aggregates, not
            the first of them.
    """
    mapper = _mapper(work, params, mapping)
    pooled = not keep_clients and pooling.applies(work, local_steps, params)
    way = (pooling if pooled else rounds).build(work, mapper)
    params = jax.tree.map(jnp.copy, params)  # the caller's own are not given up
    state = State(
        params,
        work.algorithm.init_server(params),
        way.init_clients(params, clients),
        jax.random.PRNGKey(seed),
        work.init_memory(params, clients),
    )
    if mapper.vmapped:
        federation = _side_by_side(way, state, samples, clients, stacked=not pooled)
    else:
        federation = Federation(state, _one_by_one(way, samples, clients), chunk=1)
    return federation._replace(run=_checked(federation.run, clients, local_steps, pooled))


def client_states(state: State) -> PyTree:
    """What every client keeps, stacked [client, ...], of a federation with `keep_clients`.

    Args:
        state: between two rounds; not given up.
    """
    if isinstance(state.clients, list):  # unrolled; what clients keep is no list
        return stack(state.clients)
    return state.clients


def _mapper(work, params, name):
    on_host = work.aggregator is not None and work.aggregator.on_host
    possible = (UNROLLED,) if on_host else MAPPINGS
    name = name or (UNROLLED if on_host else default_mapping())
    if name not in possible:
        raise ValueError(f"unknown mapping {name}: choose from {', '.join(possible)}")
    return Mapper(name == VMAP, group_size(params))


def _one_by_one(way, samples, clients):
    """Dispatch rounds one by one."""

    def run(state, schedule):
        losses = []
        for cohort in _cohorts(schedule):
            state, loss = way.one_round(state, samples, cohort, clients)
            losses.append(loss)
        return state, jnp.stack(losses)

    return run


def _cohorts(schedule):
    clients, indices, weights, deviates = schedule
    for number, who in enumerate(clients):
        yield Cohort(
            who, indices[number], weights[who], None if deviates is None else deviates[who]
        )


def _side_by_side(way, state, samples, clients, stacked):
    """Place a federation on the devices: what has a client axis is spread along it."""
    devices = jax.devices()[: math.gcd(clients, jax.device_count())]
    mesh = Mesh(np.array(devices), ("clients",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    by_client = NamedSharding(mesh, PartitionSpec("clients"))
    by_round_and_client = NamedSharding(mesh, PartitionSpec(None, "clients"))
    clients_at = by_client if stacked else everywhere
    placement = State(everywhere, everywhere, clients_at, everywhere, everywhere)
    samples, state = jax.device_put(samples, everywhere), jax.device_put(state, placement)
    scan = _compiled_scan(way, clients, placement, everywhere)

    def run(state, schedule):
        everyone = schedule.clients.shape[1] == clients
        cohorts = jax.tree.map(lambda *each: np.stack(each), *_cohorts(schedule))
        return scan(
            state, samples, jax.device_put(cohorts, by_round_and_client if everyone else everywhere)
        )

    return Federation(state, run, SCANNED)


# Runs that differ in their seed alone share what is compiled.
@lru_cache
def _compiled_scan(way, clients, *placement):
    def run(state, samples, cohorts):
        return lax.scan(
            lambda state, cohort: way.one_round(state, samples, cohort, clients), state, cohorts
        )

    return jax.jit(run, donate_argnums=0, out_shardings=placement)


def _checked(run, clients, local_steps, pooled):
    """Refuse a schedule that the federation was not started for."""

    def checked(state, schedule: Schedule):
        rounds, cohort, steps, _ = schedule.indices.shape
        fits = schedule.clients.shape == (rounds, cohort) and len(schedule.weights) == clients
        if rounds < 1 or not fits or not 1 <= cohort <= clients or steps != local_steps:
            raise ValueError(
                f"minibatches [round, client, step, batch] of shape {schedule.indices.shape} for a "
                f"federation of {clients} clients and {local_steps} local steps"
            )
        if pooled and (schedule.deviates is not None or cohort < clients):
            raise ValueError(
                "clients that deviate from the protocol or stay away need keep_clients"
            )
        return run(state, schedule)

    return checked
