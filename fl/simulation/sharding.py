"""One round over many devices: each maps its own members, and their sums meet in one `psum`.

Members are dealt out to the devices as `placing` says; those that only fill a slot weigh nothing
and are left out of every sum and every list.

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
from jax.sharding import Mesh, PartitionSpec

from fl.simulation import processes
from fl.simulation.mapping import Mapper, Same, group_of, groups
from fl.simulation.placing import (
    AXIS,
    COMMON,
    NOBODY,
    OWN,
    Own,
    copies,
    deal,
    fill,
    put,
    slots,
)

PyTree = Any


class Slots(NamedTuple):
    """Members when unrolled: for each slot a pytree whose leaves are stacked [device, ...]."""

    slots: list


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
        devices, each = self.mesh.size, slots(self.mesh, count)
        if self.vmapped:
            return copies(self.mesh, tree, devices * each)
        return Slots([copies(self.mesh, tree, devices) for _ in range(each)])

    def same(self, tree: PyTree, count: int) -> PyTree:
        """Members that share a pytree."""
        return Same(tree)

    def load(self, rows: PyTree, count: int) -> PyTree:
        """Members out of arrays on the host, stacked [member, ...]."""
        filled = jax.tree.map(partial(fill, self.mesh), rows)
        if not self.vmapped:
            filled = jax.tree.map(partial(deal, self.mesh), filled)
        placed = jax.tree.map(partial(put, self.mesh, spec=OWN), filled)
        if self.vmapped:
            return placed
        return Slots(_slots_of(placed, slots(self.mesh, count)))

    def unload(self, members: PyTree, count: int) -> PyTree:
        """Members, each once, as arrays on the host, stacked [member, ...]."""
        if not self.vmapped:
            members = rows_of(members)
        return jax.tree.map(lambda leaf: leaf[:count], processes.to_host(members))

    def cuts(self, numbers: np.ndarray) -> list[slice]:
        """Cut the slots of a cohort into what is computed together."""
        return [slice(None)] if self.vmapped else list(groups(numbers.shape[1], self.inner.group))

    def part(self, given: PyTree, cut: slice) -> PyTree:
        """What is given for some slots, in their order."""
        if self.vmapped or isinstance(given, Same):
            return given
        if isinstance(given, Slots):
            return tuple(given.slots[cut])
        # Of several processes, none can give a program the host's own arrays.
        place = partial(put, self.mesh, spec=OWN) if processes.several() else lambda array: array
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
