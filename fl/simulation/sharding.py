"""One round over many devices: each maps its own members, and their sums meet in one `psum`.

The devices stand along one axis of a mesh. Members are dealt out in blocks, so that each device has
as many *slots*; where the devices do not divide them, the last slots are filled with members of the
number `NOBODY`, which weigh nothing and are left out of every sum and every list.

Within a device, members are mapped as a `Mapper` says. Unrolled, what is compiled is one
`jax.shard_map` a group, and a slot's state is an array with an axis for the device. Side by side,
the caller puts a single `jax.shard_map` around all of its rounds.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fl.simulation.mapping import Mapper, Same, group_of, groups

PyTree = Any

AXIS = "clients"
# The number of a member that only fills a slot.
NOBODY = -1
COMMON, OWN = PartitionSpec(), PartitionSpec(AXIS)


class Slots(NamedTuple):
    """Members when unrolled: for each slot a pytree whose leaves are stacked [device, ...]."""

    slots: list


class Own(NamedTuple):
    """Samples of which each device has its own part, stacked [device, ...]; the part, within one.

    Attributes:
        samples: anything with `take` as `fl.simulation.training.Samples` has it.
    """

    samples: PyTree

    def take(self, indices):
        """As `Samples.take`."""
        return self.samples.take(indices)


def all_devices() -> Mesh:
    """The mesh of every device that there is."""
    return Mesh(np.array(jax.devices()), (AXIS,))


class Sharded(NamedTuple):
    """Maps functions over members that are spread over devices; otherwise as `Mapper`.

    Attributes:
        inner: how each device maps its own.
        mesh: the devices, along `AXIS`.
    """

    inner: Mapper
    mesh: Mesh

    @property
    def vmapped(self) -> bool:
        """As of `Mapper`. Then all this is for use within one `jax.shard_map`."""
        return self.inner.vmapped

    def slots(self, count: int) -> int:
        """How many members each device has of so many."""
        return -(-count // self.mesh.size)

    def fill(self, array: np.ndarray, filling: Any = 0, axis: int = 0) -> np.ndarray:
        """Lengthen an array along its axis of members, until the devices divide it."""
        count = array.shape[axis]
        widths = np.zeros((array.ndim, 2), int)
        widths[axis, 1] = self.slots(count) * self.mesh.size - count
        return np.pad(array, widths, constant_values=filling)

    def deal(self, array: np.ndarray) -> np.ndarray:
        """Array of as many members as the devices divide -> [device, slot, ...]."""
        return array.reshape(self.mesh.size, -1, *array.shape[1:])

    def fill_cohort(self, cohort: NamedTuple, axis: int = 0) -> NamedTuple:
        """Fill a cohort, or several stacked, up with nobody, whose samples weigh nothing."""
        fill = partial(self.fill, axis=axis)
        return jax.tree.map(fill, cohort)._replace(clients=fill(cohort.clients, NOBODY))

    def deal_cohort(self, cohort: NamedTuple) -> NamedTuple:
        """A cohort as it is unrolled: arrays [device, slot, ...] on the host."""
        return jax.tree.map(self.deal, self.fill_cohort(cohort))

    def place_cohorts(self, cohorts: NamedTuple) -> NamedTuple:
        """Cohorts side by side, stacked [round, ...], on the devices."""
        spec = PartitionSpec(None, AXIS)
        return jax.tree.map(partial(self.put, spec=spec), self.fill_cohort(cohorts, axis=1))

    def spread(self, samples: PyTree) -> Own:
        """Give each device all samples."""

        def copies(leaf):
            array = np.asarray(leaf)[None]
            return self.put(np.broadcast_to(array, (self.mesh.size, *array.shape[1:])), OWN)

        return Own(jax.tree.map(copies, samples))

    def put(self, array: np.ndarray, spec: PartitionSpec) -> jax.Array:
        """Place an array of the host on the devices."""
        sharding = NamedSharding(self.mesh, spec)
        return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])

    def around(self, scan: Callable, state: NamedTuple) -> Callable:
        """Compile rounds whose clients are side by side on each device.

        Args:
            scan: (state, samples, cohorts) -> (state, losses).
            state: how each of its parts lies on the devices.
        """

        def on_a_device(state, samples, cohorts):
            return scan(state, _own(samples, common=True), cohorts)

        sharded = jax.shard_map(
            on_a_device,
            mesh=self.mesh,
            in_specs=(state, OWN, PartitionSpec(None, AXIS)),
            out_specs=(state, COMMON),
            check_vma=False,  # devices that are given the same compute the same
        )
        return jax.jit(sharded, donate_argnums=0)

    def repeat(self, tree: PyTree, count: int) -> PyTree:
        """Members with a copy of a pytree each, to be given up later."""
        copies = self.mesh.size * (self.slots(count) if self.vmapped else 1)
        make = _repeater(self.mesh, copies)
        return make(tree) if self.vmapped else Slots([make(tree) for _ in range(self.slots(count))])

    def same(self, tree: PyTree, count: int) -> PyTree:
        """Members that share a pytree."""
        return Same(tree)

    def load(self, rows: PyTree, count: int) -> PyTree:
        """Members out of arrays on the host, stacked [member, ...]."""
        if self.vmapped:
            return jax.tree.map(lambda leaf: self.put(self.fill(leaf), OWN), rows)
        dealt = jax.tree.map(lambda leaf: self.put(self.deal(self.fill(leaf)), OWN), rows)
        return Slots(_slots_of(dealt, self.slots(count)))

    def unload(self, members: PyTree, count: int) -> PyTree:
        """Members, each once, as arrays on the host, stacked [member, ...]."""
        if not self.vmapped:
            members = rows_of(members)
        return jax.tree.map(lambda leaf: leaf[:count], jax.device_get(members))

    def copy(self, members: PyTree) -> PyTree:
        """Copies that stay when the members are given up."""
        return jax.tree.map(jnp.copy, members)

    def cuts(self, numbers: np.ndarray) -> list[slice]:
        """Cut the slots of a cohort into what is computed together."""
        return [slice(None)] if self.vmapped else list(groups(numbers.shape[1], self.inner.group))

    def part(self, given: PyTree, cut: slice) -> PyTree:
        """What is given for some slots, in their order."""
        if self.vmapped or isinstance(given, Same):
            return given
        if isinstance(given, Slots):
            return tuple(given.slots[cut])
        several = jax.process_count() > 1  # then a program cannot be given the host's own arrays
        place = partial(self.put, spec=OWN) if several else lambda array: array
        return jax.tree.map(lambda leaf: place(leaf[:, cut]), given)

    def compile(
        self,
        function: Callable,
        common: tuple[int, ...] = (),
        gives_members: bool = False,
        **settings: Any,
    ) -> Callable:
        """As of `Mapper`: each device computes the function on what it has."""
        if self.vmapped:
            return function
        static = settings.get("static_argnums", ())

        def run(*arguments):
            traced = [number for number in range(len(arguments)) if number not in static]

            def on_a_device(*given):
                own = list(arguments)
                for number, value in zip(traced, given, strict=True):
                    own[number] = _own(value, number in common)
                found = function(*own)
                return _for_all(found) if gives_members else found

            given = [arguments[number] for number in traced]
            return jax.shard_map(
                on_a_device,
                mesh=self.mesh,
                in_specs=tuple(_specs(arguments[number], number in common) for number in traced),
                out_specs=OWN if gives_members else COMMON,
                check_vma=False,  # devices that are given the same compute the same
            )(*given)

        return jax.jit(run, **settings)

    def loop(self, body: Callable, carry: PyTree, count: int) -> PyTree:
        """As of `Mapper`."""
        return self.inner.loop(body, carry, count)

    def sum(self, function: Callable) -> Callable:
        """As of `Mapper`, over the members of one device."""
        return self.inner.sum(function)

    def unzip(self, members: PyTree) -> tuple:
        """As of `Mapper`."""
        if self.vmapped:
            return members
        return tuple(Slots(list(each)) for each in zip(*members.slots, strict=True))

    def accumulate(self, function: Callable) -> Callable:
        """As of `Mapper`; the total is that of each device until it is taken `across` them."""
        if self.vmapped:
            return self.inner.accumulate(function)
        compiled = _compiled_group(self, function)

        def in_groups(shared, kept, total, *given):
            slots = list(kept.slots)
            for cut in groups(len(slots), self.inner.group):
                some = [self.part(each, cut) for each in given]
                slots[cut], total = compiled(shared, tuple(slots[cut]), total, cut.start, *some)
            return total, Slots(slots)

        return in_groups

    def nothing(self, collect: PyTree, add: PyTree, count: int) -> tuple[PyTree, PyTree]:
        """As of `Mapper`, over the slots of one device."""
        return self.inner.nothing(collect, add, count)

    def present(self, number: jax.Array, contribution: PyTree) -> PyTree:
        """As of `Mapper`."""
        return jax.tree.map(lambda leaf: jnp.where(number == NOBODY, 0, leaf), contribution)

    def across(self, total: PyTree, count: int) -> PyTree:
        """As of `Mapper`; what is collected comes in the members' order."""
        collected, sum_ = total
        collected = jax.tree.map(
            lambda leaf: lax.all_gather(leaf, AXIS, tiled=True)[:count], collected
        )
        return collected, jax.tree.map(lambda leaf: lax.psum(leaf, AXIS), sum_)


def _is_marked(value):
    return isinstance(value, Own | Same)


def _specs(value, common):
    """How an argument lies on the devices."""

    def spec(leaf):
        if isinstance(leaf, Own | Same):
            return OWN if isinstance(leaf, Own) else COMMON
        return COMMON if common else OWN

    return jax.tree.map(spec, value, is_leaf=_is_marked)


def _own(value, common):
    """What one device has of an argument."""

    def part(leaf):
        if isinstance(leaf, Own):
            return jax.tree.map(lambda entry: entry[0], leaf)
        return leaf if common or isinstance(leaf, Same) else leaf[0]

    return jax.tree.map(part, value, is_leaf=_is_marked)


def _for_all(tree):
    """What one device has, as a part of what all have."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree)


# Runs that differ in their seed alone share what is compiled.
@lru_cache
def _compiled_group(mapper, function):
    settings = {"common": (0, 3), "gives_members": True, "donate_argnums": (1, 2)}
    return mapper.compile(group_of(function), **settings)


@lru_cache
def _repeater(mesh, copies):
    def repeat(tree):
        return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], copies, 0), tree)

    return jax.jit(repeat, out_shardings=NamedSharding(mesh, OWN))


@partial(jax.jit, static_argnums=1)
def _slots_of(dealt, count):
    return [
        jax.tree.map(lambda leaf, number=number: leaf[:, number], dealt) for number in range(count)
    ]


@jax.jit
def rows_of(members: Slots) -> PyTree:
    """Members stacked [member, ...], with those at the end that only fill a slot."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *members.slots)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), stacked)
