"""FLIP: distances between classes, inverted triggers, and which images get them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load

(flip,) = load("mitigation", "flip")

SHAPE = (2, 5, 2)
PIXELS = 20


def logits(params, images):
    return images.reshape(len(images), -1) @ params


def linear_model(seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 1, (PIXELS, 10)), float)


def images(count=12, seed=1):
    return jnp.asarray(np.random.default_rng(seed).uniform(0, 1, (count, *SHAPE)), float)


LABELS = jnp.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 5, 5, 9])
PRESENT = [0, 1, 2, 5, 9]


def test_distances_of_a_linear_model_are_those_to_its_hyperplanes():
    w, x = linear_model(), images()
    found = np.asarray(flip.class_distances(logits, w, x, LABELS))
    z, flat = np.asarray(logits(w, x)), np.asarray(w)
    for source in range(10):
        own = np.asarray(LABELS) == source
        for target in range(10):
            if source == target or not own.any():
                assert np.isinf(found[source, target])
                continue
            apart = np.linalg.norm(flat[:, source] - flat[:, target])
            expected = np.maximum(z[own, source] - z[own, target], 0).mean() / apart
            assert found[source, target] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_nearest_pairs_come_first():
    distances = np.full((10, 10), np.inf)
    distances[[0, 0, 3, 4, 6], [1, 2, 5, 0, 7]] = [0.5, 0.2, 0.9, 0.1, 0.4]
    targets, chosen = flip.nearest_pairs(jnp.asarray(distances), 3)
    assert np.flatnonzero(chosen).tolist() == [0, 4, 6]
    assert np.asarray(targets)[[0, 3, 4, 6]].tolist() == [2, 5, 0, 7]
    _, all_chosen = flip.nearest_pairs(jnp.asarray(distances), 9)
    assert np.flatnonzero(all_chosen).tolist() == [0, 3, 4, 6]


def test_inverted_triggers_turn_classes_into_their_targets():
    w, x = linear_model(), images(40)
    labels = jnp.argmax(logits(w, x), axis=1)  # a model that is right
    targets = (jnp.arange(10) + 1) % 10
    masks, patterns = flip.invert(logits, w, x, labels, targets, steps=60)
    assert masks.shape == (10, 2, 5, 1)
    assert patterns.shape == (10, *SHAPE)
    stamped = flip.stamp(x, masks[labels], patterns[labels])
    turned = (jnp.argmax(logits(w, stamped), axis=1) == targets[labels]).mean()
    assert turned > 0.9
    before, _ = flip.invert(logits, w, x, labels, targets, steps=0)
    assert float(before.max()) == pytest.approx(flip.MASK_START)


def test_a_mask_says_how_much_of_the_pattern_shows():
    x, pattern, mask = images(3), images(3, seed=2), jnp.array([0.0, 0.25, 1.0])
    stamped = flip.stamp(x, mask.reshape(3, 1, 1, 1), pattern)
    assert np.array_equal(stamped[0], x[0])
    np.testing.assert_allclose(stamped[1], 0.75 * x[1] + 0.25 * pattern[1], rtol=1e-6)
    assert np.array_equal(stamped[2], pattern[2])


def test_triggers_of_one_class_do_not_depend_on_the_images_of_others():
    w, x, targets = linear_model(), images(), (jnp.arange(10) + 1) % 10
    others = x.at[3:].set(images(9, seed=5))
    one, other = (flip.invert(logits, w, each, LABELS, targets, 5) for each in (x, others))
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
        assert np.abs(ours[2] - theirs[2]).max() > 1e-4


def test_half_of_the_images_of_the_nearest_classes_are_stamped():
    w, x = linear_model(), images()
    hardened = jax.jit(flip.flip(logits, pairs=2))(w, x, LABELS)
    changed = np.asarray(jnp.abs(hardened - x).max((1, 2, 3)) > 0)
    _, chosen = flip.nearest_pairs(flip.class_distances(logits, w, x, LABELS), 2)
    sources = np.flatnonzero(chosen)
    assert len(sources) == 2
    for source in PRESENT:
        own = changed[np.asarray(LABELS) == source]
        expected = np.arange(len(own)) % 2 == 0 if source in sources else np.zeros(len(own), bool)
        assert own.tolist() == expected.tolist()
    assert 0 <= float(hardened.min()) <= float(hardened.max()) <= 1


def test_stamped_images_are_harder_than_those_they_stand_for():
    w, x = linear_model(), images(40)
    labels = jnp.argmax(logits(w, x), axis=1)
    hardened = flip.flip(logits, pairs=10, steps=30)(w, x, labels)

    def losses(inputs):
        return -jax.nn.log_softmax(logits(w, inputs))[jnp.arange(40), labels]

    stamped = np.asarray(jnp.abs(hardened - x).max((1, 2, 3)) > 0)
    assert 10 < stamped.sum() < 30
    assert (losses(hardened)[stamped] > losses(x)[stamped]).mean() > 0.9
