"""How the rounds of a federation get onto the devices: one by one, or several in a scan."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from fl.simulation import placing, processes
from fl.simulation.mapping import Mapper
from fl.simulation.placing import AXIS, COMMON, OWN
from fl.simulation.resting import Resting
from fl.simulation.rounds import Cohort, Rounds, State
from fl.simulation.sharding import Sharded
from fl.simulation.training import Samples

PyTree = Any

# Rounds in one dispatch when scanned.
SCANNED = 50


class Federation(NamedTuple):
    """A federation before its first round.

    Attributes:
        state: where it starts.
        run: (state, `Schedule`) -> (state, losses [round]). Runs some rounds and gives up the
            buffers of the state passed in. The losses are means over clients and local steps, on
            the hardened minibatches, in nats. Raises ValueError for no round, for other clients or
            steps than the federation was started for, for clients that deviate where they have no
            states of their own (`keep_clients`), and for some that stay away unless they may rest.
        chunk: rounds a call should run, the same in each: another number compiles anew.
    """

    state: State
    run: Callable
    chunk: int


def on_one_device(
    way: Rounds, mapper: Mapper, state: State, samples: Samples, clients: int
) -> Federation:
    """Run a federation on one device; as `on_devices`."""
    if mapper.vmapped:
        return Federation(state, _scanned(way, samples, clients), SCANNED)

    def rounds_of(schedule):
        return ((samples, cohort) for cohort in _cohorts(schedule))

    return Federation(state, _one_by_one(way, clients, rounds_of), chunk=1)


def _one_by_one(way, clients, rounds_of):
    """Dispatch rounds one by one, each with its samples and its cohort."""

    def run(state, schedule):
        count, losses = schedule.clients.shape[1], []
        for samples, cohort in rounds_of(schedule):
            state, loss = way.one_round(state, samples, cohort, count, clients)
            losses.append(processes.on_one_device(loss))
        return state, jnp.stack(losses)

    return run


def _cohorts(schedule):
    clients, indices, weights, deviates = schedule
    for number, who in enumerate(clients):
        yield Cohort(
            who, indices[number], weights[who], None if deviates is None else deviates[who]
        )


def _stacked_cohorts(schedule):
    return jax.tree.map(lambda *each: np.stack(each), *_cohorts(schedule))


def _scanned(way, samples, clients):
    """Run rounds of clients side by side on one device, several in a dispatch."""

    def run(state, schedule):
        scan = _compiled_scan(way, schedule.clients.shape[1], clients)
        return scan(state, samples, _stacked_cohorts(schedule))

    return run


# Runs that differ in their seed alone share what is compiled.
@lru_cache
def _compiled_scan(*arguments):
    return jax.jit(_scan(*arguments), donate_argnums=0)


def _scan(way, count, clients):
    def run(state, samples, cohorts):
        return lax.scan(
            lambda state, cohort: way.one_round(state, samples, cohort, count, clients),
            state,
            cohorts,
        )

    return run


def on_devices(
    way: Rounds, mapper: Sharded, state: State, samples: Samples, clients: int, pooled: bool
) -> Federation:
    """Spread a federation over the devices.

    Args:
        way: of computing rounds.
        mapper: as of `way`.
        state: before the first round.
        samples: see `fl.simulation.engine.start`.
        clients: number of clients in the federation.
        pooled: whether what clients keep is of the mean client.
    """
    mesh = mapper.mesh
    common = state if pooled else state._replace(clients=())
    common = placing.spread(mesh, common)
    state = common if pooled else common._replace(clients=state.clients)
    everything = None if processes.several() else placing.spread(mesh, samples)

    def with_samples(cohorts):
        cohorts = placing.fill_cohorts(mesh, cohorts)
        if everything is None:
            return placing.bring(mesh, samples, cohorts)
        return everything, cohorts

    if mapper.vmapped:
        run = _sharded_scan(way, mapper, with_samples, clients, pooled)
        return Federation(state, run, SCANNED)

    def rounds_of(schedule):
        for cohort in _cohorts(schedule):
            own, cohorts = with_samples(jax.tree.map(lambda leaf: leaf[None], cohort))
            yield own, jax.tree.map(lambda leaf: placing.deal(mesh, leaf[0]), cohorts)

    return Federation(state, _one_by_one(way, clients, rounds_of), chunk=1)


def _sharded_scan(way, mapper, with_samples, clients, pooled):
    """As `_scanned`, with each device's clients side by side."""

    def run(state, schedule):
        scan = _compiled_sharded_scan(way, mapper, schedule.clients.shape[1], clients, pooled)
        samples, cohorts = with_samples(_stacked_cohorts(schedule))
        put = partial(placing.put, mapper.mesh, spec=PartitionSpec(None, AXIS))
        return scan(state, samples, jax.tree.map(put, cohorts))

    return run


@lru_cache
def _compiled_sharded_scan(way, mapper, count, clients, pooled):
    state = State(COMMON, COMMON, COMMON if pooled else OWN, COMMON, COMMON)
    return mapper.around(_scan(way, count, clients), state)


def with_resting(
    federation: Federation, mapper: Mapper | Sharded, client: PyTree, count: int
) -> Federation:
    """Let clients rest that are not in a round.

    Args:
        federation: of clients without states.
        mapper: as of its rounds.
        client: what a client keeps before its first round.
        count: number of clients.
    """
    keeps_something = bool(jax.tree.leaves(client))

    def run(state, schedule):
        everyone, cohort = state.clients, schedule.clients.shape[1]
        # What keeps nothing goes through all rounds at once.
        rounds_at_once = 1 if keeps_something else len(schedule.clients)
        losses = []
        for first in range(0, len(schedule.clients), rounds_at_once):
            now = slice(first, first + rounds_at_once)
            some = schedule._replace(clients=schedule.clients[now], indices=schedule.indices[now])
            who = schedule.clients[first]
            awake = mapper.load(everyone.take(who), cohort)
            state, loss = federation.run(state._replace(clients=awake), some)
            if keeps_something:
                everyone.put(who, mapper.unload(state.clients, cohort))
            losses.append(loss)
        return state._replace(clients=everyone), jnp.concatenate(losses)

    state = federation.state._replace(clients=Resting(client, count))
    return Federation(state, run, 1 if keeps_something else federation.chunk)
