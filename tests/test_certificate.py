"""A run's certificate: what is assumed of its attack, and what is made of a vote."""

import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load

from fl.data.datasets import Dataset
from fl.experiment.departures import Departures

certificate, crfl, runs = load("mitigation", "certificate", "crfl", "runs")

CLIENTS, MODELS = 10, 1000


def run(attack="continuous", **values):
    given = {"dataset": "digits", "model": "softmax", "clients": CLIENTS, "algorithm": "secadam"}
    given |= {"attack": attack, "defence": "none", "eps": None, "delta": 1e-4, "adversaries": 3}
    given |= {"seed": 0, "rounds": 30, "start_round": 20, "local_steps": 2, "batch_size": 32}
    given |= {"alpha": 0.5, "partition": "lda", "variant": "corrected"}
    given |= {"departures": Departures(), "overrides": runs.Overrides()}
    return runs.Run(**given | values)


def ballot(*winners, labels, clean):
    """Votes of all models but one for a class each."""
    counts = np.zeros((len(winners), 10), int)
    counts[np.arange(len(winners)), winners] = MODELS - 1
    counts[:, 9] += 1
    return certificate.Ballot(counts, np.array(labels), clean)


SURE = ballot(0, 1, 2, 3, labels=[0, 1, 5, 3], clean=3)


def test_clean_and_triggered_samples_are_counted_apart():
    found = certificate.certify(run(delta=0.0), SURE)
    assert found.scores["certified_accuracy"] == pytest.approx(2 / 3)
    assert found.scores["certified_asr"] == 1
    assert found.scores["abstained"] == 0


def test_the_curve_ends_beyond_the_largest_radius():
    found = certificate.certify(run(), SURE)
    radii, accuracy, _ = zip(*found.curve, strict=True)
    assert radii[0] == 0
    assert accuracy[0] == pytest.approx(2 / 3)
    assert accuracy[-1] == 0
    assert radii[-1] == pytest.approx(1.02 * found.scores["median_radius"])


def test_models_are_clipped_to_the_last_rounds_norm_then_perturbed():
    """Black images show biases alone: the first is rho_T, and there is noise on all ten."""
    images, labels = np.zeros((3, 16, 16, 1), np.uint8), np.array([7, 3, 0], np.int32)
    dataset = Dataset("made up", images, labels, images, labels, scale=255.0)
    bias = jnp.zeros(10).at[0].set(1e6)
    params = {"params": {"classifier": {"kernel": jnp.zeros((256, 10)), "bias": bias}}}
    voting = run(overrides=runs.Overrides(sigma=10.0, smoothed_models=500))
    found = certificate.vote(voting, params, dataset)
    assert (found.clean, found.labels.tolist()) == (3, [7, 3, 0, 3])
    biases = np.random.default_rng(0).normal(0, 10, (100_000, 10))
    biases[:, 0] += 0.25 * 30 * 2 + 4
    expected = (biases.argmax(1) == 0).mean()
    assert found.counts[0, 0] / 500 == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 500))


def median_radius(given):
    return certificate.certify(given, SURE).scores["median_radius"]


def test_radius_is_crfls_for_what_the_run_does():
    """The formula, with what a continuous attack of three in ten clients puts into it."""
    norms = 0.25 * np.arange(21, 31) * 2 + 4
    attack = crfl.Attack(
        adversaries=3,
        local_steps=2,
        weight=0.1,
        scale=1,
        rate=0.01,
        poisoned=8 / 32,
        lipschitz=np.sqrt(2 + 2 * norms[0] + norms[0] ** 2),
    )
    factor = crfl.contraction(norms[1:], np.full(9, crfl.SIGMA))
    votes = crfl.count(SURE.counts, crfl.ERROR)
    expected = np.median(crfl.radius(votes, crfl.SIGMA, attack, factor)[:3])
    assert median_radius(run()) == pytest.approx(expected)


def test_model_replacement_divides_the_radius_by_its_factor_and_its_share_of_poison():
    continuous, one_shot = run(adversaries=1), run("one_shot", adversaries=1)
    ratio = median_radius(continuous) / median_radius(one_shot)
    assert ratio == pytest.approx(CLIENTS / (8 / 32))


def test_options_reach_the_certificate():
    plain = run()
    for override in ({"sigma": 0.02}, {"error": 0.2}, {"bound": "clopper-pearson"}):
        other = run(overrides=runs.Overrides(**override))
        assert median_radius(other) > median_radius(plain), override
    assert median_radius(run(overrides=runs.Overrides(client_rate=0.02))) < median_radius(plain)


def test_published_certificates_never_abstain_and_leave_the_learning_rate_out():
    tied = certificate.Ballot(np.full((2, 10), 100), np.array([0, 0]), 1)
    assert certificate.certify(run(), tied).scores["abstained"] == 1
    published = run(departures=Departures(radius=True))
    assert certificate.certify(published, tied).scores["abstained"] == 0
    slower = run(departures=Departures(radius=True), overrides=runs.Overrides(client_rate=1e-4))
    assert median_radius(slower) == median_radius(published)
