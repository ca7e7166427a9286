"""Clipping and noise at the client: what they promise, and that every client draws its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from fl.data.sampling import MinibatchSampler
from fl.simulation import algorithms, clip_and_noise, engine, pgd
from fl.simulation.mapping import MAPPINGS
from fl.simulation.models import MODELS
from fl.simulation.rounds import Work
from fl.simulation.training import Samples, sample_losses

NO_KEY_NEEDED = optax.EmptyState()
FEDAVG = algorithms.fedavg()


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
    for name, leaf in update.items():
        np.testing.assert_allclose(clipped[name], factor * leaf, rtol=1e-4)


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


def test_noise_is_gaussian_of_the_stated_deviation_around_what_was_there():
    update = {"a": jnp.linspace(-30.0, 50.0, 200_000), "b": jnp.full((300, 400), 7.0)}
    noise = clip_and_noise.add_noise(0.5)
    noisy, _ = noise.update(update, NO_KEY_NEEDED, key=jax.random.key(0))
    for name, leaf in update.items():
        added = np.asarray(noisy[name], float) - np.asarray(leaf, float)
        # Five standard errors of a mean and of a deviation over this many entries.
        assert abs(added.mean()) < 5 * 0.5 / np.sqrt(added.size)
        assert abs(added.std() - 0.5) < 5 * 0.5 / np.sqrt(2 * added.size)
        assert kstest(added.ravel() / 0.5, "norm").pvalue > 1e-3
        assert abs(np.corrcoef(added.ravel(), np.ravel(leaf))[0, 1] if leaf.std() else 0) < 0.02


def test_entries_and_leaves_draw_noise_of_their_own():
    nothing = {"a": jnp.zeros(100), "b": jnp.zeros(100)}
    noisy, _ = clip_and_noise.add_noise(1.0).update(nothing, NO_KEY_NEEDED, key=jax.random.key(0))
    assert len(np.unique(np.concatenate([noisy["a"], noisy["b"]]))) == 200


def test_the_mechanism_clips_before_it_adds_noise():
    update = {"a": jnp.linspace(-1.0, 1.0, 100_000)}
    sent = clip_and_noise.privatiser(clip=2.0, noise=0.1)(update, jax.random.key(0))
    clipped = 2 * np.asarray(update["a"]) / norm(update)
    # Clipped afterwards, the noise would hardly be there.
    added = np.asarray(sent["a"]) - clipped
    assert abs(added.mean()) < 5 * 0.1 / np.sqrt(added.size)
    assert abs(added.std() - 0.1) < 5 * 0.1 / np.sqrt(2 * added.size)
    # Not clipped, the update would be seen a hundred times over in what was sent.
    share = np.asarray(sent["a"]) @ clipped / (clipped @ clipped)
    assert abs(share - 1) < 5 * 0.1 / np.linalg.norm(clipped)


def test_updates_get_the_noise_that_they_always_got():
    update, key = tree(0), jax.random.key(7)
    sent = clip_and_noise.privatiser(clip=2.0, noise=0.1)(update, key)
    clipped, _ = optax.clip_by_global_norm(2.0).update(update, NO_KEY_NEEDED)
    for name, own in zip(update, jax.random.split(key), strict=True):
        noise = jax.random.normal(own, update[name].shape)
        np.testing.assert_array_equal(sent[name], clipped[name] + 0.1 * noise)


def moments(seed, scale=1.0):
    """As clients send them whose gradients have about this scale."""
    v = jax.tree.map(lambda leaf: scale * leaf**2 + 1e-16, tree(seed + 1, scale=scale**0.5))
    return algorithms.Moments(tree(seed, scale=scale), v)


def joint_norm(message, clip):
    """L2 norm of (m, v / clip)."""
    return float(np.hypot(norm(message.m), norm(message.v) / clip))


@given(seed=st.integers(0, 99), scale=st.floats(1e-4, 1e4), clip=st.floats(1e-2, 1e2))
def test_moments_are_clipped_together_as_if_gradients_were_smaller(seed, scale, clip):
    honest = moments(seed, scale)
    sent = clip_and_noise.moments_privatiser(clip, 0.0)(honest, jax.random.key(0))
    before, after = joint_norm(honest, clip), joint_norm(sent, clip)
    assert after == pytest.approx(min(before, clip), rel=1e-4)
    factor = norm(sent.m) / norm(honest.m)
    assert norm(sent.v) == pytest.approx(factor**2 * norm(honest.v), rel=1e-4)
    ratio = algorithms.secadam().reveal
    for seen, own in zip(*map(jax.tree.leaves, (ratio(sent), ratio(honest))), strict=True):
        np.testing.assert_allclose(seen, own, rtol=1e-4)


@given(seed=st.integers(0, 99), scale=st.floats(0.1, 10), factor=st.floats(1e-2, 1e2))
def test_another_unit_of_gradients_changes_nothing_else(seed, scale, factor):
    honest, key = moments(seed, scale), jax.random.key(seed)
    other = algorithms.Moments(
        optax.tree.scale(factor, honest.m), optax.tree.scale(factor**2, honest.v)
    )
    sent = clip_and_noise.moments_privatiser(1.0, 0.3)(honest, key)
    # In units in which gradients are `factor` times as large, so are the clip and the noise.
    other = clip_and_noise.moments_privatiser(factor, 0.3 * factor)(other, key)
    for name in sent.m:
        np.testing.assert_allclose(
            other.m[name], factor * sent.m[name], rtol=1e-3, atol=1e-5 * factor
        )
        np.testing.assert_allclose(
            other.v[name], factor**2 * sent.v[name], rtol=1e-3, atol=1e-5 * factor**2
        )


ANYTHING = st.lists(st.floats(width=32), min_size=4, max_size=4).map(jnp.array)


@given(m=ANYTHING, v=ANYTHING, clip=st.floats(1e-3, 1e3))
def test_whatever_a_client_sends_moves_the_sum_by_the_clip_at_most(m, v, clip):
    message = {"m": m, "v": v}
    update = clip_and_noise.privatiser(clip, 0.0)(message, jax.random.key(0))
    pair = clip_and_noise.moments_privatiser(clip, 0.0)(algorithms.Moments(m, v), jax.random.key(0))
    for sent in (update, {"m": pair.m, "v": np.asarray(pair.v, float) / clip}):
        assert norm(sent) <= clip * (1 + 1e-5)


@pytest.mark.parametrize("part", ["m", "v"])
@pytest.mark.parametrize("entry", [jnp.nan, jnp.inf, -jnp.inf, 1e30])
def test_messages_without_a_finite_norm_become_zeros(part, entry):
    sound = algorithms.Moments(jnp.ones(4), jnp.ones(4))
    broken = sound._replace(**{part: jnp.array([1.0, entry, 1.0, 1.0])})
    for privatise in (
        clip_and_noise.moments_privatiser(1.0, 0.0),
        clip_and_noise.privatiser(1.0, 0.0),
        clip_and_noise.privatiser(1.0, 0.0, as_published=True),
    ):
        assert (jnp.stack(privatise(broken, jax.random.key(0))) == 0).all()
        assert (jnp.stack(privatise(sound, jax.random.key(0))) > 0).all()


def test_the_sum_of_the_clients_moments_has_root_n_times_a_clients_noise():
    clients, clip, noise, size = 7, 0.01, 0.5, 100_000
    nothing = algorithms.Moments(jnp.zeros(size), jnp.zeros(size))
    privatise = jax.jit(clip_and_noise.moments_privatiser(clip, noise))
    sent = [privatise(nothing, key) for key in jax.random.split(jax.random.key(0), clients)]
    total = algorithms.Moments(*map(sum, zip(*sent, strict=True)))
    of_sum = noise * np.sqrt(clients)
    assert clip_and_noise.noise_of_mean_v(clip, noise, clients) * clients == pytest.approx(
        clip * of_sum
    )
    for added, deviation in ((total.m, of_sum), (total.v, clip * of_sum)):
        added = np.asarray(added, float) / deviation
        assert abs(added.std() - 1) < 5 / np.sqrt(2 * size)
        assert kstest(added, "norm").pvalue > 1e-3
    # Each draws for itself, and for m and v.
    drawn = np.concatenate([np.stack(each) for each in sent])
    correlations = np.corrcoef(drawn)[np.triu_indices(len(drawn), 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(size)


def test_the_floor_is_the_least_that_a_second_moment_counts_as():
    mean = algorithms.Moments(jnp.array([2.0, 2.0, 2.0]), jnp.array([-1.0, 0.04, 4.0]))
    reveal = algorithms.secadam(floor=0.25).reveal
    np.testing.assert_allclose(reveal(mean), [4.0, 4.0, 1.0])
    sound = moments(3)
    seen, plain = algorithms.secadam(floor=0.0).reveal(sound), algorithms.secadam().reveal(sound)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, seen, plain))


def test_secadam_with_noise_below_zero_still_steps():
    privatise = clip_and_noise.moments_privatiser(1.0, noise=3.0)
    steps = np.diff(
        federate(MAPPINGS[0], privatise, algorithm=algorithms.secadam(floor=1.0)), axis=0
    )
    assert np.isfinite(steps).all()
    # Without the floor, half of the roots would be of negative numbers.
    assert (steps != 0).all()


def federate(mapping, privatise=None, augment=None, seed=0, rounds=2, algorithm=FEDAVG):
    """Train a little -> parameters before the first round and after each, [round, entry]."""
    clients = 3
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, 30, dtype=np.int32)
    samples = Samples(jnp.asarray(images), jnp.asarray(labels), jnp.float32(255))
    model = MODELS["softmax"]()
    losses = sample_losses(model)
    work = Work(algorithm, losses, pgd.none(), augment, privatise)
    params = model.init(jax.random.key(0), samples.take(np.arange(1))[0])
    sampler = MinibatchSampler(np.array_split(np.arange(30), clients), 4, [1] * clients)
    federation = engine.start(work, params, samples, clients, 1, mapping, seed=seed)
    state, seen = federation.state, [flat(params)]
    for _ in range(rounds):
        state, _ = federation.run(state, sampler.draw(1, 1))
        seen.append(flat(state.params))
    return np.asarray(seen)


def flat(params):
    """All entries of a model's parameters, the biases first."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_noise_is_fresh_for_every_client_and_round(mapping):
    def only_noise(update, key):
        nothing = jax.tree.map(jnp.zeros_like, update)
        return clip_and_noise.privatiser(clip=1.0, noise=1.0)(nothing, key)

    steps = np.diff(federate(mapping, only_noise, rounds=20), axis=0)
    # The mean of three clients' independent noise: were it the same one, its deviation were 1, were
    # it the same of two of them, 0.75.
    expected = 1 / np.sqrt(3)
    assert abs(steps.mean()) < 5 * expected / np.sqrt(steps.size)
    assert abs(steps.std() - expected) < 5 * expected / np.sqrt(2 * steps.size)
    correlations = np.corrcoef(steps)[np.triu_indices(len(steps), 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(steps.shape[1])


def test_every_mapping_draws_the_same_noise_and_another_seed_another():
    privatise = clip_and_noise.privatiser(clip=1.0, noise=0.1)
    runs = [federate(mapping, privatise) for mapping in MAPPINGS]
    for other in runs[1:]:
        np.testing.assert_allclose(runs[0], other, rtol=1e-4, atol=1e-5)
    assert not np.allclose(runs[0], federate(MAPPINGS[0], privatise, seed=1), atol=1e-2)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_clients_see_augmented_images(mapping):
    def blank(images, key):
        return jnp.zeros_like(images)

    before, after = federate(mapping, augment=blank, rounds=1)
    # Without any light, only the biases learn.
    assert (before[:10] != after[:10]).all()
    assert (before[10:] == after[10:]).all()
    before, after = federate(mapping, rounds=1)
    assert (before[10:] != after[10:]).mean() > 0.9


def test_every_mapping_augments_the_same_way():
    def shift(images, key):
        return images + jax.random.uniform(key, (len(images), 1, 1, 1))

    runs = [federate(mapping, augment=shift) for mapping in MAPPINGS]
    for other in runs[1:]:
        np.testing.assert_allclose(runs[0], other, rtol=1e-4, atol=1e-5)
