"""The runner of attacks: whichever way it maps them onto hardware, it does what pseudocode says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from experiments import load

from fl.simulation.mapping import Mapper

(optimise,) = load("inversion", "optimise")
Problem, solve = optimise.Problem, optimise.solve

KEY = jax.random.key(3)
MAPPERS = [None, Mapper(True, 1), Mapper(True, 2), Mapper(False, 2)]
BATCH, PIXELS = 2, 6


def start(key, *_):
    return jax.random.normal(key, (BATCH, 3, 2, 1))


def distance(images, observation, params, labels):
    """A loss to which observation, parameters and labels all matter."""
    shown = images.reshape(BATCH, PIXELS) @ params["kernel"]
    return jnp.sum((shown - observation["kernel"]) ** 2 * (1 + labels[:, None]))


PROBLEM = Problem(start, distance, optax.adam(0.1), steps=3)


def setting(clients):
    """Random observations, parameters and labels of clients."""
    rng = np.random.default_rng(0)
    observations = {"kernel": jnp.asarray(rng.normal(size=(clients, BATCH, 4)))}
    params = {"kernel": jnp.asarray(rng.normal(size=(PIXELS, 4)))}
    return observations, params, jnp.asarray(rng.integers(0, 10, (clients, BATCH)))


def one_after_another(problem, observations, params, labels, keys):
    """An attack as pseudocode has it, on one client after the other."""
    found, derivative = [], jax.jit(jax.grad(problem.loss))
    for i, key in enumerate(keys):
        given = jax.tree.map(lambda leaf, i=i: leaf[i], observations), params, labels[i]
        z = problem.init(key, *given)
        state = problem.optimizer.init(z)
        for _ in range(problem.steps):
            z = jnp.clip(z, 0, 1)
            update, state = problem.optimizer.update(derivative(z, *given), state, z)
            z = z + update
        found.append(jnp.clip(z, 0, 1))
    return jnp.stack(found)


@pytest.mark.parametrize("mapper", MAPPERS)
def test_clients_are_attacked_as_one_after_another(mapper, double_precision):
    given, keys = setting(5), jax.random.split(KEY, 5)
    expected = one_after_another(PROBLEM, *given, keys)
    found = solve(PROBLEM, *given, keys[:, None], mapper)
    np.testing.assert_allclose(found.images, expected, atol=1e-12)
    observations, params, labels = given
    losses = [
        distance(z, {"kernel": own}, params, inferred)
        for z, own, inferred in zip(expected, observations["kernel"], labels, strict=True)
    ]
    np.testing.assert_allclose(found.losses, losses, rtol=1e-12)


@pytest.mark.parametrize("mapper", MAPPERS)
def test_steps_that_are_no_multiple_of_a_segment_are_all_taken(mapper):
    steps = optimise.SEGMENT + 3
    problem = Problem(
        lambda *_: jnp.zeros((1, 2, 2, 1)), lambda z, *_: -z.sum(), optax.sgd(1e-3), steps
    )
    found = solve(problem, *setting(2), jax.random.split(KEY, (2, 1)), mapper)
    np.testing.assert_allclose(found.images, steps * 1e-3, rtol=1e-5)


@pytest.mark.parametrize("mapper", MAPPERS)
def test_every_step_sees_images_within_bounds(mapper):
    """The start and each update are out of bounds; the loss would be NaN there."""
    problem = Problem(
        init=lambda *_: jnp.full((1, 2, 2, 1), 5.0),
        loss=lambda z, *_: jnp.where((z >= 0) & (z <= 1), -3 * z, jnp.nan).sum(),
        optimizer=optax.sgd(1.0),
        steps=3,
    )
    found = solve(problem, *setting(1), KEY[None, None], mapper)
    np.testing.assert_array_equal(found.images, 1)
    np.testing.assert_array_equal(found.losses, [-12])


@pytest.mark.parametrize("mapper", MAPPERS)
def test_of_the_restarts_that_of_the_smallest_loss_is_kept(mapper, double_precision):
    given, keys = setting(3), jax.random.split(KEY, (3, 4))
    together = solve(PROBLEM, *given, keys, mapper)
    alone = [solve(PROBLEM, *given, keys[:, [restart]]) for restart in range(4)]
    losses = np.stack([each.losses for each in alone])
    np.testing.assert_allclose(together.losses, losses.min(axis=0))
    assert len(set(losses.argmin(axis=0))) > 1
    for client, best in enumerate(losses.argmin(axis=0)):
        np.testing.assert_allclose(together.images[client], alone[best].images[client])


def test_a_restart_that_failed_is_not_kept_unless_all_did():
    problem = Problem(
        init=lambda key, *_: jax.random.uniform(key, (1, 1, 1, 1)),
        loss=lambda z, observation, *_: jnp.where(z > observation, jnp.nan, z).sum(),
        optimizer=optax.identity(),
        steps=0,
    )
    allowed = jnp.array([0.5, 0.0])
    keys = jax.random.split(KEY, (2, 20))
    found = solve(problem, allowed, jnp.zeros(()), jnp.zeros((2, 1), int), keys)
    assert 0 < float(found.losses[0]) < 0.5
    assert np.isnan(found.losses[1])
    assert float(found.images[1].squeeze()) in np.asarray(
        [float(jax.random.uniform(key, (1, 1, 1, 1)).squeeze()) for key in keys[1]]
    )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about CPUs")
def test_the_default_mapper_keeps_clear_of_slow_convolutions_and_bounds_memory():
    observations, params, labels = setting(3)

    def default(params, jobs):
        return optimise.default_mapper(PROBLEM, observations, params, labels, jobs)

    assert default(params, 4) == Mapper(vmapped=True, group=4)
    assert default(params, 10**9).group < 10**9
    convolution = {**params, "convolution": jnp.zeros((3, 3, 1, 2))}
    assert not default(convolution, 4).vmapped
