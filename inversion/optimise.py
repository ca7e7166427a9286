"""Attacks as optimisation problems, and the one runner that solves them for all clients.

How the work is mapped onto hardware is chosen here alone, by what `bench.py` measures:

* Clients, and the random restarts of the attack on each, are *jobs*. A chunk of jobs is optimised
  side by side, as one vmapped computation. The parameters are the same for all of them, so that
  each layer of a dense model sees one large matrix product.
* Steps run in a compiled loop, except for convolutions on CPU, whose gradients leave XLA's fast
  path in there: those have Python dispatch one compiled step after the other.
* A chunk is as large as memory allows. Where vmapping would turn weight gradients of convolutions
  into grouped convolutions, which are slow on CPU, it is a single job.
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
# Bytes that the intermediates of a chunk may take on CPU: more of them leave the caches.
CPU_BYTES = 100e6
# Elsewhere, the share of the device's free memory that they may take.
DEVICE_SHARE = 0.5


class Problem(NamedTuple):
    """An attack on one client, as an optimisation over images in [0, 1].

    The images are clipped to [0, 1] before every step and after the last.

    Attributes:
        init: (key, observation, params, labels) -> Z [batch, height, width, channels] to start at.
        loss: (Z, observation, params, labels) -> scalar, the smaller the better.
        optimizer: treats every pixel by itself, so that one state serves all jobs of a chunk.
        steps: at least 0.
        weight_gradients: whether the loss is made of gradients with respect to params.
    """

    init: Callable
    loss: Callable
    optimizer: optax.GradientTransformation
    steps: int
    weight_gradients: bool


class Mapping(NamedTuple):
    """How jobs and steps are mapped onto hardware.

    Attributes:
        chunk: jobs optimised side by side, at least 1.
        compiled_loop: whether steps run in a compiled loop; otherwise Python dispatches them.
    """

    chunk: int
    compiled_loop: bool


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
    # All chunks are of one size, or the last would compile anew: it is filled up with the last job.
    chunk = math.ceil(jobs / math.ceil(jobs / mapping.chunk))
    starts = range(0, jobs, chunk)
    runs = []
    with _progress(len(starts) * problem.steps, bar_label) as bar:
        for start in starts:
            members = np.minimum(np.arange(start, start + chunk), jobs - 1)
            seen, own = jax.tree.map(
                lambda leaf, who=members // restarts: leaf[who], (observations, labels)
            )
            runs.append(
                _run(problem, keys.ravel()[members], (seen, params, own), mapping, bar.update)
            )
    images, losses = (jnp.concatenate(parts)[:jobs] for parts in zip(*runs, strict=True))
    losses = losses.reshape(clients, restarts)
    best = jnp.nanargmin(losses, axis=1)  # one that failed is not the best
    chosen = jnp.arange(clients) * restarts + best
    return Solution(images[chosen], losses[jnp.arange(clients), best])


def default_mapping(
    problem: Problem, observations: PyTree, params: PyTree, labels: jax.Array, jobs: int
) -> Mapping:
    """Choose the mapping that `bench.py` found fastest on the present backend."""
    on_cpu = jax.default_backend() == "cpu"
    convolutional = any(leaf.ndim == 4 for leaf in jax.tree.leaves(params))
    if on_cpu and convolutional and problem.weight_gradients:
        return Mapping(chunk=1, compiled_loop=False)
    one = job_bytes(problem, *jax.tree.map(lambda leaf: leaf[0], (observations, labels)), params)
    chunk = int(min(jobs, max(1, (CPU_BYTES if on_cpu else _free_bytes()) // one)))
    return Mapping(chunk, compiled_loop=not (on_cpu and convolutional))


def job_bytes(problem: Problem, observation: PyTree, labels: jax.Array, params: PyTree) -> int:
    """Bytes that one job's intermediates take if every one of them is kept: an upper bound."""
    images = jax.eval_shape(problem.init, jax.random.key(0), observation, params, labels)
    gradient = jax.make_jaxpr(jax.grad(problem.loss))(images, observation, params, labels)
    values = [value.aval for equation in gradient.eqns for value in equation.outvars]
    return sum(value.size * value.dtype.itemsize for value in values)


def _free_bytes():
    memory = jax.local_devices()[0].memory_stats()
    return DEVICE_SHARE * (memory["bytes_limit"] - memory["bytes_in_use"])


class _Compiled(NamedTuple):
    """A problem, compiled for chunks; `given` are (observations [job, ...], params, labels)."""

    begin: Callable  # (keys [job], given) -> (images [job, ...], optimizer state)
    segment: Callable  # (images, optimizer state, given, steps) -> (images, optimizer state)
    step: Callable  # (images, optimizer state, given) -> (images, optimizer state)
    end: Callable  # (images, given) -> (clipped images, losses [job])


# Attacks on the clients of several runs share what is compiled.
@lru_cache
def _compiled(problem):
    losses = jax.vmap(problem.loss, (0, 0, None, 0))

    def begin(keys, given):
        images = jax.vmap(problem.init, (0, 0, None, 0))(keys, *given)
        return images, problem.optimizer.init(images)

    def step(images, state, given):
        images = _clip(images)
        # A job's loss depends on its own images alone.
        gradient = jax.grad(lambda z: losses(z, *given).sum())(images)
        update, state = problem.optimizer.update(gradient, state, images)
        return optax.apply_updates(images, update), state

    def segment(images, state, given, steps):
        return lax.fori_loop(0, steps, lambda _, carry: step(*carry, given), (images, state))

    def end(images, given):
        images = _clip(images)
        return images, losses(images, *given)

    return _Compiled(
        jax.jit(begin),
        jax.jit(segment, donate_argnums=(0, 1)),
        jax.jit(step, donate_argnums=(0, 1)),
        jax.jit(end),
    )


def _run(problem, keys, given, mapping, report):
    """Optimise a chunk -> (images [job, batch, ...], losses [job])."""
    compiled = _compiled(problem)
    images, state = compiled.begin(keys, given)
    for done in range(0, problem.steps, SEGMENT):
        steps = min(SEGMENT, problem.steps - done)
        if mapping.compiled_loop:
            images, state = compiled.segment(images, state, given, steps)
        else:
            for _ in range(steps):
                images, state = compiled.step(images, state, given)
        jax.block_until_ready(images)  # or the bar would run ahead of the work
        report(steps)
    return compiled.end(images, given)


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
