"""Wrong shares: noticed where there is none to spare, and decoded around where there are."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg import shamir
from secagg_rounds import Played, altered, refused


def unmasked(played, gone=(), lies=None):
    """Play to the end; lies: client -> (its `Unmasking` -> another one)."""
    deliveries = played.deliveries()
    present = [n for n in range(len(played.clients)) if n not in gone]
    for n in present:
        played.clients[n].receive(deliveries[n])
        played.server.receive(n, played.clients[n].mask(played.numbers[n]).to_bytes())
    survivors = played.server.survivors()
    for n in present:
        played.server.receive(n, played.clients[n].confirm(survivors[n]).to_bytes())
    for n, confirmations in played.server.confirmations().items():
        given = played.clients[n].unmask(confirmations)
        played.server.receive(n, (lies or {}).get(n, lambda same: same)(given).to_bytes())
    return played.server.total()


def lying(kind, *about):
    """A client that gives wrong shares of some others' secrets."""

    def lie(given):
        shares = getattr(given, kind)
        return replace(given, **{kind: shares | {n: altered(shares[n]) for n in about}})

    return lie


@pytest.mark.parametrize(("gone", "kind", "about"), [((), "seed", 2), ((4,), "key", 4)])
@pytest.mark.parametrize("liar", range(4))
def test_wrong_shares_are_noticed_where_there_is_none_to_spare(gone, kind, about, liar):
    """By what their client signed: else a single liar had the server take a wrong sum."""
    played = Played(threshold=5 - len(gone))
    with refused(f"wrong shares of the {kind} of client {about}: they do not give the secret"):
        unmasked(played, gone, {liar: lying(f"{kind}_shares", about)})


@pytest.mark.parametrize(
    ("gone", "kind", "about", "liars"),
    [
        ((), "seed", 2, (0,)),
        ((), "seed", 2, (0, 5)),
        ((9,), "key", 9, (8,)),
        ((9,), "seed", 2, (3,)),
    ],
)
def test_the_sum_is_right_in_spite_of_liars_where_there_are_shares_to_spare(
    gone, kind, about, liars
):
    played = Played(10, 6)
    left = [n for n in range(10) if n not in gone]
    total = unmasked(played, gone, dict.fromkeys(liars, lying(f"{kind}_shares", about)))
    assert np.array_equal(total, played.numbers[left].sum(0, dtype=np.uint64))


def test_more_liars_than_can_be_decoded_around_end_the_round():
    with refused("wrong shares of the seed of client 2: they do not give the secret"):
        unmasked(Played(10, 6), lies=dict.fromkeys((0, 5, 6), lying("seed_shares", 2)))


@pytest.mark.parametrize("liar", range(5))
def test_one_share_to_spare_is_enough_for_one_liar_about_all(liar):
    played = Played(5)
    assert played.params.graph.threshold == 4
    total = unmasked(played, lies={liar: lying("seed_shares", *range(5))})
    assert np.array_equal(total, played.numbers.sum(0, dtype=np.uint64))


def test_a_liar_costs_the_decoding_of_one_secret(monkeypatch):
    decoded = []
    decode = shamir.decode
    monkeypatch.setattr(shamir, "decode", lambda *given: (decoded.append(1), decode(*given))[1])
    unmasked(Played(12), lies={0: lying("seed_shares", *range(12))})
    assert len(decoded) == 1
