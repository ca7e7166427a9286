"""How many computations of a kind, such as clients or attacks on them, are mapped onto hardware.

The members of a mapping are computed either *side by side*, vmapped along a leading axis, or
*unrolled*, one after the other within compiled code, a group of them at a time:

* On CPU, gradients of convolutions leave XLA's fast path within compiled loops, and their weight
  gradients become slow grouped convolutions when vmapped: both are several times slower. Unrolled,
  with loops in Python, they do not.
* On GPU, members side by side make a few large kernels, and compiled loops save dispatches.

`python -m fl.bench` measures it. Whoever uses a `Mapper` is written once for both, and for
`fl.simulation.sharding`, where each of several devices maps some of the members in its own way.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial, reduce
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fl.simulation.hardware import cores

PyTree = Any

# Members compiled into one function when unrolled: enough to keep two and more cores busy, few
# enough to keep compiling short.
GROUP = 10
LOOP, VMAP, SHARDED = "loop", "vmap", "sharded"
ON_ONE_DEVICE = (LOOP, VMAP)
MAPPINGS = (*ON_ONE_DEVICE, SHARDED)


def default_mapping() -> str:
    """The mapping onto one device that `fl.bench` found fastest on the present backend."""
    return LOOP if jax.default_backend() == "cpu" else VMAP


def is_convolutional(params: PyTree) -> bool:
    """Whether a model with these parameters has convolutions."""
    return any(leaf.ndim == 4 for leaf in jax.tree.leaves(params))


def group_size(params: PyTree) -> int:
    """How many members to compile into one function when unrolled.

    Args:
        params: of the model that each of them differentiates.
    """
    # XLA takes turns between them even on a single core, where nothing is gained by it, and where
    # the large intermediates of convolutions drive one another out of the cache.
    return 1 if is_convolutional(params) and cores() == 1 else GROUP


class Same(NamedTuple):
    """Members that are all equal."""

    value: PyTree


class Mapper(NamedTuple):
    """Maps functions over members.

    What is mapped over is one of: a list with a pytree for each member (unrolled); a pytree stacked
    [member, ...]; `Same`; None.

    Attributes:
        vmapped: whether members are computed side by side. Then everything here can be traced, and
            is to be compiled by the caller; else it is compiled here, in groups.
        group: members of a compiled group, when unrolled.
    """

    vmapped: bool
    group: int = GROUP

    def repeat(self, tree: PyTree, count: int) -> PyTree:
        """Members with a copy of a pytree each, to be given up later."""
        if self.vmapped:
            return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], count, 0), tree)
        return [jax.tree.map(jnp.copy, tree) for _ in range(count)]

    def same(self, tree: PyTree, count: int) -> PyTree:
        """Members that share a pytree."""
        return Same(tree) if self.vmapped else [tree] * count

    def load(self, rows: PyTree, count: int) -> PyTree:
        """Members out of arrays on the host, stacked [member, ...]."""
        rows = jax.tree.map(jnp.asarray, rows)
        return rows if self.vmapped else unstacked(rows, count)

    def unload(self, members: PyTree, count: int) -> PyTree:
        """Members, each once, as arrays on the host, stacked [member, ...]."""
        return jax.device_get(members if self.vmapped else _stacked(members))

    def compile(
        self,
        function: Callable,
        common: tuple[int, ...] = (),
        gives_members: bool = False,
        **settings: Any,
    ) -> Callable:
        """Compile what is no mapping, where the caller does not compile all of it.

        Args:
            function: of positional arguments.
            common: which of them are the same for all members; others hold something for each of
                them, or are a total.
            gives_members: whether that is also what it returns.
            settings: of `jax.jit`, with tuples of argument numbers.
        """
        return function if self.vmapped else jax.jit(function, **settings)

    def cuts(self, numbers: np.ndarray) -> list[slice]:
        """Cut a cohort, of these numbers, into what is computed together."""
        return [slice(None)] if self.vmapped else list(groups(len(numbers), self.group))

    def part(self, given: PyTree, cut: slice) -> PyTree:
        """What is given for some members; a list of pytrees is cut as such, others by leaves."""
        if isinstance(given, list):
            return tuple(given[cut])
        return jax.tree.map(lambda leaf: leaf[cut], given)

    def loop(self, body: Callable, carry: PyTree, count: int) -> PyTree:
        """Repeat (number, carry) -> carry; the first time stands outside of a compiled loop."""
        if not self.vmapped:
            return reduce(lambda carry, number: body(number, carry), range(count), carry)
        return lax.fori_loop(1, count, body, body(0, carry)) if count else carry

    def iterate(self, step: Callable) -> Callable:
        """Compile a step that is to be repeated.

        Args:
            step: (carry, *given) -> carry.

        Returns:
            (carry, number of steps, *given) -> carry, which gives up the carry passed in.
        """
        if self.vmapped:

            def repeat(carry, count, *given):
                return lax.fori_loop(0, count, lambda _, carry: step(carry, *given), carry)

            return jax.jit(repeat, donate_argnums=0)
        compiled = jax.jit(step, donate_argnums=0)

        def dispatch(carry, count, *given):
            for _ in range(count):
                carry = compiled(carry, *given)
            return carry

        return dispatch

    def map(self, function: Callable) -> Callable:
        """As `jax.vmap`, for use in compiled code: all members at once, whatever the group."""
        if self.vmapped:
            return jax.vmap(function)
        return lambda *stacks: stack([function(*each) for each in _members(stacks)])

    def sum(self, function: Callable) -> Callable:
        """As `map`, with the results added up."""
        if self.vmapped:
            return lambda *stacks: jax.tree.map(lambda x: x.sum(0), jax.vmap(function)(*stacks))
        return lambda *stacks: add_up([function(*each) for each in _members(stacks)])

    def unzip(self, members: PyTree) -> tuple:
        """Members that are tuples -> a tuple of members."""
        return members if self.vmapped else tuple(map(list, zip(*members, strict=True)))

    def accumulate(self, function: Callable) -> Callable:
        """Map over members who contribute to a total, and keep something.

        Args:
            function: (shared, kept, *given) -> (to collect, to add up, kept), of one member.

        Returns:
            (shared, kept, total, *given) -> (total, kept), where `kept` and all that is given are
            members, and the total, (collected [member, ...], sum), starts as `nothing`. Total and
            kept are given up.
        """
        if self.vmapped:
            return partial(_side_by_side, function)
        compiled = _compiled_group(function)

        def in_groups(shared, kept, total, *given):
            kept = list(kept)
            for cut in groups(len(kept), self.group):
                some = [self.part(each, cut) for each in given]
                kept[cut], total = compiled(shared, tuple(kept[cut]), total, cut.start, *some)
            return total, kept

        return in_groups

    def nothing(self, collect: PyTree, add: PyTree, count: int) -> tuple[PyTree, PyTree]:
        """The total over no members, where a member's contributions are shaped like these."""
        return jax.tree.map(
            lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), collect
        ), jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), add)

    def present(self, number: jax.Array, contribution: PyTree) -> PyTree:
        """What a member contributes; nothing, where its number says that it only fills a place."""
        return contribution

    def across(self, total: PyTree, count: int) -> PyTree:
        """The total over all members out of what each device has, for use in compiled code."""
        return total


def groups(count: int, size: int) -> Iterator[slice]:
    """Cut members into groups."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def add_up(trees: list[PyTree]) -> PyTree:
    """Add pytrees up. On CPU several times faster than a sum over a stacked leading axis."""
    return reduce(partial(jax.tree.map, jnp.add), trees)


def stack(trees: list[PyTree]) -> PyTree:
    """Stack pytrees along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def member(members: PyTree, number: int) -> PyTree:
    """One of some members."""
    if isinstance(members, Same):
        return members.value
    if isinstance(members, (list, tuple)) and not hasattr(members, "_fields"):
        return members[number]
    return jax.tree.map(lambda leaf: leaf[number], members)


def _members(stacks):
    """Members of several mappings side by side, (one of each) for each."""
    count = len(jax.tree.leaves(stacks[0])[0])
    return [tuple(member(stack, number) for stack in stacks) for number in range(count)]


def _side_by_side(function, shared, kept, total, *given):
    axes = [None if isinstance(each, Same) else 0 for each in given]
    given = [each.value if isinstance(each, Same) else each for each in given]
    collected, added, kept = jax.vmap(function, (None, 0, *axes))(shared, kept, *given)
    added = jax.tree.map(lambda before, each: before + each.sum(0), total[1], added)
    return (collected, added), kept


# Runs that differ in their seed alone share what is compiled.
@lru_cache
def _compiled_group(function):
    return jax.jit(group_of(function), donate_argnums=(1, 2))


def group_of(function: Callable) -> Callable:
    """Unroll what one member does over a group of them; see `Mapper.accumulate`.

    Returns:
        (shared, kept [group], total, number of the first, *given) -> (kept, total).
    """

    def group(shared, kept, total, first, *given):
        done = [
            function(shared, own, *(member(each, place) for each in given))
            for place, own in enumerate(kept)
        ]
        some, added, kept = zip(*done, strict=True)
        collected = jax.tree.map(
            lambda all_, *own: lax.dynamic_update_slice_in_dim(all_, jnp.stack(own), first, 0),
            *(total[0], *some),
        )
        # In this order XLA frees each gradient before it computes the next: a quarter faster on CPU
        # for clients of lenet that run Adam.
        return kept, (collected, add_up([*added, total[1]]))

    return group


@jax.jit
def _stacked(members):
    return stack(members)


@partial(jax.jit, static_argnums=1)
def unstacked(rows: PyTree, count: int) -> list[PyTree]:
    """A pytree for each of so many members, out of arrays stacked [member, ...]."""
    return [jax.tree.map(itemgetter(number), rows) for number in range(count)]
