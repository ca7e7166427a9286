"""The adaptive attack where a ratio cannot be undone: it says what it found, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load

from fl.simulation import algorithms, models

adaptive, attacks, threat_model, window_gradients = load(
    "inversion", "adaptive", "attacks", "threat_model", "window_gradients"
)
SHAPE, BATCH, ROUNDS = (4, 4, 1), 2, 30


def short(public):
    """The matching of directions, in few steps."""
    return attacks.cosine(public)._replace(steps=2)


def seen(algorithm, deviation, mixed, noisy):
    """What a server sees of clients whose messages are noise of some deviation."""
    model = models.MODELS["lenet"]()
    params = model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    rng = np.random.default_rng(0)

    def noise(deviation):
        def like(leaf):
            return (deviation * rng.normal(size=(ROUNDS, *leaf.shape))).astype(np.float32)

        return jax.tree.map(like, params)

    public = threat_model.PublicKnowledge(model, SHAPE, BATCH, algorithm, noisy=noisy)
    return public, threat_model.WindowView(noise(deviation), noise(1.0), 300, mixed, public)


def test_of_noise_images_are_found_all_the_same():
    """Undone entry by entry, noise would grow beyond what numbers can hold."""
    public, view = seen(algorithms.secadam(floor=1.0), 1e3, 5, noisy=True)
    images = np.asarray(adaptive.adaptive(short, public).reconstruct(view, jax.random.key(1)))
    assert images.shape == (1, 5 * BATCH, *SHAPE)
    assert ((images >= 0) & (images <= 1)).all()  # which no NaN is


def test_a_mean_of_ratios_is_no_ratio(monkeypatch):
    """Of clients that send their own, the server undoes each one's, and matches their mean."""
    undone = []
    monkeypatch.setattr(adaptive, "_by_rank", lambda view, *_: undone.append(view.mixed))
    for algorithm, mixed in (
        *((algorithms.adam(), 1), (algorithms.adam(), 3)),
        *((algorithms.secadam(), 1), (algorithms.secadam(), 3)),
    ):
        public, view = seen(algorithm, 1e-3, mixed, noisy=False)
        found = adaptive.adaptive(short, public).reconstruct(view, jax.random.key(1))
        assert (found is None) != (algorithm.sends == algorithms.UPDATES and mixed > 1)
    assert undone == [1, 1, 3]


def test_pixels_of_which_nothing_was_found_are_black():
    public, _ = seen(algorithms.secadam(), 1.0, 1, noisy=False)
    pixels = np.full((2, 1, 16), np.nan)
    pixels[0, 0, :3] = 0.25, 7.0, -1.0
    images = np.asarray(adaptive._as_images(jnp.asarray(pixels), public))
    assert images.shape == (2, 1, *SHAPE)
    assert images.ravel()[:4].tolist() == [0.25, 1, 0, 0]
    assert (images.ravel()[3:] == 0).all()


def test_more_images_than_can_be_told_apart_are_found_where_they_stand_alone(monkeypatch):
    public, view = seen(algorithms.secadam(), 1.0, 20, noisy=False)
    rng = np.random.default_rng(0)
    image, deltas = rng.uniform(0.1, 1, 16), rng.normal(size=9)
    alone = np.append(image, 1)[:, None] * deltas
    gradients = np.stack([alone] * 3)
    monkeypatch.setattr(adaptive, "layer_gradients", lambda *_: jnp.asarray(gradients))
    monkeypatch.setattr(adaptive, "_take_apart", None)
    shapes = 3, adaptive.MOST_IMAGES, *SHAPE
    found = adaptive._by_rank(view, public.layers()[0][0], jax.random.key(0))
    assert found.shape == shapes
    path = public.layers()[0][0]
    tree = jax.tree.map(lambda leaf: jnp.zeros((3, *leaf.shape)), view.params)
    threat_model.layer_params(tree, path).update(
        kernel=jnp.asarray(gradients[:, :-1]), bias=jnp.asarray(gradients[:, -1])
    )
    found = adaptive.adaptive(short, public).from_gradients(tree, 20 * BATCH, jax.random.key(0))
    assert found.shape == shapes
    np.testing.assert_allclose(found[:, 0].reshape(3, -1), np.stack([image] * 3), atol=1e-6)
    assert not found[:, 1:].any()


def test_gains_come_from_the_soundest_rounds_and_of_few_images_from_all(monkeypatch):
    rng = np.random.default_rng(0)
    rounds, rank = 7, 2
    sound = rng.normal(size=(rounds, 17, rank)) @ rng.normal(size=(rounds, rank, 9))
    error = np.array([0, 0.3, 0, 0.01, 0, 1, 0.02])[:, None, None]
    gradients = jnp.asarray(sound + error * rng.normal(size=sound.shape))
    assert adaptive._rounds_for_gains(gradients, rank).tolist() == list(range(-rounds, 0))
    monkeypatch.setattr(adaptive, "IMAGES_FOR_GAINS", 4 * rank)
    assert adaptive._rounds_for_gains(gradients, rank).tolist() == [-7, -5, -4, -3]
    assert adaptive._rounds_for_gains(gradients, 1).tolist() == list(range(-rounds, 0))


def test_what_is_beyond_the_rank_is_told_in_each_round():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        sound = rng.normal(size=(2, 12, 2)) @ rng.normal(size=(2, 2, 8))
        gains = rng.uniform(0.01, 100, (1, 12, 1)) * rng.uniform(0.01, 100, (1, 1, 8))
        sound = jnp.asarray(sound * gains).at[1, :, :3].set(0)  # silent units say nothing
        assert (window_gradients.beyond_rank(sound, 2) < 1e-7).all()
        # Of four directions alike, two are beyond a rank of two: half of the energy.
        shares = window_gradients.beyond_rank(jnp.eye(4)[None], 2)
        nothing = window_gradients.beyond_rank(jnp.zeros((3, 12, 8)), 2)
    np.testing.assert_allclose(shares, [0.5**0.5], rtol=1e-6)
    assert not nothing.any()


@pytest.mark.parametrize(
    ("images", "by_activations", "by_patterns", "best"),
    [
        # No better than the one before, for the first; exact ones end the search.
        (3, [(0.3, 0), (0.2, 0), (0.25, 0)], [(0.4, 0), (0.1, 1)], 0.1),
        (3, [(0.4, 0), (0.3, 0), (0.2, 0), (0.1, 0)], [(0.5, 0), (0.5, 0)], 0.1),
        (3, [(0.3, 0), (0.2, 1)], [], 0.2),  # exact ones need no others
        # Of both ways, that which contradicts images less: most gains may seem exact by chance.
        (3, [(0.3, 0), (0.3, 0)], [(0.4, 1)], 0.3),
        (1, [(0.3, 0)], [], 0.3),  # nothing to take apart
    ],
)
def test_gains_are_refined_as_long_as_less_contradicts_images(
    monkeypatch, images, by_activations, by_patterns, best
):
    rounds, pixels, units = 9, 16, 5
    rng = np.random.default_rng(0)
    gradients = jnp.asarray(rng.normal(size=(rounds, pixels + 1, units)))
    gains = jnp.asarray(rng.uniform(0.5, 1, pixels), jnp.float32)
    asked, taken = [], []

    def take_apart(gradients, *_, weights=None):
        taken.append((gradients, weights is not None))
        found = jnp.ones((rounds, 2, pixels)) * (1.0 if weights is None else gains[None, None])
        nothing = jnp.zeros((rounds, 2, units), bool)
        return adaptive.Disaggregated(found, jnp.full((rounds, 2), 99), nothing, nothing[:, 0])

    def evidence(found, certain, *_):
        np.testing.assert_allclose(found.images, 1, rtol=1e-6)  # up to their gains, in each pass
        assert certain.all()

    def way(patterns, seen, public, gains_before=None):
        asked.append((patterns, gains_before))
        number = sum(other == patterns for other, _ in asked) - 1
        return (by_patterns if patterns else by_activations)[number]

    def refine(seen, solved, public):
        contradicted, exact = solved
        return adaptive.PixelGains(gains, True, bool(exact), contradicted)

    monkeypatch.setattr(adaptive, "_take_apart", take_apart)
    monkeypatch.setattr(adaptive, "evidence", evidence)
    monkeypatch.setattr(adaptive, "by_activations", lambda second, *given: way(False, *given))
    monkeypatch.setattr(adaptive, "by_patterns", lambda *given: way(True, *given))
    monkeypatch.setattr(adaptive, "refine", refine)
    monkeypatch.setattr(adaptive, "_second_layer", lambda *_: None)
    public, view = seen(algorithms.secadam(), 1.0, 1, noisy=False)
    path = public.layers()[0][0]
    found = adaptive._gains(view, path, np.arange(-rounds, 0), gradients, images, jax.random.key(0))
    assert found.contradicted == best
    each = len(by_activations), len(by_patterns)
    assert [patterns for patterns, _ in asked] == [False] * each[0] + [True] * each[1]
    # Without gains, once for both.
    assert [by_weights for _, by_weights in taken] == [False] + [True] * (len(taken) - 1)
    known = [gains_before for _, gains_before in asked if gains_before is not None]
    assert len(known) == len(taken) - 1
    for (lit, _), before in zip(taken[1:], known, strict=True):
        np.testing.assert_allclose(before, gains)
        np.testing.assert_allclose(lit, gradients * np.append(gains, 1)[None, :, None], rtol=1e-6)
