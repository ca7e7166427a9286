"""The adaptive attack where a ratio cannot be undone: it says what it found, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
from experiments import load

from fl.simulation import algorithms, models

adaptive, attacks, threat_model = load("inversion", "adaptive", "attacks", "threat_model")
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
