"""What the server refuses of clients, so that one that cheats does not end the round for all."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg.client import Client
from secagg_rounds import KEYS, Played, refused, signed_by, signing_keys, without


def test_clients_that_answer_twice_or_for_others_or_out_of_turn():
    played = Played()
    first, second, *_ = played.advertised
    played.server.receive(0, first.to_bytes())
    with refused("client 0 answers twice"):
        played.server.receive(0, first.to_bytes())
    with refused("client 0 speaks for client 1"):
        played.server.receive(0, second.to_bytes())
    with refused("malformed Advertisement"):
        played.server.receive(1, second.to_bytes()[:-1])
    with refused("client 2 speaks of another round"):
        played.server.receive(2, replace(played.advertised[2], round_number=0).to_bytes())


def test_what_others_would_refuse_is_refused_by_the_server():
    """So that one that cheats does not end the round for all."""
    played = Played()
    first, second, third, *_ = played.advertised
    played.server.receive(0, first.to_bytes())
    with refused("wrong signature of client 1 under its keys"):
        played.server.receive(1, replace(second, signature=bytes(64)).to_bytes())
    for stolen in (first.masking_key, third.encryption_key):
        same = signed_by(2, replace(third, masking_key=stolen))
        with refused("client 2 advertises a key that is there already"):
            played.server.receive(2, same.to_bytes())
    for n in range(1, 5):
        played.server.receive(n, played.advertised[n].to_bytes())
    rosters = played.server.rosters()
    shares = [client.share(rosters[n]) for n, client in enumerate(played.clients)]
    fewer = {n: c for n, c in shares[0].ciphertexts.items() if n != 3}
    with refused("client 0 does not share with all"):
        played.server.receive(0, replace(shares[0], ciphertexts=fewer).to_bytes())
    for n, record in enumerate(shares):
        played.server.receive(n, record.to_bytes())
    deliveries = played.server.deliveries()
    for n, client in enumerate(played.clients):
        client.receive(deliveries[n])
        masked = client.mask(played.numbers[n])
        with refused("vector of another length"):
            played.server.receive(n, replace(masked, vector=masked.vector[:-8]).to_bytes())
        played.server.receive(n, masked.to_bytes())
    survivors = played.server.survivors()
    confirmation = played.clients[0].confirm(without(survivors[0], 4))
    with refused("wrong signature of client 0 under the survivors"):
        played.server.receive(0, confirmation.to_bytes())


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (bytes(32), "client 2 advertises a public key with which no secret"),
        (b"", "malformed Advertisement"),
        (bytes(range(31)), "malformed Advertisement"),
    ],
    ids=["zero", "none", "short"],
)
@pytest.mark.parametrize("name", KEYS)
def test_unusable_keys_are_refused_by_the_server(name, key, sentence):
    played = Played()
    unusable = signed_by(2, replace(played.advertised[2], **{name: key}))
    with refused(sentence):
        played.server.receive(2, unusable.to_bytes())


def test_shares_that_were_not_asked_for_are_refused_by_the_server():
    played = Played()
    confirmations = played.confirmations()
    given = [client.unmask(confirmations[n]) for n, client in enumerate(played.clients)]
    share = given[0].seed_shares[1]
    for wrong, sentence in (
        ({"seed_shares": {}}, "does not give the shares"),
        ({"key_shares": {1: share}}, "does not give the shares"),
        ({"seed_shares": given[0].seed_shares | {1: share[:-1]}}, "malformed Unmasking"),
        ({"seed_shares": given[0].seed_shares | {1: b"\xff" * 33}}, "gives a share that is none"),
    ):
        with refused(sentence):
            played.server.receive(0, replace(given[0], **wrong).to_bytes())
    for n, record in enumerate(given):
        played.server.receive(n, record.to_bytes())
    assert np.array_equal(played.server.total(), played.numbers.sum(0, dtype=np.uint64))
    with refused("client 0 answers when all is over"):
        played.server.receive(0, given[0].to_bytes())


def test_the_servers_stages_end_in_order():
    played = Played()
    for n, advertisement in enumerate(played.advertised):
        played.server.receive(n, advertisement.to_bytes())
    for end in (played.server.survivors, played.server.total):
        with pytest.raises(RuntimeError, match="not the present one"):
            end()


def test_clients_that_were_gone_do_not_come_back():
    played = Played(threshold=4)
    for n, advertisement in enumerate(played.advertised[:4]):
        played.server.receive(n, advertisement.to_bytes())
    rosters = played.server.rosters()
    late = Client(4, signing_keys(5)[4], played.params)
    late.advertise()
    shares = played.clients[0].share(rosters[0])
    with refused("client 4 has no part"):
        played.server.receive(4, replace(shares, client=4).to_bytes())
