"""Rounds of a small federation on all devices that there are.

    python sharded_rounds.py OUTPUT all|few [COORDINATOR COUNT NUMBER]

Run by the tests in processes of their own, since the number of devices is fixed when JAX starts.
"""

import sys
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from test_simulation import Case, blur, start

from fl.simulation import engine, processes
from fl.simulation.mapping import ON_ONE_DEVICE, VMAP
from fl.simulation.rounds import Aggregator

ROUNDS = 50
# Five clients, which neither two nor four devices divide: of four, one has no client at all.
CASE = Case("softmax", held=(9, 2, 4, 17, 1))


def last_of_all(on_host):
    """An aggregator that takes the last client's message, and remembers all of the last round."""

    def init(message, clients):
        return jax.tree.map(lambda leaf: jnp.zeros((clients, *leaf.shape), leaf.dtype), message)

    def aggregate(messages, memory, *_):
        return jax.tree.map(lambda leaf: leaf[-1] + leaf[0], messages), messages

    return Aggregator(init, aggregate, on_host=on_host)


HOST = "aggregator on the host"
# Name -> algorithm, local steps, further arguments of `start`.
WAYS = {
    "fedavg": ("fedavg", 1, {}),
    "secadam": ("secadam", 1, {}),
    "fedavg kept": ("fedavg", 1, {"keep_clients": True}),
    "secadam kept": ("secadam", 1, {"keep_clients": True}),
    "secadam, three steps": ("secadam", 3, {}),
    "scaffold": ("scaffold", 2, {}),
    "noisy": ("fedavg", 1, {"hooks": {"privatise": blur}}),
    "aggregator": ("secadam", 1, {"hooks": {"aggregator": last_of_all(on_host=False)}}),
    HOST: ("secadam", 1, {"hooks": {"aggregator": last_of_all(on_host=True)}}),
    "resting": ("secadam", 1, {"rest": True}),
}


# What most that can go wrong with more devices shows in; compiling all takes a minute.
FEW = ("fedavg", "secadam", "secadam kept", HOST, "resting")


def run(algorithm, local_steps, options):
    """All rounds -> the parameters, the losses, what clients keep and what the server remembers."""
    state, rounds, sampler = start(CASE, algorithm, local_steps, **options)
    schedule = sampler.draw(ROUNDS, local_steps)
    if options.get("rest"):  # three of them in a round
        rng, everyone = np.random.default_rng(0), np.arange(len(CASE.held))
        who = np.stack([np.sort(rng.choice(everyone, 3, replace=False)) for _ in range(ROUNDS)])
        indices = np.take_along_axis(schedule.indices, who[:, :, None, None], axis=1)
        schedule = schedule._replace(clients=who.astype(np.int32), indices=indices)
    state, losses = rounds(state, schedule)
    kept = [state.params, losses, state.memory]
    if options.get("keep_clients") or options.get("rest") or local_steps > 1:
        kept.append(engine.client_states(state, len(CASE.held)))
    return np.asarray(ravel_pytree(processes.to_host(kept))[0], np.float32)


def names(chosen=WAYS):
    """Ways, unrolled and, where messages need not leave compiled code, side by side."""
    ways = [(name, mapping) for name in chosen for mapping in ON_ONE_DEVICE]
    return [", ".join(way) for way in ways if way != (HOST, VMAP)]


def main(output, chosen):
    """Run ways, and save what comes of it."""
    found = {}
    for each in names(chosen):
        name, mapping = each.rsplit(", ", 1)
        with patch.object(engine, "default_mapping", lambda mapping=mapping: mapping):
            found[each] = run(*WAYS[name])
    if processes.leads():
        np.savez(output, devices=jax.device_count(), **found)


if __name__ == "__main__":
    output, chosen, *where = sys.argv[1:]
    if where:
        processes.join(where[0], *map(int, where[1:]))
    main(output, {"all": WAYS, "few": FEW}[chosen])
    processes.leave(0)
