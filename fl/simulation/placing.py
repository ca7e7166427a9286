"""What lies where when clients are spread over devices: members, cohorts, samples.

The devices stand along one axis of a mesh. Members are dealt out in blocks, so that each device has
as many *slots*; where the devices do not divide them, the last slots are filled with members of the
number `NOBODY`. Arrays of the host are whole in every process; each places what its devices hold.
"""

from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PyTree = Any

AXIS = "clients"
# The number of a member that only fills a slot.
NOBODY = -1
COMMON, OWN = PartitionSpec(), PartitionSpec(AXIS)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Parts:
    """What each device of this process has of its own.

    Attributes:
        parts: a pytree of arrays of a single device for each of `here`, shaped alike.
        mesh: of all devices.
    """

    parts: list
    mesh: Mesh = field(metadata={"static": True})


def all_devices() -> Mesh:
    """The mesh of every device that there is."""
    return Mesh(np.array(jax.devices()), (AXIS,))


@lru_cache
def here(mesh: Mesh) -> list[tuple[int, jax.Device]]:
    """The devices of this process with their places among all."""
    own = jax.process_index()
    return [each for each in enumerate(mesh.devices.flat) if each[1].process_index == own]


def joined(parts: Parts) -> PyTree:
    """One pytree of arrays, joined along their first axis, of what lies on all devices."""
    sharding = NamedSharding(parts.mesh, OWN)

    def whole(*leaves):
        shape = parts.mesh.size * len(leaves[0]), *leaves[0].shape[1:]
        return jax.make_array_from_single_device_arrays(shape, sharding, list(leaves))

    return jax.tree.map(whole, *parts.parts)


def views(array: jax.Array) -> list[jax.Array]:
    """What each device of this process has of an array that lies on all devices."""
    return [shard.data for shard in array.addressable_shards]


def slots(mesh: Mesh, count: int) -> int:
    """How many members each device has of so many."""
    return -(-count // mesh.size)


def put(mesh: Mesh, array: np.ndarray, spec: PartitionSpec) -> jax.Array:
    """Place an array of the host on the devices."""
    sharding = NamedSharding(mesh, spec)
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


def copies(mesh: Mesh, tree: PyTree, count: int) -> PyTree:
    """A copy of a pytree for each of so many members, whom the devices divide, on their devices."""

    def copied(leaf):
        array = np.asarray(leaf)
        return put(mesh, np.broadcast_to(array, (count, *array.shape)), OWN)

    return jax.tree.map(copied, tree)


def fill(mesh: Mesh, array: np.ndarray, filling: Any = 0, axis: int = 0) -> np.ndarray:
    """Lengthen an array along its axis of members, until the devices divide it."""
    count = array.shape[axis]
    missing = slots(mesh, count) * mesh.size - count
    if not missing:
        return array  # as in most rounds; to pad by nothing takes a while
    widths = np.zeros((array.ndim, 2), int)
    widths[axis, 1] = missing
    return np.pad(array, widths, constant_values=filling)


def fill_cohorts(mesh: Mesh, cohorts: NamedTuple) -> NamedTuple:
    """Fill cohorts, stacked [round, client, ...], up with nobody, whose samples weigh nothing."""
    filled = jax.tree.map(partial(fill, mesh, axis=1), cohorts)
    return filled._replace(clients=fill(mesh, cohorts.clients, NOBODY, axis=1))


def deal(mesh: Mesh, array: np.ndarray) -> np.ndarray:
    """Array of as many members as the devices divide -> [device, slot, ...]."""
    return array.reshape(mesh.size, -1, *array.shape[1:])


def spread(mesh: Mesh, tree: PyTree) -> PyTree:
    """Give each device all of it."""
    return jax.tree.map(lambda leaf: put(mesh, np.asarray(leaf), COMMON), tree)


def bring(mesh: Mesh, samples: PyTree, cohorts: NamedTuple) -> tuple[Parts, NamedTuple]:
    """Give each device the samples of its own clients' minibatches in some rounds.

    A process touches no others than those of its devices.

    Args:
        mesh: the devices.
        samples: with `only` as `fl.simulation.training.Samples` has it.
        cohorts: from `fill_cohorts`.

    Returns:
        The samples, and the cohorts with the places of these devices' clients' among them.
    """
    dealt = cohorts.indices.reshape(len(cohorts.indices), mesh.size, -1)
    places, parts = np.zeros_like(dealt), []
    for place, device in here(mesh):
        some, places[:, place] = samples.only(dealt[:, place])
        parts.append(jax.device_put(some, device, may_alias=False))  # to be given up
    return Parts(parts, mesh), cohorts._replace(indices=places.reshape(cohorts.indices.shape))
