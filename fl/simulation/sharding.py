"""One round over many devices: each maps its own members, and their sums meet in one `psum`.

Members are dealt out to the devices as `placing` says; those that only fill a slot weigh nothing
and are left out of every sum and every list.

Within a device, members are mapped as a `Mapper` says. Unrolled, each device is given the very
functions that a single one would be, on what it has (`Parts`): JAX dispatches them without waiting,
so devices work at the same time, and only what looks at all of them is one `jax.shard_map`. Side by
side, the caller puts a single `jax.shard_map` around all of its rounds.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from fl.simulation import processes
from fl.simulation.devices import (
    collected,
    compile_for_all,
    compile_for_each,
    dealt,
    own,
    ready,
    specs,
    stacked,
)
from fl.simulation.mapping import Mapper, Same, groups, unstacked
from fl.simulation.placing import (
    AXIS,
    COMMON,
    NOBODY,
    OWN,
    Parts,
    copies,
    deal,
    fill,
    here,
    joined,
    put,
    slots,
    views,
)

PyTree = Any


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

        def on_all(state_, samples, cohorts):
            sharded = jax.shard_map(
                lambda state_, samples, cohorts: scan(state_, own(samples, True), cohorts),
                mesh=self.mesh,
                in_specs=(state, specs(samples, True), PartitionSpec(None, AXIS)),
                out_specs=(state, COMMON),
                check_vma=False,  # devices that are given the same compute the same
            )
            return sharded(state_, samples, cohorts)

        compiled = jax.jit(on_all, donate_argnums=0)
        return lambda state, samples, cohorts: compiled(
            *ready(self.mesh, (state, stacked(samples), cohorts))
        )

    def repeat(self, tree: PyTree, count: int) -> PyTree:
        """Members with a copy of a pytree each, to be given up later."""
        each = slots(self.mesh, count)
        if self.vmapped:
            return copies(self.mesh, tree, self.mesh.size * each)
        return self._on_each(
            lambda _, device: self.inner.repeat(jax.device_put(tree, device), each)
        )

    def same(self, tree: PyTree, count: int) -> PyTree:
        """Members that share a pytree."""
        return Same(tree)

    def load(self, rows: PyTree, count: int) -> PyTree:
        """Members out of arrays on the host, stacked [member, ...]."""
        filled = jax.tree.map(partial(fill, self.mesh), rows)
        if self.vmapped:
            return jax.tree.map(partial(put, self.mesh, spec=OWN), filled)
        rows = jax.tree.map(partial(deal, self.mesh), filled)

        def own_rows(place, device):
            some = jax.device_put(jax.tree.map(lambda leaf: leaf[place], rows), device)
            return self.inner.load(some, slots(self.mesh, count))

        return self._on_each(own_rows)

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
        if self.vmapped:
            return given
        return jax.tree.map(lambda leaf: leaf[:, cut], given)

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
        how = compile_for_each if gives_members else compile_for_all
        return how(self.mesh, function, common, **settings)

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
        each = zip(*map(self.inner.unzip, members.parts), strict=True)
        return tuple(Parts(list(parts), self.mesh) for parts in each)

    def accumulate(self, function: Callable) -> Callable:
        """As of `Mapper`; the total is that of each device until it is taken `across` them."""
        of_one = self.inner.accumulate(function)
        if self.vmapped:
            return of_one

        def on_each(shared, kept, total, *given):
            of_devices = zip(
                dealt(self.mesh, shared, common=True),
                kept.parts,
                dealt(self.mesh, total, common=False),
                *(dealt(self.mesh, each, common=isinstance(each, Same)) for each in given),
                strict=True,
            )
            found = [
                of_one(shared, kept, total, *(_members(each, len(kept)) for each in given))
                for shared, kept, total, *given in of_devices
            ]
            totals, kept = zip(*found, strict=True)
            return collected(self.mesh, totals), Parts(list(kept), self.mesh)

        return on_each

    def nothing(self, collect: PyTree, add: PyTree, count: int) -> tuple[PyTree, PyTree]:
        """As of `Mapper`, over the slots of one device."""
        return self.inner.nothing(collect, add, count)

    def present(self, number: jax.Array, contribution: PyTree) -> PyTree:
        """As of `Mapper`."""
        return jax.tree.map(lambda leaf: jnp.where(number == NOBODY, 0, leaf), contribution)

    def across(self, total: PyTree, count: int) -> PyTree:
        """As of `Mapper`; what is collected comes in the members' order."""
        some, sum_ = total
        some = jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS, tiled=True)[:count], some)
        return some, jax.tree.map(lambda leaf: lax.psum(leaf, AXIS), sum_)

    def _on_each(self, make):
        """What is made for each device of this process: (place among all, device) -> its part."""
        return Parts([make(*each) for each in here(self.mesh)], self.mesh)


def _members(given, count):
    """What a device's members are given, as `Mapper` has it when unrolled."""
    return [given.value] * count if isinstance(given, Same) else given


@jax.jit
def _rows(members):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def rows_of(members: Parts) -> PyTree:
    """Members stacked [member, ...], with those at the end that only fill a slot."""
    return joined(Parts(list(map(_rows, members.parts)), members.mesh))


def members_of(rows: PyTree, like: Parts) -> Parts:
    """Members out of arrays on all devices, as `rows_of` makes of such members as others."""
    each = [
        jax.tree.map(lambda leaf, at=at: views(leaf)[at], rows) for at in range(len(like.parts))
    ]
    return Parts([unstacked(part, len(like.parts[0])) for part in each], like.mesh)
