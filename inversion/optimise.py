"""Attacks as optimisation problems, and the one runner that solves them for all clients.

Clients, and the random restarts of the attack on each, are *jobs*. How these and the steps are
mapped onto hardware is chosen here alone, by what `bench.py` measures:

* Jobs are *vmapped*, and their steps run in one compiled loop. The parameters are the same for all
  jobs, so that each layer of a dense model sees one large matrix product.
* Convolutions on CPU are the exception: their gradients leave XLA's fast path in a compiled loop,
  their weight gradients become slow grouped convolutions when vmapped, and larger batches leave the
  caches. There jobs are *unrolled*, one for each core, in a compiled step that Python dispatches.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from fl.experiment.progress import progress_bar
from fl.simulation.hardware import cores

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
    """

    init: Callable
    loss: Callable
    optimizer: optax.GradientTransformation
    steps: int


class Mapping(NamedTuple):
    """How jobs and steps are mapped onto hardware.

    Attributes:
        chunk: jobs optimised together, at least 1.
        vmapped: whether they are vmapped in a compiled loop over steps; otherwise they are
            unrolled in a compiled step that Python dispatches.
    """

    chunk: int
    vmapped: bool


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
    mapping: Mapping | None = None,
    bar_label: str | None = None,
) -> Solution:
    """Attack all clients, each from one or more random starts, with a progress bar.

    Args:
        problem: the attack.
        observations: shaped like params, with a leading axis [client, ...].
        params: the global parameters.
        labels: int [client, batch].
        keys: [client, restart]; of a client's restarts, that of the smallest final loss is kept.
        mapping: by default the fastest one.
        bar_label: shown beside the progress bar; None for no bar.
    """
    clients, restarts = keys.shape
    jobs = clients * restarts
    mapping = mapping or default_mapping(problem, observations, params, labels, jobs)
    # Of two sizes at most, to compile for.
    chunks = np.array_split(np.arange(jobs), math.ceil(jobs / mapping.chunk))
    way = (_vmapped if mapping.vmapped else _unrolled)(problem)
    ends = []
    with progress_bar(len(chunks) * problem.steps, bar_label, "step") as bar:
        for chunk in chunks:
            seen, own = jax.tree.map(
                lambda leaf, who=chunk // restarts: leaf[who], (observations, labels)
            )
            given = (seen, params, own)
            run = way.start(keys.ravel()[chunk], given)
            for steps in _segments(problem.steps):
                run = jax.block_until_ready(way.advance(run, given, steps))
                bar.update(steps)
            ends.append(way.end(run, given))
    images, losses = (jnp.concatenate(parts)[:jobs] for parts in zip(*ends, strict=True))
    losses = losses.reshape(clients, restarts)
    # A restart that failed is not the best one, unless all did.
    best = jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses), axis=1)
    chosen = jnp.arange(clients) * restarts + best
    return Solution(images[chosen], losses[jnp.arange(clients), best])


def default_mapping(
    problem: Problem, observations: PyTree, params: PyTree, labels: jax.Array, jobs: int
) -> Mapping:
    """Choose the mapping that `bench.py` found fastest on the present backend."""
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and any(leaf.ndim == 4 for leaf in jax.tree.leaves(params)):  # convolutional
        return Mapping(min(jobs, cores(), MOST_UNROLLED), vmapped=False)
    one = job_bytes(problem, *jax.tree.map(lambda leaf: leaf[0], (observations, labels)), params)
    chunk = max(1, int((CPU_BYTES if on_cpu else _free_bytes()) // one))
    return Mapping(min(jobs, chunk), vmapped=True)


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


class _Way(NamedTuple):
    """One way of optimising a chunk of jobs, which are `given` (observations, params, labels).

    A run is the jobs' images and optimizer states.
    """

    start: Callable  # (keys, given) -> run
    advance: Callable  # (run, given, steps) -> run
    end: Callable  # (run, given) -> (images [job, batch, ...], losses [job])


# Attacks on the clients of several runs share what is compiled.
@lru_cache
def _vmapped(problem):
    init, losses = (jax.vmap(f, (0, 0, None, 0)) for f in (problem.init, problem.loss))

    def start(keys, given):
        images = init(keys, *given)
        return images, problem.optimizer.init(images)

    def step(run, given):
        # A job's loss depends on its own images alone: the sum keeps their gradients apart.
        return _step(lambda images: losses(images, *given).sum(), problem.optimizer, *run)

    def advance(run, given, steps):
        return lax.fori_loop(0, steps, lambda _, run: step(run, given), run)

    def end(run, given):
        images = _clip(run[0])
        return images, losses(images, *given)

    return _Way(start, jax.jit(advance, donate_argnums=0), jax.jit(end))


@lru_cache
def _unrolled(problem):
    def each(given):
        observations, params, labels = given
        return [
            (jax.tree.map(lambda leaf, i=i: leaf[i], observations), params, labels[i])
            for i in range(len(labels))
        ]

    def start(keys, given):
        images = [problem.init(key, *job) for key, job in zip(keys, each(given), strict=True)]
        return [(z, problem.optimizer.init(z)) for z in images]

    def step(runs, given):
        return [
            _step(lambda images, job=job: problem.loss(images, *job), problem.optimizer, *run)
            for run, job in zip(runs, each(given), strict=True)
        ]

    compiled = jax.jit(step, donate_argnums=0)

    def advance(runs, given, steps):
        for _ in range(steps):
            runs = compiled(runs, given)
        return runs

    def end(runs, given):
        images = [_clip(z) for z, _ in runs]
        losses = [problem.loss(z, *job) for z, job in zip(images, each(given), strict=True)]
        return jnp.stack(images), jnp.stack(losses)

    return _Way(start, advance, jax.jit(end))


def _step(loss, optimizer, images, state):
    images = _clip(images)
    update, state = optimizer.update(jax.grad(loss)(images), state, images)
    return optax.apply_updates(images, update), state


def _clip(images):
    return jnp.clip(images, 0.0, 1.0)
