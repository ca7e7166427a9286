"""A federation, and the choice of how its clients and rounds are mapped onto hardware.

This is the one place that knows about hardware; algorithms and experiments do not. What the choice
rests on is measured by `python -m fl.bench`:

* On CPU, clients are *unrolled*, several of them in one compiled function. A vmapped weight
  gradient of a convolution would become a grouped convolution, and any gradient of a convolution
  inside a compiled loop leaves XLA's fast path: both are several times slower. Rounds are
  dispatched one by one.
* On GPU, clients are *vmapped* and rounds scanned, so that a round is a few large kernels and a
  chunk of rounds one dispatch. With several GPUs, clients are spread over them.
* Where every client takes one local step, an algorithm's `OneStep` shortcut replaces the clients'
  states by their mean.
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

from fl.simulation import rounds
from fl.simulation.hardware import cores
from fl.simulation.rounds import State, Work
from fl.simulation.training import Samples

PyTree = Any

# Clients compiled into one function when unrolled: enough to keep two and more cores busy, few
# enough to keep compiling short.
GROUP = 10
# Samples that pass through convolutions together on CPU: more of them leave the cache.
CONVOLUTION_COHORT = 32
# Rounds in one dispatch when scanned.
SCANNED = 50


class Mapping(NamedTuple):
    """How clients and rounds are mapped onto hardware.

    Attributes:
        clients: "unrolled" (compiled in groups of `GROUP`) or "vmap" (side by side).
        rounds: "loop" (dispatched one by one) or "scan" (one dispatch for all rounds of a call;
            only with clients="vmap").
    """

    clients: str
    rounds: str


MAPPINGS = (Mapping("unrolled", "loop"), Mapping("vmap", "loop"), Mapping("vmap", "scan"))


def default_mapping() -> Mapping:
    """Choose the mapping that `fl.bench` found fastest on the present backend."""
    return MAPPINGS[0] if jax.default_backend() == "cpu" else MAPPINGS[2]


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
        run: (state, `Schedule`) -> (state, losses [round]). Runs some rounds and gives
            up the buffers of the state passed in. The losses are means over clients and local
            steps, on the hardened minibatches, in nats. Raises ValueError for no round, for other
            clients or steps than the federation was started for, and for clients that depart from
            the protocol where they have no states of their own (`keep_clients`).
        chunk: rounds a call should run, the same in each: another number compiles anew.
    """

    state: State
    run: Callable
    chunk: int


def start(
    work: Work,
    params: PyTree,
    samples: Samples,
    minibatches: tuple[int, int],
    local_steps: int,
    mapping: Mapping | None = None,
    keep_clients: bool = False,
    seed: int = 0,
) -> Federation:
    """Start a federation. Nothing is compiled before the first round.

    Args:
        work: the algorithm, the loss, the hardening and so on.
        params: the initial global parameters.
        samples: the training set; anything with `take` as `Samples` has it.
        minibatches: (clients, samples in a minibatch).
        local_steps: steps of each client in a round, at least 1.
        mapping: one of `MAPPINGS`; by default the fastest that can be.
        keep_clients: keep every client's own state even where the shortcut could do without.
        seed: of what clients draw themselves, such as noise; not of their minibatches.

    Raises:
        ValueError: for a mapping that is not one of `MAPPINGS`, or where the host aggregates, not
            the first of them.
    """
    on_host = work.aggregator is not None and work.aggregator.on_host
    possible = MAPPINGS[:1] if on_host else MAPPINGS
    mapping = mapping or (possible[0] if on_host else default_mapping())
    if mapping not in possible:
        raise ValueError(f"unknown mapping {mapping}: choose from {possible}")
    clients, batch = minibatches
    single = keep_clients or work.needs_messages
    shortcut = local_steps == 1 and not single and work.algorithm.one_step is not None
    convolutional = any(leaf.ndim == 4 for leaf in jax.tree.leaves(params))
    group = _group(convolutional)
    if mapping.clients == "vmap":
        way = rounds.pooled(work) if shortcut else rounds.stacked(work)
    elif shortcut:
        cohort = _cohort(work, batch) if convolutional else None
        way = rounds.pooled_in_groups(work, group, cohort)
    else:
        way = rounds.unrolled(work, group)
    params = jax.tree.map(jnp.copy, params)  # the caller's own are not given up
    state = State(
        params,
        work.algorithm.server_optimizer.init(params),
        way.init_clients(params, clients),
        jax.random.PRNGKey(seed),
        work.init_memory(params, clients),
    )
    if mapping.clients == "vmap":
        stacked = not shortcut
        federation = _start_vmapped(way, state, samples, clients, mapping.rounds, stacked)
    else:
        federation = Federation(state, _loop(way.one_round, samples), chunk=1)
    return federation._replace(run=_checked(federation.run, clients, local_steps, shortcut))


def client_states(state: State) -> PyTree:
    """Every client's optimizer state, stacked [client, ...], of a federation with `keep_clients`.

    Args:
        state: between two rounds; not given up.
    """
    if isinstance(state.clients, list):  # unrolled; optax's own states are tuples
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *state.clients)
    return state.clients


def _start_vmapped(way, state, samples, clients, over_rounds, stacked):
    """Place a federation on the devices: what has a client axis is spread along it."""
    devices = jax.devices()[: math.gcd(clients, jax.device_count())]
    mesh = Mesh(np.array(devices), ("clients",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    by_client = NamedSharding(mesh, PartitionSpec("clients"))
    clients_at = by_client if stacked else everywhere
    placement = State(everywhere, everywhere, clients_at, everywhere, everywhere)

    samples = jax.device_put(samples, everywhere)
    state = jax.device_put(state, placement)
    if over_rounds == "loop":
        one_round = _compile(way.one_round, placement, everywhere)

        def place(minibatches):
            return jax.device_put(minibatches, by_client)

        return Federation(state, _loop(one_round, samples, place), chunk=1)

    scan = _compile(_scan(way.one_round), placement, everywhere)
    by_round_and_client = NamedSharding(mesh, PartitionSpec(None, "clients"))

    def run(state, schedule):
        indices, *rest = schedule
        indices = jax.device_put(indices, by_round_and_client)
        return scan(state, samples, indices, *jax.device_put(rest, by_client))

    return Federation(state, run, SCANNED)


# Runs that differ in their seed alone share what is compiled.
@lru_cache
def _compile(function, *placement):
    return jax.jit(function, donate_argnums=0, out_shardings=placement)


@lru_cache
def _scan(one_round):
    def run(state, samples, indices, weights, conduct):
        return lax.scan(lambda s, i: one_round(s, samples, i, weights, conduct), state, indices)

    return run


def _checked(run, clients, local_steps, shortcut):
    """Refuse a schedule that the federation was not started for."""

    def checked(state, schedule):
        rounds, *of_a_round, _ = schedule.indices.shape
        if rounds < 1 or of_a_round != [clients, local_steps]:
            raise ValueError(
                f"minibatches [round, client, step, batch] of shape {schedule.indices.shape} for a "
                f"federation of {clients} clients and {local_steps} local steps"
            )
        if shortcut and schedule.conduct is not None:
            raise ValueError("clients that depart from the protocol need keep_clients")
        return run(state, schedule)

    return checked


def _loop(one_round, samples, place=lambda minibatches: minibatches):
    """Dispatch rounds one by one, with the minibatches of each put in place before."""

    def run(state, schedule):
        indices, *rest = schedule
        rest, losses = place(rest), []
        for minibatches in indices:
            state, loss = one_round(state, samples, minibatches, *rest)
            losses.append(loss)
        return state, jnp.stack(losses)

    return run


def _group(convolutional):
    """How many clients are compiled into one function when unrolled."""
    # XLA takes turns between them even on a single core, where nothing is gained by it, and where
    # the large intermediates of convolutions drive one another out of the cache.
    return 1 if convolutional and cores() == 1 else GROUP


def _cohort(work, batch):
    """How many clients' samples pass through convolutions together on CPU."""
    # Where clients must be told apart anyway, hardening them apart too keeps their work in cache.
    together = work.algorithm.one_step.statistics is None
    return max(1, CONVOLUTION_COHORT // batch) if together else 1
