"""Keys and models: what a client refuses of the roster, and how fresh its own secrets are."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg import client as client_module
from secagg import keys, masks
from secagg.client import Client
from secagg.messages import Advertisement, Roster
from secagg.records import TooFewError
from secagg.statements import of_keys
from secagg_rounds import (
    KEYS,
    ROUND,
    CheatingServer,
    Played,
    altered,
    refused,
    setup,
    signed_by,
    signing_keys,
)


def test_wrong_signatures_under_keys():
    played = Played()
    (roster, *_) = played.rosters().values()
    forged = replace(played.advertised[2], signature=altered(played.advertised[2].signature))
    with refused("wrong signature of client 2"):
        played.clients[0].share(replaced(roster, forged))


def replaced(roster, *advertisements):
    """A roster with other advertisements in place of their clients'."""
    by_client = {a.client: a.to_bytes() for a in advertisements}
    kept = [Advertisement.from_bytes(data) for data in roster.advertisements]
    return Roster(tuple(by_client.get(a.client, a.to_bytes()) for a in kept))


def test_keys_in_place_of_a_clients_own():
    played = Played()
    roster = played.rosters()[0]
    other = signed_by(0, replace(played.advertised[0], masking_key=bytes(range(32))))
    with refused("its own keys are missing or replaced"):
        played.clients[0].share(replaced(roster, other))


def test_keys_of_another_round():
    played = Played()
    roster = played.rosters()[0]
    old = signed_by(3, replace(played.advertised[3], round_number=ROUND - 1))
    with refused("keys of client 3 are of another round"):
        played.clients[0].share(replaced(roster, old))


def test_keys_that_are_used_twice():
    played = Played()
    roster = played.rosters()[0]
    same = signed_by(3, replace(played.advertised[3], masking_key=played.advertised[2].masking_key))
    with refused("advertised more than once"):
        played.clients[0].share(replaced(roster, same))


def test_a_client_that_is_advertised_twice():
    played = Played()
    roster = played.rosters()[0]
    with refused("client 1 is advertised twice"):
        played.clients[0].share(Roster((*roster.advertisements, roster.advertisements[1])))


def test_keys_of_nobody_registered():
    played = Played()
    roster = played.rosters()[0]
    stranger = Ed25519PrivateKey.generate()
    keys_of = replace(played.advertised[3], client=9, masking_key=bytes(range(32)))
    keys_of = replace(keys_of, encryption_key=bytes(range(1, 33)))
    keys_of = replace(keys_of, signature=stranger.sign(of_keys(played.params.context, keys_of)))
    with refused("client 9 is not registered"):
        played.clients[0].share(Roster((*roster.advertisements, keys_of.to_bytes())))


def test_a_public_key_that_makes_the_secret_known():
    played = Played()
    roster = played.rosters()[0]
    zero = signed_by(3, replace(played.advertised[3], encryption_key=bytes(32)))
    with refused("no secret can be shared"):
        played.clients[0].share(replaced(roster, zero))


def test_too_few_keys():
    played = Played(threshold=4)
    roster = played.rosters()[0]
    with pytest.raises(TooFewError, match="3 clients are fewer than the threshold of 4"):
        played.clients[0].share(Roster(roster.advertisements[:3]))


def test_keys_are_for_a_pair_a_purpose_and_a_round():
    first, second, third = (X25519PrivateKey.generate() for _ in range(3))
    public = [key.public_key().public_bytes_raw() for key in (first, second, third)]
    found = keys.agree(first, public[1], "mask", b"round")
    assert found == keys.agree(second, public[0], "mask", b"round")
    others = [
        keys.agree(first, public[1], "parcel", b"round"),
        keys.agree(first, public[1], "mask", b"another round"),
        keys.agree(first, public[2], "mask", b"round"),
    ]
    assert len({found, *others}) == 4
    assert {len(key) for key in (found, *others)} == {masks.KEY_BYTES}


def test_a_clients_secrets_are_fresh():
    clients = [Client(0, signing_keys(5)[0], setup(5)) for _ in range(2)]
    first, second = (client.advertise() for client in clients)
    drawn = [getattr(each, name) for each in (first, second) for name in KEYS]
    drawn += [secret for each in clients for secret in (each._seed, each._common_seed)]
    assert len(set(drawn)) == len(drawn) == 8


@pytest.mark.parametrize("name", ["_seed", "_common_seed"])
def test_all_of_a_seed_is_random(name):
    """Whoever knows how a seed with fewer random bytes is filled up can try them all."""
    seeds = [getattr(Client(0, signing_keys(5)[0], setup(5)), name) for _ in range(30)]
    parts = {seed[start : start + 4] for seed in seeds for start in range(0, masks.KEY_BYTES, 4)}
    # Two of 240 are equal by chance once in 150,000 times, ten of them never.
    assert len(parts) > 30 * masks.KEY_BYTES / 4 - 10


@pytest.mark.parametrize("degree", [None, 8])
@pytest.mark.parametrize("deceived", [1, 3])
def test_a_server_that_sends_clients_different_models(deceived, degree):
    """All but one a model on which they compute zeros, say (Pasquini et al. 2022)."""
    played = Played(16, degree=degree)
    played.server = CheatingServer(played.params)
    for n in range(deceived):
        other = replace(played.params, broadcast=b"another model")
        played.clients[n] = Client(n, signing_keys(16)[n], other)
        played.advertised[n] = played.clients[n].advertise()
    rosters = played.rosters()
    links = played.params.graph
    for n in range(deceived):
        with refused("or sent another model"):
            played.clients[n].share(rosters[n])
    for n in set().union(*(links.neighbours[n] for n in range(deceived))) - set(range(deceived)):
        with refused("wrong signature of client [012] under its keys.* sent another model"):
            played.clients[n].share(rosters[n])
    # Nor does it help to tell each side of those alone who have the same model: they are too few.
    fewer = Played(16)
    fewer.server = CheatingServer(fewer.params)
    other = replace(fewer.params, broadcast=b"another model")
    halves = [Client(n, signing_keys(16)[n], other) for n in range(8)]
    offered = tuple(client.advertise().to_bytes() for client in halves)
    with pytest.raises(TooFewError, match="advertised keys of 8 clients"):
        halves[0].share(Roster(offered))


def test_an_honest_server_leaves_out_who_has_another_model():
    played = Played()
    other = replace(played.params, broadcast=b"another model")
    late = Client(2, signing_keys(5)[2], other).advertise()
    with refused("wrong signature of client 2 under its keys"):
        played.server.receive(2, late.to_bytes())


def test_every_byte_that_a_client_draws_matters(monkeypatch):
    """Of fewer bytes than a key has, stretched however well, there would be too few to try."""

    def drawn(changed):
        """What a client does with the system's random bytes, of which one may be changed."""
        monkeypatch.setattr(client_module.secrets, "token_bytes", draw := Drawing(changed))
        client = Client(0, signing_keys(3)[0], setup(3))
        monkeypatch.undo()
        return draw.count, (client._seed, client._common_seed)

    count, seeds = drawn(None)
    assert count == 2 * masks.KEY_BYTES, "each seed is as long as a key, of bytes of its own"
    others = [drawn(place)[1] for place in range(count)]
    assert [sum(map(bytes.__ne__, seeds, other)) for other in others] == [1] * count
    assert {len(seed) for seed in seeds} == {masks.KEY_BYTES}


class Drawing:
    """The system's random bytes, but known, and one of them another if asked for."""

    def __init__(self, changed):
        self.changed, self.count = changed, 0

    def __call__(self, size):
        places = range(self.count, self.count + size)
        self.count += size
        return bytes((place * 37 + (place == self.changed)) % 256 for place in places)


def test_a_seed_fits_one_commitment_of_one_client_and_round():
    made = {
        keys.commitment(seed, context, client)
        for seed in (bytes(32), bytes(31) + b"\1")
        for context in (b"this round", b"another")
        for client in (1, 2)
    }
    assert len(made) == 8
    assert not made & {keys.of_self_mask(bytes(32), context) for context in (b"this round",)}
