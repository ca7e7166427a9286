"""Gains come from the units that images activate, with what neighbours have in common."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load

pattern_gains, flat_gains, pixel_gains, nearby_gains, disaggregation, threat_model = load(
    "inversion",
    *("pattern_gains", "flat_gains", "pixel_gains", "nearby_gains"),
    *("disaggregation", "threat_model"),
)
SHAPE, ROUNDS, EACH, UNITS, LEVELS = (8, 8, 1), 40, 6, 60, 255
PIXELS = 64
EDGE = np.arange(PIXELS) % SHAPE[1] == 0


def boxes(rng, *count):
    """Flat boxes on black, [..., pixel], in whole steps of intensity, darker at one edge."""
    images = np.zeros((*count, *SHAPE[:2]))
    for image in images.reshape(-1, *SHAPE[:2]):
        for _ in range(2):
            (top, left), (height, width) = rng.integers(0, 6, 2), rng.integers(2, 7, 2)
            image[top : top + height, left : left + width] = rng.integers(40, LEVELS + 1) / LEVELS
        image[:, 0] = np.round(image[:, 0] * rng.uniform(0.1, 1) * LEVELS) / LEVELS
    return images.reshape(*count, PIXELS)


def seen(seed, mixed=0.0, rounds=ROUNDS):
    """Images up to gains, some of them sums of two, that a layer of known weights has seen."""
    rng = np.random.default_rng(seed)
    truth, gains = boxes(rng, rounds, EACH), np.exp(rng.normal(size=PIXELS))
    weights = (
        rng.normal(size=(rounds, PIXELS + 1, UNITS))
        * np.append(0.3 * np.ones(PIXELS), 0.5)[:, None]
    )
    silent = truth @ weights[:, :-1] + weights[:, -1:] <= 0
    wrong = rng.random((rounds, EACH)) < mixed
    other, share = np.roll(truth, 1, axis=1), rng.uniform(0.3, 0.7, (rounds, EACH, 1))
    images = np.where(wrong[..., None], share * truth + (1 - share) * other, truth)
    silent &= ~wrong[..., None] | np.roll(silent, 1, axis=1)
    found = disaggregation.Disaggregated(
        jnp.asarray(images / gains),
        jnp.full((rounds, EACH), 50.0),
        jnp.asarray(silent),
        jnp.ones((rounds, UNITS), bool),
    )
    return rng, found, gains, jnp.asarray(weights)


def errors(found, gains):
    """Medians of relative errors, of pixels at the edge and of others; and the factor of all."""
    known = found > 0
    assert known.mean() > 0.9
    logs = np.log(np.where(known, found, 1) / gains)
    common = np.median(logs[known])
    edge, others = (np.median(np.abs(logs - common)[known & which]) for which in (EDGE, ~EDGE))
    return edge, others, np.exp(common)


def solve(found, weights, guess, known):
    certain = np.ones(found.certainty.shape, bool)
    with jax.enable_x64(True):
        return pattern_gains.pattern_gains(found, certain, weights, guess, known)


def nothing_in_common():
    none = np.zeros(0)
    return flat_gains.Quotients(none.astype(int), none.astype(int), none, none)


def test_patterns_alone_mend_gains():
    rng, found, gains, weights = seen(0)
    guess = gains * np.exp(0.3 * rng.normal(size=PIXELS))
    (*before, _), (*after, _) = (
        errors(each, gains) for each in (guess, solve(found, weights, guess, nothing_in_common()))
    )
    assert (np.array(after) < 0.5 * np.array(before)).all()


@pytest.mark.parametrize("mixed", [0.0, 0.6])
def test_where_neighbours_say_little_patterns_tell(mixed):
    _, found, gains, weights = seen(1, mixed)
    values = np.asarray(found.images).reshape(-1, PIXELS)
    known, guess = flat_gains.quotients(values, SHAPE), flat_gains.flat_gains(values, SHAPE)
    at_edge, _, _ = errors(guess, gains)
    edge, others, common = errors(solve(found, weights, guess, known), gains)
    assert edge < 0.5 * at_edge
    assert edge < 0.1
    assert others < 0.02
    assert 0.8 < common < 1.25


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
def test_what_all_gains_have_in_common_is_what_contradicts_images_least(factor):
    _, found, gains, weights = seen(2)
    certain = np.ones(found.certainty.shape, bool)
    with jax.enable_x64(True):
        found_again = pattern_gains._rescaled(found, certain, weights, factor * gains)
    np.testing.assert_allclose(found_again, found_again[0] / gains[0] * gains, rtol=1e-6)
    assert 0.85 < found_again[0] / gains[0] < 1.15


def test_black_pixels_stay_black():
    rng, found, gains, weights = seen(3)
    guess = gains * (rng.random(PIXELS) < 0.8)
    solved = solve(found, weights, guess, nothing_in_common())
    assert ((solved > 0) == (guess > 0)).all()


def test_gains_of_mixtures_are_refined_by_patterns():
    _, found, gains, weights = seen(4, mixed=0.6, rounds=15)
    public = threat_model.PublicKnowledge(None, SHAPE, EACH, None, levels=LEVELS)
    certain = np.ones(found.certainty.shape, bool)
    with jax.enable_x64(True):
        images = pixel_gains.evidence(found, certain, weights, public)
        known = pixel_gains.refine(images, pixel_gains.by_patterns(images, public), public)
        other = pixel_gains.refine(images, None, public).of_pixels
        wrong = np.asarray(pattern_gains.contradicted(found, other, weights))
    assert known.likely
    assert known.contradicted < np.quantile(wrong, pixel_gains.BEST)
    _, others, common = errors(np.asarray(known.of_pixels), gains)
    assert others < 0.02
    assert 0.95 < common < 1.05


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_the_factor_of_all_is_the_one_that_makes_most_exact(factor):
    rng = np.random.default_rng(5)
    gains = np.exp(rng.normal(size=PIXELS))
    values = rng.integers(1, 60, (40, PIXELS)) / LEVELS / gains
    off = gains * factor * (1 + 0.01 * rng.uniform(-1, 1, PIXELS))
    found = nearby_gains.common_factor(jnp.asarray(values), jnp.asarray(off), LEVELS)
    assert float(found) * factor == pytest.approx(1, abs=0.01)


def test_values_that_are_no_steps_leave_the_factor_at_one():
    values = np.random.default_rng(6).random((40, PIXELS))
    assert nearby_gains.common_factor(jnp.asarray(values), jnp.ones(PIXELS), LEVELS) == 1
