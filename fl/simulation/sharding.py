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


class Own(NamedTuple):
    """What each device has of its own, stacked [device, ...], as compiled code is given it."""

    stacked: PyTree


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
                lambda state_, samples, cohorts: scan(state_, _own(samples, True), cohorts),
                mesh=self.mesh,
                in_specs=(state, _specs(samples, True), PartitionSpec(None, AXIS)),
                out_specs=(state, COMMON),
                check_vma=False,  # devices that are given the same compute the same
            )
            return sharded(state_, samples, cohorts)

        compiled = jax.jit(on_all, donate_argnums=0)
        return lambda state, samples, cohorts: compiled(state, _stacked(samples), cohorts)

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
        dealt = jax.tree.map(partial(deal, self.mesh), filled)

        def own(place, device):
            some = jax.device_put(jax.tree.map(lambda leaf: leaf[place], dealt), device)
            return self.inner.load(some, slots(self.mesh, count))

        return self._on_each(own)

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
        if gives_members:
            return self._compile_for_each(function, common, **settings)
        return self._compile_for_all(function, common, **settings)

    def _compile_for_each(self, function, common, **settings):
        """Each device computes by itself."""
        compiled = jax.jit(function, **settings)

        def run(*arguments):
            own = zip(
                *(self._deal(each, number in common) for number, each in enumerate(arguments)),
                strict=True,
            )
            return self._collected([compiled(*each) for each in own])

        return run

    def _compile_for_all(self, function, common, **settings):
        """Devices compute together, and all find the same."""
        static = settings.get("static_argnums", ())

        def run(*arguments):
            traced = [number for number in range(len(arguments)) if number not in static]

            def on_a_device(*given):
                own = list(arguments)
                for number, value in zip(traced, given, strict=True):
                    own[number] = _own(value, number in common)
                return function(*own)

            given = [arguments[number] for number in traced]
            return jax.shard_map(
                on_a_device,
                mesh=self.mesh,
                in_specs=tuple(_specs(arguments[number], number in common) for number in traced),
                out_specs=COMMON,
                check_vma=False,  # devices that are given the same compute the same
            )(*given)

        compiled = jax.jit(run, **settings)

        def with_all(*arguments):
            given = [
                _stacked(each) if number in common else self._placed(_stacked(each))
                for number, each in enumerate(arguments)
            ]
            return compiled(*given)

        return with_all

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
                self._deal(shared, common=True),
                kept.parts,
                self._deal(total, common=False),
                *(self._deal(each, common=isinstance(each, Same)) for each in given),
                strict=True,
            )
            found = [
                of_one(shared, own, total, *(_members(each, len(own)) for each in given))
                for shared, own, total, *given in of_devices
            ]
            totals, kept = zip(*found, strict=True)
            return self._collected(totals), Parts(list(kept), self.mesh)

        return on_each

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

    def _on_each(self, make):
        """What is made for each device of this process: (place among all, device) -> its part."""
        return Parts([make(*each) for each in here(self.mesh)], self.mesh)

    def _collected(self, found):
        """What each device found, leaf by leaf."""
        return jax.tree.map(lambda *leaves: Parts(list(leaves), self.mesh), *found)

    def _deal(self, value, common):
        """What each device of this process has of an argument."""
        places = range(len(here(self.mesh)))
        leaves, structure = jax.tree.flatten(value, is_leaf=_is_parts)

        def of_each(leaf):
            if isinstance(leaf, Parts):
                return leaf.parts
            if isinstance(leaf, jax.Array):
                return views(leaf)
            return [leaf for _ in places] if common else [leaf[at] for at, _ in here(self.mesh)]

        dealt = [of_each(leaf) for leaf in leaves]
        return [jax.tree.unflatten(structure, [own[place] for own in dealt]) for place in places]

    def _placed(self, value):
        """Of several processes, none can give a program the host's own arrays."""
        if not processes.several():
            return value
        place = partial(put, self.mesh, spec=OWN)
        return jax.tree.map(
            lambda leaf: place(leaf) if isinstance(leaf, np.ndarray) else leaf, value
        )


def _members(given, count):
    """What a device's members are given, as `Mapper` has it when unrolled."""
    return [given.value] * count if isinstance(given, Same) else given


def _is_parts(value):
    return isinstance(value, Parts)


def _is_own(value):
    return isinstance(value, Own)


def _specs(value, common):
    """How an argument lies on the devices."""

    def spec(leaf):
        return COMMON if common and not _is_own(leaf) else OWN

    return jax.tree.map(spec, value, is_leaf=_is_own)


def _own(value, common):
    """What one device has of an argument."""

    def part(leaf):
        if _is_own(leaf):
            return jax.tree.map(lambda entry: entry[0], leaf.stacked)
        return leaf if common else leaf[0]

    return jax.tree.map(part, value, is_leaf=_is_own)


def _stacked(value):
    """An argument for compiled code on all devices; gives up what each has of its own."""

    leaves, structure = jax.tree.flatten(value, is_leaf=_is_parts)
    own = [leaf for leaf in leaves if _is_parts(leaf)]
    if not own:
        return value
    lifted = [_lifted(list(each)) for each in zip(*(leaf.parts for leaf in own), strict=True)]
    whole = iter(joined(Parts(lifted, own[0].mesh)))
    return jax.tree.unflatten(
        structure, [Own(next(whole)) if _is_parts(leaf) else leaf for leaf in leaves]
    )


@partial(jax.jit, donate_argnums=0)
def _lifted(part):
    return jax.tree.map(lambda leaf: leaf[None], part)


@jax.jit
def _rows(members):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def rows_of(members: Parts) -> PyTree:
    """Members stacked [member, ...], with those at the end that only fill a slot."""
    return joined(Parts([_rows(own) for own in members.parts], members.mesh))


def members_of(rows: PyTree, like: Parts) -> Parts:
    """Members out of arrays on all devices, as `rows_of` makes of such members as others."""
    own = [jax.tree.map(lambda leaf, at=at: views(leaf)[at], rows) for at in range(len(like.parts))]
    return Parts([unstacked(each, len(like.parts[0])) for each in own], like.mesh)
