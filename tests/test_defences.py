"""Clipping and noise at the client: what they promise, and that every client draws its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.data.sampling import MinibatchSampler
from fl.simulation import algorithms, clip_and_noise, engine, pgd
from fl.simulation.models import MODELS
from fl.simulation.rounds import Work
from fl.simulation.training import Samples, sample_losses

NO_KEY_NEEDED = optax.EmptyState()


def tree(seed, size=50, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        "a": jnp.asarray(scale * rng.normal(size=size), jnp.float32),
        "b": jnp.asarray(scale * rng.normal(size=(3, 4)), jnp.float32),
    }


def norm(update):
    return float(np.sqrt(sum(np.sum(np.square(leaf, dtype=float)) for leaf in update.values())))


@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3), bound=st.floats(1e-2, 1e2))
def test_clipped_norm_is_at_most_the_bound_and_the_direction_stays(seed, scale, bound):
    update = tree(seed, scale=scale)
    clipped, _ = clip_and_noise.clip_by_norm(bound).update(update, NO_KEY_NEEDED)
    assert norm(clipped) == pytest.approx(min(norm(update), bound), rel=1e-5)
    factor = norm(clipped) / norm(update)
    np.testing.assert_allclose(clipped["a"], factor * update["a"], rtol=1e-4, atol=1e-7)


@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3), bound=st.floats(1e-2, 1e2))
def test_published_clipping_blows_small_updates_up_and_lets_large_ones_pass(seed, scale, bound):
    update = tree(seed, scale=scale)
    clipped, _ = clip_and_noise.clip_by_norm(bound, as_published=True).update(update, NO_KEY_NEEDED)
    assert norm(clipped) == pytest.approx(max(norm(update), bound), rel=1e-5)


@pytest.mark.parametrize("as_published", [False, True])
def test_update_of_nothing_stays_nothing(as_published):
    nothing = jax.tree.map(jnp.zeros_like, tree(0))
    clipped, _ = clip_and_noise.clip_by_norm(1.0, as_published).update(nothing, NO_KEY_NEEDED)
    assert norm(clipped) == 0


def test_noise_has_the_stated_deviation_in_every_entry():
    nothing = {"a": jnp.zeros(200_000), "b": jnp.zeros((300, 400))}
    noise = clip_and_noise.add_noise(0.05)
    noisy, _ = noise.update(nothing, NO_KEY_NEEDED, key=jax.random.key(0))
    for leaf in noisy.values():
        values = np.asarray(leaf).ravel()
        # Five standard errors of a mean and of a deviation over this many entries.
        assert abs(values.mean()) < 5 * 0.05 / np.sqrt(values.size)
        assert abs(values.std() - 0.05) < 5 * 0.05 / np.sqrt(2 * values.size)


def test_entries_and_leaves_draw_noise_of_their_own():
    nothing = {"a": jnp.zeros(100), "b": jnp.zeros(100)}
    noisy, _ = clip_and_noise.add_noise(1.0).update(nothing, NO_KEY_NEEDED, key=jax.random.key(0))
    assert len(np.unique(np.concatenate([noisy["a"], noisy["b"]]))) == 200


def test_the_mechanism_clips_before_it_adds_noise():
    update = tree(1, scale=100)
    sent = clip_and_noise.privatiser(clip=2.0, noise=1e-6)(update, jax.random.key(0))
    assert norm(sent) == pytest.approx(2.0, rel=1e-3)


def federate(mapping, privatise=None, augment=None, seed=0, rounds=2, server_rate=1.0):
    """Train a little -> the parameters after every round, and the states."""
    clients = 3
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, 30, dtype=np.int32)
    samples = Samples(jnp.asarray(images), jnp.asarray(labels), jnp.float32(255))
    model = MODELS["softmax"]()
    algorithm = algorithms.fedavg(server_rate=server_rate)
    losses = sample_losses(model)
    work = Work(algorithm, losses, pgd.none(), augment, privatise)
    params = model.init(jax.random.key(0), samples.take(np.arange(1))[0])
    sampler = MinibatchSampler(np.array_split(np.arange(30), clients), 4, [1] * clients)
    federation = engine.start(work, params, samples, sampler.weights.shape, 1, mapping, seed=seed)
    state, seen = federation.state, []
    for _ in range(rounds):
        state, _ = federation.run(state, sampler.draw(1, 1))
        seen.append(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state.params)]))
    return np.asarray(seen)


@pytest.mark.parametrize("mapping", engine.MAPPINGS)
def test_noise_is_fresh_for_every_client_and_round(mapping):
    def only_noise(update, key):
        nothing = jax.tree.map(jnp.zeros_like, update)
        return clip_and_noise.privatiser(clip=1.0, noise=1.0)(nothing, key)

    seen = federate(mapping, only_noise, rounds=3)
    steps = np.diff(seen, axis=0)
    # The mean of three clients' independent noise: were it the same one, its deviation were 1.
    assert steps.std() == pytest.approx(1 / np.sqrt(3), rel=0.15)
    assert abs(np.corrcoef(steps)[0, 1]) < 0.3
    assert not np.allclose(steps[0], steps[1])


def test_every_mapping_draws_the_same_noise_and_another_seed_another():
    privatise = clip_and_noise.privatiser(clip=1.0, noise=0.1)
    runs = [federate(mapping, privatise) for mapping in engine.MAPPINGS]
    for other in runs[1:]:
        np.testing.assert_allclose(runs[0], other, rtol=1e-4, atol=1e-5)
    assert not np.allclose(runs[0], federate(engine.MAPPINGS[0], privatise, seed=1), atol=1e-2)


@pytest.mark.parametrize("mapping", engine.MAPPINGS)
def test_clients_see_augmented_images(mapping):
    def blank(images, key):
        return jnp.zeros_like(images)

    # Without any light, only the biases learn.
    seen = federate(mapping, augment=blank, rounds=1)
    unlike = federate(mapping, rounds=1)
    assert not np.allclose(seen, unlike)


def test_every_mapping_augments_the_same_way():
    def shift(images, key):
        return images + jax.random.uniform(key, (len(images), 1, 1, 1))

    runs = [federate(mapping, augment=shift) for mapping in engine.MAPPINGS]
    for other in runs[1:]:
        np.testing.assert_allclose(runs[0], other, rtol=1e-4, atol=1e-5)
