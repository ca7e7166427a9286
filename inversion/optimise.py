"""Attacks as optimisation problems, and the one runner that solves them for all clients.

Clients, and the random restarts of the attack on each, are *jobs*. How these and the steps are
mapped onto hardware is chosen here alone, by what `bench.py` measures:

* Jobs are *vmapped*, and their steps run in one compiled loop. The parameters are the same for all
  jobs, so that each layer of a dense model sees one large matrix product.
* Convolutions on CPU are the exception: their gradients leave XLA's fast path in a compiled loop,
  their weight gradients become slow grouped convolutions when vmapped, and even larger batches
  leave the caches. There Python *dispatches* compiled steps on single jobs. A few jobs take turns,
  which keeps all cores busy through operations that use but one.
"""

import math
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from tqdm import tqdm

PyTree = Any

# Steps between two looks at the progress bar.
SEGMENT = 50
# Bytes that a chunk may take on CPU: more of them leave the caches.
CPU_BYTES = 100e6
# Elsewhere, the share of the device's free memory that it may take.
DEVICE_SHARE = 0.5
# Jobs that take turns where they are dispatched.
TURNS = 2


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
        vmapped: whether these are vmapped in a compiled loop over steps; otherwise Python
            dispatches their steps in turns.
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
    chunks = _chunks(jobs, mapping)
    run = _run_vmapped if mapping.vmapped else _run_dispatched
    runs = []
    with _progress(len(chunks) * problem.steps, bar_label) as bar:
        for chunk in chunks:
            seen, own = jax.tree.map(
                lambda leaf, who=chunk // restarts: leaf[who], (observations, labels)
            )
            runs.append(run(problem, keys.ravel()[chunk], (seen, params, own), bar.update))
    images, losses = (jnp.concatenate(parts)[:jobs] for parts in zip(*runs, strict=True))
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
        return Mapping(min(jobs, TURNS), vmapped=False)
    one = job_bytes(problem, *jax.tree.map(lambda leaf: leaf[0], (observations, labels)), params)
    chunk = max(1, int((CPU_BYTES if on_cpu else _free_bytes()) // one))
    return Mapping(min(jobs, chunk), vmapped=True)


def _chunks(jobs, mapping):
    """Indices of the jobs of each chunk."""
    count = math.ceil(jobs / mapping.chunk)
    if not mapping.vmapped:
        return np.array_split(np.arange(jobs), count)
    # All are of one size, or the last would compile anew: it is filled up with the last job.
    size = math.ceil(jobs / count)
    return np.minimum(np.arange(count * size), jobs - 1).reshape(count, size)


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


class _Compiled(NamedTuple):
    """A problem's parts, compiled. `given` are (observation, params, labels)."""

    steps: Callable  # (images, optimizer state, given, how many) -> (images, optimizer state)
    end: Callable  # (images, given) -> (clipped images, loss)


# Attacks on the clients of several runs share what is compiled.
@lru_cache
def _compiled(problem, vmapped):
    """Compile for a single job, whose steps are dispatched, or for vmapped ones [job, ...]."""
    over_jobs = jax.vmap if vmapped else lambda function, axes: function
    losses = over_jobs(problem.loss, (0, 0, None, 0))

    def step(images, state, given):
        images = _clip(images)
        # A job's loss depends on its own images alone.
        gradient = jax.grad(lambda z: losses(z, *given).sum())(images)
        update, state = problem.optimizer.update(gradient, state, images)
        return optax.apply_updates(images, update), state

    def end(images, given):
        images = _clip(images)
        return images, losses(images, *given)

    def loop(images, state, given, count):
        return lax.fori_loop(0, count, lambda _, carry: step(*carry, given), (images, state))

    steps = jax.jit(loop if vmapped else step, donate_argnums=(0, 1))
    return _Compiled(steps, jax.jit(end))


def _run_vmapped(problem, keys, given, report):
    """Optimise a chunk -> (images [job, batch, ...], losses [job])."""
    loop, end = _compiled(problem, vmapped=True)
    images = jax.vmap(problem.init, (0, 0, None, 0))(keys, *given)
    state = problem.optimizer.init(images)
    for count in _segments(problem):
        images, state = loop(images, state, given, count)
        jax.block_until_ready(images)  # or the bar would run ahead of the work
        report(count)
    return end(images, given)


def _run_dispatched(problem, keys, given, report):
    """As `_run_vmapped`, job by job."""
    step, end = _compiled(problem, vmapped=False)
    observations, params, labels = given
    jobs = [
        (jax.tree.map(lambda leaf, i=i: leaf[i], observations), params, labels[i])
        for i in range(len(keys))
    ]
    starts = [problem.init(key, *job) for key, job in zip(keys, jobs, strict=True)]
    runs = [(images, problem.optimizer.init(images)) for images in starts]
    for count in _segments(problem):
        for _ in range(count):
            runs = [step(*run, job) for run, job in zip(runs, jobs, strict=True)]
        jax.block_until_ready(runs)
        report(count)
    ends = [end(images, job) for (images, _), job in zip(runs, jobs, strict=True)]
    return tuple(map(jnp.stack, zip(*ends, strict=True)))


def _segments(problem):
    """How many steps to take at a time."""
    return [min(SEGMENT, problem.steps - done) for done in range(0, problem.steps, SEGMENT)]


def _clip(images):
    return jnp.clip(images, 0.0, 1.0)


def _progress(total, label):
    return tqdm(
        total=total,
        desc=label,
        unit="step",
        disable=label is None,
        # In a log file, a line now and then will do.
        mininterval=0.2 if sys.stderr.isatty() else 20.0,
    )
