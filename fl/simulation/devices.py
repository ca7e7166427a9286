"""Compiled code on several devices: each of them by itself, or all together.

An argument is either common to all devices, and then an array that lies on all of them, or a number
or an array of the host that every process has; or it holds something for each device: `Parts`, or
arrays of the host stacked [device, ...].
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from fl.simulation import processes
from fl.simulation.placing import COMMON, OWN, Parts, here, joined, put, views

PyTree = Any


class Own(NamedTuple):
    """What each device has of its own, stacked [device, ...], as code for all is given it."""

    stacked: PyTree


def compile_for_each(
    mesh: Mesh, function: Callable, common: tuple[int, ...], **settings: Any
) -> Callable:
    """Compile what each device computes by itself, and dispatch it to those of this process.

    Args:
        mesh: of all devices.
        function: of positional arguments.
        common: which of them are common.
        settings: of `jax.jit`.

    Returns:
        A function that gives `Parts`, leaf by leaf.
    """
    compiled = jax.jit(function, **settings)

    def run(*arguments):
        each = (dealt(mesh, value, number in common) for number, value in enumerate(arguments))
        return collected(mesh, [compiled(*own) for own in zip(*each, strict=True)])

    return run


def compile_for_all(
    mesh: Mesh, function: Callable, common: tuple[int, ...], **settings: Any
) -> Callable:
    """Compile what devices compute together, with collectives; all of them find the same.

    Args:
        mesh: of all devices.
        function: of positional arguments, as each device has them.
        common: which of them are common. `Parts` among others are given up.
        settings: of `jax.jit`, with tuples of argument numbers.
    """
    static = settings.get("static_argnums", ())

    def run(*arguments):
        traced = [number for number in range(len(arguments)) if number not in static]

        def on_a_device(*given):
            mine = list(arguments)
            for number, value in zip(traced, given, strict=True):
                mine[number] = own(value, number in common)
            return function(*mine)

        given = [arguments[number] for number in traced]
        return jax.shard_map(
            on_a_device,
            mesh=mesh,
            in_specs=tuple(specs(arguments[number], number in common) for number in traced),
            out_specs=COMMON,
            check_vma=False,  # devices that are given the same compute the same
        )(*given)

    compiled = jax.jit(run, **settings)

    def with_all(*arguments):
        given = [
            each if number in common else _placed(mesh, each)
            for number, each in enumerate(map(stacked, arguments))
        ]
        return compiled(*ready(mesh, given))

    return with_all


def ready(mesh: Mesh, given: PyTree) -> PyTree:
    """Arguments of code for all devices, of a CPU's once they are there.

    A CPU's device that has 32 computations in flight waits for one of them to end before it takes
    more; told to by code for all, it waits on a thread of those that compute, of which there need
    be no more than devices (JAX 0.10). With all of them waiting, none ever ends.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return jax.block_until_ready(given) if on_cpu else given


def dealt(mesh: Mesh, value: PyTree, common: bool) -> list[PyTree]:
    """What each device of this process has of an argument."""
    leaves, structure = jax.tree.flatten(value, is_leaf=_is_parts)
    places = here(mesh)

    def of_each(leaf):
        if _is_parts(leaf):
            return leaf.parts
        if isinstance(leaf, jax.Array):
            return views(leaf)
        return [leaf if common else leaf[place] for place, _ in places]

    each = [of_each(leaf) for leaf in leaves]
    return [jax.tree.unflatten(structure, [own[at] for own in each]) for at in range(len(places))]


def collected(mesh: Mesh, found: Iterable[PyTree]) -> PyTree:
    """What each device of this process found, leaf by leaf."""
    return jax.tree.map(lambda *leaves: Parts(list(leaves), mesh), *found)


def stacked(value: PyTree) -> PyTree:
    """An argument of code for all devices; `Parts` in it are given up."""
    leaves, structure = jax.tree.flatten(value, is_leaf=_is_parts)
    parts = [leaf for leaf in leaves if _is_parts(leaf)]
    if not parts:
        return value
    lifted = [_lifted(list(each)) for each in zip(*(leaf.parts for leaf in parts), strict=True)]
    whole = iter(joined(Parts(lifted, parts[0].mesh)))
    return jax.tree.unflatten(
        structure, [Own(next(whole)) if _is_parts(leaf) else leaf for leaf in leaves]
    )


def specs(value: PyTree, common: bool) -> PyTree:
    """How an argument from `stacked` lies on the devices."""

    def spec(leaf):
        return COMMON if common and not _is_own(leaf) else OWN

    return jax.tree.map(spec, value, is_leaf=_is_own)


def own(value: PyTree, common: bool) -> PyTree:
    """What one device has of an argument from `stacked`, within code for all."""

    def part(leaf):
        if _is_own(leaf):
            return jax.tree.map(lambda entry: entry[0], leaf.stacked)
        return leaf if common else leaf[0]

    return jax.tree.map(part, value, is_leaf=_is_own)


def _placed(mesh, value):
    """Of several processes, none can give a program arrays of the host that are not common."""
    if not processes.several():
        return value
    place = partial(put, mesh, spec=OWN)
    return jax.tree.map(lambda leaf: place(leaf) if isinstance(leaf, np.ndarray) else leaf, value)


def _is_parts(value):
    return isinstance(value, Parts)


def _is_own(value):
    return isinstance(value, Own)


@partial(jax.jit, donate_argnums=0)
def _lifted(part):
    return jax.tree.map(lambda leaf: leaf[None], part)
