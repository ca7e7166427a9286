"""The accountant of inversion, against closed forms and other accountants."""

import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from experiments import load
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fl.experiment.departures import Departures

dp_guarantee, runs = load("inversion", "dp_guarantee", "runs")
guarantee, noise_for = dp_guarantee.guarantee, dp_guarantee.noise_for

DELTA = 1e-5


def exact_delta(epsilon, deviation):
    """Of a Gaussian mechanism of sensitivity 1: Balle and Wang 2018, theorem 8."""
    a, b = 1 / (2 * deviation), epsilon * deviation
    return norm.cdf(a - b) - math.exp(epsilon + norm.logcdf(-a - b))


def exact_epsilon(deviation, delta):
    return brentq(lambda epsilon: exact_delta(epsilon, deviation) - delta, 0, 500, xtol=1e-10)


@pytest.mark.parametrize("rounds", [1, 300, 750])
@pytest.mark.parametrize("multiplier", [1.0, 10.0, 60.0])
def test_rounds_are_one_gaussian_mechanism_of_a_root_of_t_times_less_noise(rounds, multiplier):
    # 100 clients add a tenth of the deviation of their sum each.
    given_ = guarantee(2.0, 2.0 * multiplier / 10, 100, rounds, DELTA)
    assert given_.multiplier == pytest.approx(multiplier)
    exact = exact_epsilon(multiplier / math.sqrt(rounds), DELTA)
    assert given_.epsilon == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(("rounds", "multiplier"), [(1, 1.0), (300, 10.4)])
def test_other_accountants_agree(rounds, multiplier):
    exact = guarantee(1.0, multiplier, 1, rounds, DELTA).epsilon
    event, relation = GaussianDpEvent(multiplier), NeighboringRelation.REPLACE_SPECIAL
    by_losses = PLDAccountant(relation).compose(event, rounds).get_epsilon(DELTA)
    assert by_losses == pytest.approx(exact, rel=0.01)
    by_renyi = RdpAccountant(neighboring_relation=relation).compose(event, rounds)
    assert exact < by_renyi.get_epsilon(DELTA) < 1.2 * exact


def test_what_one_client_changes_is_as_likely_as_promised():
    """Two rounds of sums, by the most telling event: that the privacy loss exceeds epsilon."""
    clip, noise, clients, rounds, delta = 0.5, 0.8, 4, 2, 0.1
    epsilon = guarantee(clip, noise, clients, rounds, delta).epsilon
    rng = np.random.default_rng(0)
    with_client = rng.normal(clip, noise * math.sqrt(clients), (400_000, rounds)).sum(1)
    without = rng.normal(0, noise * math.sqrt(clients), (400_000, rounds)).sum(1)
    variance = rounds * clients * noise**2
    threshold = epsilon * variance / (rounds * clip) + rounds * clip / 2
    excess = (with_client > threshold).mean() - math.exp(epsilon) * (without > threshold).mean()
    assert excess == pytest.approx(delta, abs=5 * 0.5 / math.sqrt(400_000) * 2)


def test_a_clients_own_messages_have_the_noise_of_one():
    of_100 = guarantee(1.0, 0.5, 100, 3, DELTA)
    assert of_100.own_epsilon == guarantee(1.0, 0.5, 1, 3, DELTA).epsilon
    assert of_100.own_epsilon > 10 * of_100.epsilon


@given(
    epsilon=st.floats(0.1, 1e4),
    clip=st.floats(1e-3, 1e3),
    clients=st.integers(1, 1000),
    rounds=st.integers(1, 3000),
)
def test_the_noise_for_an_epsilon_gives_it(epsilon, clip, clients, rounds):
    noise = noise_for(epsilon, clip, clients, rounds, DELTA)
    found = guarantee(clip, noise, clients, rounds, DELTA)
    assert found.epsilon == pytest.approx(epsilon, rel=1e-6)
    assert found.sensitivity == clip


def test_nothing_is_promised_without_noise_or_without_a_bound():
    assert guarantee(1.0, 0.0, 100, 300, DELTA).epsilon == math.inf
    assert guarantee(math.inf, 1.0, 100, 300, DELTA).epsilon == math.inf


@pytest.mark.parametrize(
    "wrong",
    [
        {"sensitivity": 0.0},
        {"sensitivity": math.nan},
        {"noise": -1.0},
        {"noise": math.nan},
        {"clients": 0},
        {"rounds": 0},
        {"delta": 0.0},
        {"delta": 1.0},
    ],
)
def test_what_is_out_of_range_is_refused(wrong):
    right = {"sensitivity": 1.0, "noise": 1.0, "clients": 10, "rounds": 10, "delta": DELTA} | wrong
    with pytest.raises(ValueError, match="out of range"):
        guarantee(**right)
    if "noise" not in wrong:
        del right["noise"]
        with pytest.raises(ValueError, match="out of range"):
            noise_for(epsilon=1.0, **right)


def test_there_is_no_noise_for_no_epsilon_or_no_bound():
    for epsilon, sensitivity in ((0.0, 1.0), (1.0, math.inf)):
        with pytest.raises(ValueError, match="out of range"):
            noise_for(epsilon, sensitivity, 10, 10, DELTA)


RUN = runs.Run(
    *("digits", "softmax", 25, "dp_secadam", "analytic", 2.0, 3.0, 0, 40, 8, 1, 0.5, "lda", 1),
    *(None, None, None, None, "corrected", Departures(), runs.Overrides()),
)


def test_a_run_accounts_for_all_that_the_server_sees_of_it():
    seen = RUN.guarantee(DELTA)
    # One more step is attacked than there are rounds.
    assert seen == guarantee(2.0, 3.0, 25, 41, DELTA)
    assert seen.multiplier == pytest.approx(5 * 3.0 / 2.0)
    watched = replace(RUN, attack="adaptive", window=10, attack_round=40)
    assert watched.guarantee(DELTA).rounds == 40
    assert replace(RUN, algorithm="secadam", clip=None, noise=None).guarantee(DELTA) is None


def test_the_published_clip_bounds_updates_by_nothing_and_moments_as_ever():
    published = replace(RUN, departures=Departures(dp_clip=True))
    assert published.guarantee(DELTA) == RUN.guarantee(DELTA)
    updates = replace(published, algorithm="dp_fedavg").guarantee(DELTA)
    assert updates.epsilon == updates.own_epsilon == math.inf
