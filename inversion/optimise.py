"""Attacks as optimisation problems, and the one runner that solves them for all clients.

Clients, and the random restarts of the attack on each, are *jobs*. They are mapped onto hardware as
clients are, by a `Mapper`, and `bench.py` measures which one suits. The parameters are the same for
all jobs, so that side by side each layer of a dense model sees one large matrix product, on CPU
too. Convolutions on CPU are unrolled, a job for each core.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fl.progress import progress_bar
from fl.simulation.hardware import cores
from fl.simulation.mapping import Mapper, is_convolutional

PyTree = Any

# Steps between two looks at the progress bar.
SEGMENT = 50
# Bytes that a chunk may take on CPU: more of them leave the caches.
CPU_BYTES = 100e6
# Elsewhere, the share of the device's free memory that it may take.
DEVICE_SHARE = 0.5
# Most jobs to unroll: compiling takes the longer, the more they are.
MOST_UNROLLED = 8


class Problem(NamedTuple):
    """An attack on one client, as an optimisation over images in [0, 1].

    The images are clipped to [0, 1] before every step and after the last.

    Attributes:
        init: (key, observation, params, labels) -> Z [batch, height, width, channels] to start at.
        loss: (Z, observation, params, labels) -> scalar, the smaller the better.
        optimizer: treats every pixel by itself, so that one state serves all jobs of a chunk.
        steps: at least 0.
        in_turn: whether jobs start one after the other. Side by side, an `init` that ends when it
            is done would take as long for each as for the slowest.
    """

    init: Callable
    loss: Callable
    optimizer: optax.GradientTransformation
    steps: int
    in_turn: bool = False


class Solution(NamedTuple):
    """What came of an attack on all clients.

    Attributes:
        images: [client, batch, height, width, channels] in [0, 1].
        losses: final value of the attack's own loss, [client].
    """

    images: jax.Array
    losses: jax.Array


def solve(
    problem: Problem,
    observations: PyTree,
    params: PyTree,
    labels: jax.Array,
    keys: jax.Array,
    mapper: Mapper | None = None,
    bar_label: str | None = None,
) -> Solution:
    """Attack all clients, each from one or more random starts, with a progress bar.

    Args:
        problem: the attack.
        observations: shaped like params, with a leading axis [client, ...].
        params: the global parameters.
        labels: int [client, batch].
        keys: [client, restart]; of a client's restarts, that of the smallest final loss is kept.
        mapper: how jobs are mapped, a group of them at a time; by default the fastest way.
        bar_label: shown beside the progress bar; None for no bar.
    """
    clients, restarts = keys.shape
    jobs = clients * restarts
    mapper = mapper or default_mapper(problem, observations, params, labels, jobs)
    # Of two sizes at most, to compile for.
    chunks = np.array_split(np.arange(jobs), math.ceil(jobs / mapper.group))
    start, advance, end = _compiled(problem, mapper)
    ends = []
    with progress_bar(len(chunks) * problem.steps, bar_label, "step") as bar:
        for chunk in chunks:
            seen, own = jax.tree.map(
                lambda leaf, who=chunk // restarts: leaf[who], (observations, labels)
            )
            given = (seen, params, own)
            run = start(keys.ravel()[chunk], *given)
            for steps in _segments(problem.steps):
                run = jax.block_until_ready(advance(run, steps, *given))
                bar.update(steps)
            ends.append(end(run, *given))
    images, losses = (jnp.concatenate(parts)[:jobs] for parts in zip(*ends, strict=True))
    losses = losses.reshape(clients, restarts)
    # A restart that failed is not the best one, unless all did.
    best = jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses), axis=1)
    chosen = jnp.arange(clients) * restarts + best
    return Solution(images[chosen], losses[jnp.arange(clients), best])


def default_mapper(
    problem: Problem, observations: PyTree, params: PyTree, labels: jax.Array, jobs: int
) -> Mapper:
    """Choose the mapper that `bench.py` found fastest on the present backend."""
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and is_convolutional(params):
        return Mapper(vmapped=False, group=min(jobs, cores(), MOST_UNROLLED))
    one = job_bytes(problem, *jax.tree.map(lambda leaf: leaf[0], (observations, labels)), params)
    chunk = max(1, int((CPU_BYTES if on_cpu else _free_bytes()) // one))
    return Mapper(vmapped=True, group=min(jobs, chunk))


def _segments(steps):
    """How many steps to take at a time."""
    return [min(SEGMENT, steps - done) for done in range(0, steps, SEGMENT)]


def job_bytes(problem: Problem, observation: PyTree, labels: jax.Array, params: PyTree) -> int:
    """Bytes that a job takes if every intermediate result is kept: an upper bound."""
    images = jax.eval_shape(problem.init, jax.random.key(0), observation, params, labels)
    gradient = jax.make_jaxpr(jax.grad(problem.loss))(images, observation, params, labels)
    values = [*gradient.jaxpr.invars]
    values += [value for equation in gradient.eqns for value in equation.outvars]
    return sum(value.aval.size * value.aval.dtype.itemsize for value in values)


def _free_bytes():
    memory = jax.local_devices()[0].memory_stats()
    return DEVICE_SHARE * (memory["bytes_limit"] - memory["bytes_in_use"])


# Attacks on the clients of several runs share what is compiled.
@lru_cache
def _compiled(problem, mapper):
    """What optimises a group of jobs -> (start, advance, end).

    A run is the images [job, batch, ...] and the state of their optimizer.
    """

    def start(keys, observations, params, labels):
        def of_job(key, observation, labels):
            return problem.init(key, observation, params, labels)

        how = Mapper(vmapped=False) if problem.in_turn else mapper
        images = how.map(of_job)(keys, observations, labels)
        return images, problem.optimizer.init(images)

    def losses(images, observations, params, labels):
        def of_job(images, observation, labels):
            return problem.loss(images, observation, params, labels)

        return mapper.map(of_job)(images, observations, labels)

    def step(run, *given):
        images, state = run
        images = _clip(images)
        # A job's loss depends on its own images alone: the sum keeps their gradients apart.
        gradient = jax.grad(lambda images: losses(images, *given).sum())(images)
        update, state = problem.optimizer.update(gradient, state, images)
        return optax.apply_updates(images, update), state

    def end(run, *given):
        images = _clip(run[0])
        return images, losses(images, *given)

    return start, mapper.iterate(step), jax.jit(end)


def _clip(images):
    return jnp.clip(images, 0.0, 1.0)
