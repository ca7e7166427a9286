"""Survivors: a client signs one set of them, once, and gives nothing away about others."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg.client import Client
from secagg.messages import Confirmations, Delivery, Survivors
from secagg.records import TooFewError
from secagg_rounds import Played, refused, setup, signing_keys, without


def test_two_survivor_sets_shown_to_different_clients():
    played = Played()
    survivors = played.survivors()
    signatures = {
        n: client.confirm(without(survivors[n], *[4] * (n in (1, 2)))).signature
        for n, client in enumerate(played.clients)
    }
    others = {n: signature for n, signature in signatures.items() if n != 0}
    with refused("wrong signature of client 1 under the survivors"):
        played.clients[0].unmask(Confirmations(others))
    # Those alone who were shown the same are too few.
    with refused("asked to unmask where failed is due"):
        played.clients[0].unmask(Confirmations({3: signatures[3], 4: signatures[4]}))
    with pytest.raises(TooFewError, match="matching signatures of 3 clients"):
        played.clients[3].unmask(Confirmations({0: signatures[0], 4: signatures[4]}))


def test_other_survivors_shown_to_those_who_are_not_on_the_committee():
    """With few neighbours: a part of the circle is told that another is gone."""
    played = Played(40, degree=8)
    survivors = played.survivors()
    committee = played.params.graph.committee
    deceived = next(n for n in range(40) if n not in committee)
    gone = next(n for n in range(40) if n not in played.params.graph.circle(deceived) | committee)
    signatures = {
        n: client.confirm(without(survivors[n], *[gone] * (n == deceived))).signature
        for n, client in enumerate(played.clients)
    }
    vouching = {n: signatures[n] for n in sorted(committee)}
    with refused(f"wrong signature of client {min(committee)} under the survivors"):
        played.clients[deceived].unmask(Confirmations(vouching))
    # Its neighbours' signatures, deceived like it, are no substitute.
    neighbour = min(played.params.graph.neighbours[deceived] - committee)
    with refused("not to give any"):
        played.clients[neighbour].unmask(Confirmations({deceived: signatures[deceived]}))
    # Nor does it vouch for itself.
    outsider, other = sorted(set(range(40)) - committee - {deceived, neighbour})[:2]
    fewer = {n: vouching[n] for n in sorted(committee)[: played.params.graph.threshold - 1]}
    with pytest.raises(TooFewError, match="matching signatures"):
        played.clients[outsider].unmask(Confirmations(fewer))
    assert played.clients[other].unmask(Confirmations(vouching)).key_shares == {}


def test_a_survivor_that_was_told_other_sharers():
    """It would lack masks that hide it: nobody gives a share of its seed away."""
    played = Played(threshold=3)
    deliveries = played.deliveries()
    masked = []
    for n, client in enumerate(played.clients[:4]):
        delivery = deliveries[n]
        if n == 0:  # is told that client 4 never shared
            kept = {m: c for m, c in delivery.ciphertexts.items() if m != 4}
            delivery = replace(delivery, ciphertexts=kept, sharers=(0, 1, 2, 3))
        client.receive(delivery)
        masked.append(client.mask(played.numbers[n]))
    signatures = {n: masked[n].signature for n in range(4)}

    def told(client, **changed):
        others = {n: signature for n, signature in signatures.items() if n != client}
        return Survivors((0, 1, 2, 3), others | changed)

    with refused("wrong signature of client 0 under the sharers"):
        played.clients[1].confirm(told(1))
    with refused("not one signature of each survivor"):
        played.clients[2].confirm(replace(told(2), signatures={}))
    # The server, where it is honest, notices first.
    for n in range(1, 4):
        played.server.receive(n, masked[n].to_bytes())
    with refused("wrong signature of client 0 under the sharers"):
        played.server.receive(0, masked[0].to_bytes())


def test_both_kinds_of_share_of_one_client():
    """A server that asks again, with other survivors, to get what it was not given."""
    played = Played()
    survivors = played.survivors()
    signed = {n: c.confirm(survivors[n]).signature for n, c in enumerate(played.clients)}
    with refused("asked to confirm where unmask is due"):
        played.clients[1].confirm(without(survivors[1], 4))
    others = {n: {m: s for m, s in signed.items() if m != n} for n in range(2)}
    with refused("asked to unmask where failed is due"):
        played.clients[1].unmask(Confirmations(others[1]))
    given = played.clients[0].unmask(Confirmations(others[0]))
    assert given.seed_shares.keys() == set(range(5))
    assert given.key_shares == {}
    with refused("asked to unmask where done is due"):
        played.clients[0].unmask(Confirmations(others[0]))


@pytest.mark.parametrize("call", ["share", "receive", "confirm", "unmask"])
def test_a_client_that_is_called_out_of_turn_is_finished(call):
    client = Client(0, signing_keys(5)[0], setup(5))
    with refused(f"asked to {call} where advertise is due"):
        getattr(client, call)(None)
    with refused("asked to advertise where failed is due"):
        client.advertise()


@pytest.mark.parametrize(
    ("clients", "sentence"),
    [((1, 2, 3, 4), "lack this client"), ((0, 1, 2, 2, 4), "ascending"), ((0, 1, 2, 9), "unknown")],
)
def test_survivors_that_cannot_be(clients, sentence):
    played = Played()
    told = played.survivors()[0]
    with refused(sentence):
        played.clients[0].confirm(replace(told, clients=clients))


def test_survivors_that_never_shared():
    played = Played(threshold=3)
    deliveries = played.deliveries()
    kept = {n: c for n, c in deliveries[0].ciphertexts.items() if n != 4}
    played.clients[0].receive(Delivery(kept, (0, 1, 2, 3)))
    played.clients[0].mask(played.numbers[0])
    with refused("survivors are named that never shared"):
        played.clients[0].confirm(Survivors((0, 1, 2, 4), {}))


def test_too_few_survivors():
    played = Played(threshold=4)
    told = played.survivors()[0]
    with pytest.raises(TooFewError, match="masked inputs of 3 clients"):
        played.clients[0].confirm(without(told, 3, 4))
