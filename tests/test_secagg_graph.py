"""Who deals with whom: graphs, and degrees that keep their bounds."""

import sys
from collections import Counter
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg import graph, masks
from secagg_rounds import Played


@pytest.mark.parametrize(
    ("neighbours", "committee"),
    [
        ({0: {1, 2}, 1: {2}, 2: {0, 1}}, {0, 1, 2}),
        ({0: {0, 1, 2}, 1: {0, 2}, 2: {0, 1}}, {0, 1, 2}),
        ({0: {1, 2, 3}, 1: {0, 2}, 2: {0, 1}}, {0, 1, 2}),
        ({0: {1, 2}, 1: {0, 2}, 2: {0, 1}}, {0, 1, 3}),
    ],
    ids=["one-sided", "with itself", "with somebody unknown", "an unknown committee"],
)
def test_graphs_of_which_no_two_clients_have_the_same_idea(neighbours, committee):
    with pytest.raises(ValueError, match="neighbours must be mutual"):
        graph.Graph({n: frozenset(m) for n, m in neighbours.items()}, 2, frozenset(committee))


@pytest.mark.parametrize(("clients", "degree"), [(3, 2), (10, 4), (11, 10), (50, 20)])
def test_harary_graphs_are_regular_symmetric_and_random(clients, degree):
    asked = graph.Degree(degree, degree)
    links = graph.harary(clients, asked, 1)
    assert {len(others) for others in links.neighbours.values()} == {degree}
    assert all(
        client in links.neighbours[other]
        for client, others in links.neighbours.items()
        for other in others
    )
    assert all(client not in others for client, others in links.neighbours.items())
    assert len(links.committee) == degree + 1
    if degree < clients - 1:
        other = graph.harary(clients, asked, 2)
        assert links.neighbours != other.neighbours
        assert links.committee != other.committee


def test_graphs_that_users_ask_for():
    assert graph.build(10, graph.ALL, 0) == graph.everyone(10)
    assert graph.build(10, graph.AUTO, 0) == graph.everyone(10), "too few for less than all"
    chosen = graph.choose_degree(100, 10, 10)
    assert graph.build(100, graph.AUTO, 0) == graph.harary(100, chosen, 0)
    assert graph.build(100, graph.AUTO, 0, gone=30) == graph.everyone(100)
    fewer = graph.choose_degree(100, 3, 10)
    assert fewer < chosen
    assert graph.build(100, graph.AUTO, 0, gone=3) == graph.harary(100, fewer, 0)
    assert graph.build(10, 4, 0) == graph.harary(10, graph.Degree(4, 4), 0)
    for degree in (1, 3, 10):
        with pytest.raises(ValueError, match="degree"):
            graph.build(10, degree, 0)


def test_a_degree_given_by_hand_can_be_judged():
    asked = graph.degree_of(100, 10)
    assert asked == (10, graph.majority(11))
    assert graph.leak_bound(100, asked) > 1
    assert graph.leak_bound(100, None) == graph.leak_bound(11, graph.Degree(10, 8)) == 0
    chosen = graph.degree_of(1000, graph.AUTO)
    assert graph.leak_bound(1000, chosen) <= 2**-40 < graph.leak_bound(1000, chosen, corrupt=150)
    fewer = graph.Degree(chosen.neighbours, graph.majority(chosen.neighbours + 1))
    assert graph.leak_bound(1000, chosen) < graph.leak_bound(1000, fewer)


def test_degrees_grow_slowly():
    degrees = {n: graph.choose_degree(n, n // 10, n // 10) for n in (100, 1000, 10_000)}
    assert degrees[100] < degrees[1000] < degrees[10_000]
    assert degrees[10_000].neighbours < 2 * degrees[1000].neighbours
    assert graph.choose_degree(1000, 120, 120) > degrees[1000]


def test_more_clients_drop_out_than_on_average():
    assert graph.most_gone(100, 0.0) == 0
    most = graph.most_gone(100, 0.1)
    assert binom.sf(most, 100, 0.1) <= 2**-20 < binom.sf(most - 1, 100, 0.1)


def windows(clients, first, last):
    """Places around each place of a circle, [place, step]."""
    return (np.arange(clients)[:, None] + np.arange(first, last + 1)) % clients


def test_degrees_keep_their_bounds(monkeypatch):
    """With bounds that are loose enough for failures to be seen in a few thousand circles."""
    monkeypatch.setattr(graph, "SECURITY_BITS", 3)
    monkeypatch.setattr(graph, "CORRECTNESS_BITS", 3)
    clients, rounds, bad = 100, 4000, Counter()
    k, t = graph.choose_degree.__wrapped__(clients, gone=10, corrupt=10)
    half, rng = k // 2, np.random.default_rng(0)
    right = windows(clients, 1, half)
    others = np.hstack([right, windows(clients, -half, -1)])
    for _ in range(rounds):
        corrupt, gone = (rng.permutation(clients) < 10 for _ in range(2))
        bad["fails"] += (~gone[others]).sum(1).min() < t or (~gone[: k + 1]).sum() < t
        two_views = corrupt[: k + 1].sum() >= 2 * t - (k + 1)
        opened = (corrupt[others].sum(1) >= t)[~corrupt].any()
        parted = (half + 1 + corrupt[right].sum(1) >= t)[~corrupt].any()
        bad["leaks"] += two_views or opened or parted
    assert 0 < bad["fails"] <= rounds * 2**-3
    assert 0 < bad["leaks"] <= rounds * 2**-3


def at_least(least, drawn, marked, members):
    """Probability that so many of those drawn from some members are among the marked ones."""
    ways = sum(
        comb(marked, found) * comb(members - marked, drawn - found)
        for found in range(least, drawn + 1)
    )
    return Fraction(ways, comb(members, drawn))


@pytest.mark.parametrize("degree", [(12, 7), (14, 9), (18, 12)])
def test_degrees_are_chosen_by_the_sum_of_all_that_may_go_wrong(monkeypatch, degree):
    """As `choose_degree` lists it: asked for a ten-millionth less, it takes another degree."""
    monkeypatch.setattr(graph, "CORRECTNESS_BITS", 4)
    clients, gone, corrupt, (k, t) = 100, 10, 10, degree
    # One client more in each circle, and t were too many.
    fails = [(clients + 1) * at_least(k - most + 1, k, gone, clients - 1) for most in (t, t + 1)]
    assert fails[0] <= 2**-4 < fails[1]
    two_views = at_least(2 * t - (k + 1), k + 1, corrupt, clients)
    opened = at_least(t, k, corrupt, clients - 1)
    parted = at_least(t - k // 2 - 1, k // 2, corrupt, clients - 1)
    bits = -np.log2(float(two_views + clients * (opened + parted)))
    for more, chosen in ((-1e-7, True), (1e-7, False)):
        monkeypatch.setattr(graph, "SECURITY_BITS", bits + more)
        assert (graph.choose_degree.__wrapped__(clients, gone, corrupt) == degree) == chosen


@settings(max_examples=300)
@given(st.data())
def test_honest_survivors_are_parted_only_where_many_in_a_row_are_corrupt(data):
    """Whom the server names as survivors: what `choose_degree` says of it."""
    clients, half = data.draw(st.integers(9, 14), label="n"), data.draw(st.integers(1, 3))
    t = data.draw(st.integers(half + 2, 2 * half + 1), label="t")
    links = graph.harary(clients, graph.Degree(2 * half, t), 0)
    places = np.random.default_rng(0).permutation(clients)
    some = st.sets(st.integers(0, clients - 1))
    corrupt = data.draw(some, label="corrupt")
    survivors = set(range(clients)) - data.draw(some, label="gone") - corrupt
    # Whose seed enough of its circle would give away.
    opened = {n for n in survivors if len(links.circle(n) & (survivors | corrupt)) >= t}
    parts = []
    while left := survivors.difference(*parts):
        part, reached = set(), {min(left)}
        while reached:
            part |= reached
            reached = {n for m in reached for n in links.neighbours[m]} & survivors - part
        parts.append(part)
    leaks = any(part <= opened for part in parts) and len(parts) > 1
    rows = np.isin(places, list(corrupt))[windows(clients, 1, half)].sum(1)
    crowded = (rows >= t - half - 1)[np.isin(places, list(survivors))].any()
    assert crowded or not leaks


def test_a_clients_masks_are_as_many_as_its_neighbours(monkeypatch):
    counted = Counter()
    add = masks.add

    def counting(*given, **options):
        counted["expanded"] += 1
        add(*given, **options)

    played = Played(40, entries=4, degree=6)
    delivery = played.deliveries()[0]
    played.clients[0].receive(delivery)
    monkeypatch.setattr(masks, "add", counting)
    played.clients[0].mask(played.numbers[0])
    assert counted["expanded"] == 6 + 1
    assert len(delivery.ciphertexts) == 6
