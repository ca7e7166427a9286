"""Parcels and the common secret: ciphertexts, sharers and dealers that cheat are caught."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg import keys, runner, shamir
from secagg.client import Client
from secagg.messages import Advertisement, Delivery, Parcel, Roster, Survivors
from secagg.records import TooFewError
from secagg_rounds import (
    CheatingServer,
    Played,
    altered,
    play,
    refused,
    setup,
    signing_keys,
    vectors,
)


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (lambda sent: sent | {2: altered(sent[2])}, "from client 2 was altered"),
        (lambda sent: sent | {2: altered(sent[2], 0)}, "from client 2 was altered"),
        (lambda sent: sent | {2: sent[2][:-1]}, "from client 2 was altered, cut off"),
        (lambda sent: sent | {2: b""}, "from client 2 was altered, cut off"),
        (lambda sent: sent | {2: sent[3], 3: sent[2]}, "from client 2 was altered"),
        (lambda sent: {n: c for n, c in sent.items() if n != 2}, "one parcel of each sharer"),
        (lambda sent: sent | {0: sent[2]}, "one parcel of each sharer"),
    ],
    ids=["altered", "other nonce", "truncated", "emptied", "swapped", "left out", "from itself"],
)
def test_ciphertexts_that_were_tampered_with(tamper, sentence):
    played = Played()
    delivery = played.deliveries()[0]
    with refused(sentence):
        played.clients[0].receive(replace(delivery, ciphertexts=tamper(delivery.ciphertexts)))
    with refused("asked to mask where failed is due"):
        played.clients[0].mask(played.numbers[0])


@pytest.mark.parametrize("deals", [True, False])
def test_sharers_whose_keys_were_kept_back(deals):
    """Of one that deals seeds of the common secret to all, or shares with neighbours alone."""
    played = Played(16, degree=4, common=True)
    played.server = CheatingServer(played.params)
    links = played.params.graph
    hidden = next(n for n in range(16) if played.params.deals(n) == deals)
    neighbour = min(links.neighbours[hidden])
    stranger = next(n for n in range(16) if n not in links.circle(hidden))
    deceived = (neighbour, stranger) if deals else (neighbour,)
    rosters = played.rosters()
    for number in deceived:
        kept = [
            data
            for data in rosters[number].advertisements
            if Advertisement.from_bytes(data).client != hidden
        ]
        rosters[number] = Roster(tuple(kept))
    for n, roster in rosters.items():
        played.server.receive(n, played.clients[n].share(roster).to_bytes())
    deliveries = played.server.deliveries()
    for number in deceived:
        with refused("never advertised keys"):
            played.clients[number].receive(deliveries[number])


@pytest.mark.parametrize(
    ("parcel", "client"),
    [
        (Parcel(b"", b"", b""), 2),
        (Parcel(bytes(33), bytes(32), b""), 2),
        (Parcel(bytes(33), bytes(33), bytes(32)), 2),
        (Parcel(bytes(33), shamir.PRIME.to_bytes(33), b""), 2),
    ],
    ids=["empty", "too short", "a seed where none is due", "outside the field"],
)
def test_parcels_that_do_not_hold_what_they_should(parcel, client):
    played = Played()
    delivery = played.deliveries()[0]
    context, sender = played.params.context, played.clients[client]
    forged = keys.encrypt(sender._key_with(0), parcel.to_bytes(), context, client, 0)
    with refused("parcel of client 2 does not hold what it should"):
        played.clients[0].receive(
            replace(delivery, ciphertexts=delivery.ciphertexts | {client: forged})
        )


def test_too_few_sharers():
    played = Played(threshold=4)
    delivery = played.deliveries()[0]
    kept = {n: c for n, c in delivery.ciphertexts.items() if n < 3}
    with pytest.raises(TooFewError, match="shares of 3 clients are fewer"):
        played.clients[0].receive(Delivery(kept, (0, 1, 2)))


def test_too_few_of_the_committee():
    played = Played(40, degree=8)
    links, deliveries = played.params.graph, played.deliveries()
    client = next(n for n in range(40) if not links.circle(n) & links.committee)
    sharers = tuple(n for n in range(40) if n not in list(links.committee)[:3])
    with pytest.raises(TooFewError, match="shares of the committee of 6 clients are fewer"):
        played.clients[client].receive(replace(deliveries[client], sharers=sharers))


class Equivocating(Client):
    """A client that deals one other a different seed of the common secret."""

    deceived = 0

    def share(self, roster):
        shares = super().share(roster)
        way = self._context, self._number, self.deceived
        key, ciphertext = self._key_with(self.deceived), shares.ciphertexts[self.deceived]
        parcel = Parcel.from_bytes(keys.decrypt(key, ciphertext, *way))
        other = keys.encrypt(key, replace(parcel, common_seed=bytes(32)).to_bytes(), *way)
        return replace(shares, ciphertexts=shares.ciphertexts | {self.deceived: other})


@pytest.mark.parametrize("dealer", [1, 2, 4])
def test_a_dealer_that_gives_different_seeds_of_the_common_secret(dealer):
    """With it, the server could weigh the sum towards one client's vector."""
    played = Played(5, common=True)
    played.clients[dealer] = Equivocating(dealer, signing_keys(5)[dealer], played.params)
    played.advertised[dealer] = played.clients[dealer].advertise()
    secrets_seen, masked = [], []
    for n, delivery in played.deliveries().items():
        secrets_seen.append(played.clients[n].receive(delivery))
        masked.append(played.clients[n].mask(played.numbers[n]))
        played.server.receive(n, masked[-1].to_bytes())
    assert len(set(secrets_seen)) == 2, "every dealer's seed counts"
    told = {n: each.signature for n, each in enumerate(masked)}
    for n in range(5):
        survivors = Survivors(tuple(range(5)), {m: s for m, s in told.items() if m != n})
        wrong = "client 0" if n else "client 1"
        with refused(f"wrong signature of {wrong} under the sharers and common secret"):
            played.clients[n].confirm(survivors)


def test_the_round_goes_on_without_whom_a_dealer_gave_another_seed(monkeypatch):
    made = {2: Equivocating}
    monkeypatch.setattr(runner, "Client", lambda n, *given: made.get(n, Client)(n, *given))
    numbers = vectors(5, 5)
    result = play(setup(5, common=True), numbers)
    assert result.survivors == (1, 2, 3, 4)
    assert np.array_equal(result.total, numbers[1:].sum(0, dtype=np.uint64))


def test_without_a_common_secret_of_enough_clients_the_round_ends():
    played = Played(5, 3, common=True)
    for n in (3, 4):
        played.clients[n] = Equivocating(n, signing_keys(5)[n], played.params)
        played.clients[n].deceived = n - 3
        played.advertised[n] = played.clients[n].advertise()
    deliveries = played.deliveries()
    # Clients 0 and 1 have a secret of their own each, and client 2 never answers.
    for n in (0, 1, 3, 4):
        played.clients[n].receive(deliveries[n])
        played.server.receive(n, played.clients[n].mask(played.numbers[n]).to_bytes())
    with refused("different common secrets"):
        played.server.survivors()


@pytest.mark.parametrize(("common", "agreed"), [(False, bytes(32)), (True, b"")])
def test_a_common_secret_that_is_not_due(common, agreed):
    """Not even where it is signed: in plain secure aggregation one client could end the round."""
    played = Played(5, common=common)
    played.clients[1].receive(played.deliveries()[1])
    played.clients[1]._agreed = agreed
    masked = played.clients[1].mask(played.numbers[1])
    with refused("client 1 signs a common secret that is not due"):
        played.server.receive(1, masked.to_bytes())


def test_a_single_client_that_signs_another_common_secret_is_left_out():
    played = Played(5, common=True)
    for n, delivery in played.deliveries().items():
        client = played.clients[n]
        client.receive(delivery)
        if n == 3:
            client._agreed = bytes(32)
        played.server.receive(n, client.mask(played.numbers[n]).to_bytes())
    survivors = played.server.survivors()
    assert {told.clients for told in survivors.values()} == {(0, 1, 2, 4)}
    for n, told in survivors.items():
        played.server.receive(n, played.clients[n].confirm(told).to_bytes())
    for n, confirmations in played.server.confirmations().items():
        played.server.receive(n, played.clients[n].unmask(confirmations).to_bytes())
    expected = played.numbers[[0, 1, 2, 4]].sum(0, dtype=np.uint64)
    assert np.array_equal(played.server.total(), expected)


def test_a_ciphertext_meant_for_another():
    played = Played()
    deliveries = played.deliveries()
    stolen = deliveries[1].ciphertexts[2]
    changed = replace(deliveries[0], ciphertexts=deliveries[0].ciphertexts | {2: stolen})
    with refused("meant for another client"):
        played.clients[0].receive(changed)


def test_a_ciphertext_of_another_round():
    key, way = bytes(32), (b"this round", 1, 2)
    sealed = keys.encrypt(key, b"share", *way)
    assert keys.decrypt(key, sealed, *way) == b"share"
    assert keys.encrypt(key, b"share", *way) != sealed, "each has a nonce of its own"
    for other in ((b"another", 1, 2), (b"this round", 2, 1), (b"this round", 1, 3)):
        with refused("another client or round"):
            keys.decrypt(key, sealed, *other)
