"""Secure aggregation: exact sums whoever drops out, and cheats that are caught."""

import itertools
import sys
import threading
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from math import comb
from pathlib import Path

import msgpack
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg import bench, graph, keys, masks, pairs, runner, shamir, unmasking
from secagg import client as client_module
from secagg.client import Client
from secagg.decoding import decode, evaluate, inverses
from secagg.messages import (
    Advertisement,
    Confirmations,
    Delivery,
    MaskedInput,
    Parcel,
    Roster,
    Shares,
    Survivors,
    Unmasking,
)
from secagg.parameters import Parameters
from secagg.quantise import Quantiser
from secagg.records import TooFewError
from secagg.server import Server
from secagg.statements import of_keys, of_sharers, of_survivors
from secagg_rounds import (
    KEYS,
    ROUND,
    CheatingServer,
    Played,
    altered,
    play,
    refused,
    setup,
    signing_keys,
    uniform,
    vectors,
)

# --- sums ------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.data())
def test_the_sum_is_that_of_the_survivors_bit_for_bit(data):
    clients = data.draw(st.integers(2, 9), label="clients")
    least = clients // 2 + 1
    threshold = data.draw(st.integers(least, clients), label="threshold")
    entries = data.draw(st.sampled_from([0, 1, 3, 1000]), label="entries")
    gone = data.draw(st.permutations(range(clients)), label="order")[: clients - threshold]
    stages = st.sampled_from(("", *runner.STAGES))
    dropping = {client: data.draw(stages, label=f"client {client} drops after") for client in gone}
    params, numbers = setup(clients, threshold, entries), vectors(clients, entries, clients)
    if data.draw(st.booleans(), label="quantised"):  # values at the clip range and beyond it
        values = data.draw(st.lists(st.sampled_from((-9.0, -2.0, 0.0, 2.0, np.inf)), min_size=1))
        quantiser = Quantiser.for_sum(2.0, clients)
        numbers = quantiser.quantise(np.resize(values, clients * entries)).values
        numbers = numbers.reshape(clients, entries)
        # No sum wraps: the integers add up as signed ones, too.
        assert abs(numbers.view(np.int64).sum(0, dtype=object)).max(initial=0) < 2**63
    result = play(params, numbers, dropping)
    silent = {client for client, stage in dropping.items() if stage in ("", "advertise", "share")}
    assert result.survivors == tuple(sorted(set(range(clients)) - silent))
    expected = numbers[list(result.survivors)].sum(0, dtype=np.uint64)
    assert np.array_equal(result.total, expected)


@pytest.fixture
def helped(monkeypatch):
    """Have another process help, however little there is to do -> what it was given."""
    monkeypatch.setattr(pairs, "WORTH", 0)
    monkeypatch.setattr(unmasking, "cores", lambda: 2)
    given, busy = [], threading.Event()
    undone, add_to = pairs._Helper.undone, pairs.Undoing.add_to

    def undo(helper, gone, known):
        given.append((helper, gone))
        busy.set()
        return undone(helper, gone, known)

    def wait_and_add_to(undoing, total):
        assert busy.wait(60)
        add_to(undoing, total)

    monkeypatch.setattr(pairs._Helper, "undone", undo)
    monkeypatch.setattr(pairs.Undoing, "add_to", wait_and_add_to)
    return given


@pytest.mark.parametrize("gone", [4, 1])
def test_other_processes_help_with_the_masks_of_those_who_are_gone(helped, gone):
    params, numbers = setup(9, 5, entries=masks.PIECE + 3), vectors(9, masks.PIECE + 3)
    result = play(params, numbers, dict.fromkeys(range(gone), "share"))
    assert np.array_equal(result.total, numbers[gone:].sum(0, dtype=np.uint64))
    assert 1 <= len(helped) <= gone


def test_a_process_that_helped_and_was_killed_is_replaced(helped):
    params, numbers = setup(5, 3), vectors(5, 5)
    play(params, numbers, {0: "share"})
    ((helper, _),) = helped
    helper._process.kill()
    helper._process.wait()
    with pytest.raises(ChildProcessError, match="helped to take masks off has ended"):
        play(params, numbers, {0: "share"})
    result = play(params, numbers, {0: "share"})
    assert np.array_equal(result.total, numbers[1:].sum(0, dtype=np.uint64))
    assert helped[-1][0] is not helper


def test_no_process_is_started_for_little(monkeypatch):
    monkeypatch.setattr(unmasking, "cores", lambda: 2)
    monkeypatch.setattr(pairs, "_helpers", lambda count: pytest.fail("one was started"))
    play(setup(5, 3), vectors(5, 5), {0: "share"})


@pytest.mark.parametrize("stages", list(itertools.product(("", *runner.STAGES), repeat=2)))
def test_every_pattern_of_two_drop_outs(stages):
    params, numbers = setup(5, 3), vectors(5, 5)
    result = play(params, numbers, dict(zip((1, 3), stages, strict=True)))
    assert np.array_equal(result.total, numbers[list(result.survivors)].sum(0, dtype=np.uint64))


@pytest.mark.parametrize("common", [False, True])
def test_neighbours_alone_give_the_same_sum(common):
    params, numbers = setup(24, entries=50, degree=10, common=common), vectors(24, 50)
    result = play(params, numbers, {0: "share", 5: "advertise", 9: "mask"})
    assert result.survivors == tuple(n for n in range(24) if n not in (0, 5))
    assert np.array_equal(result.total, numbers[list(result.survivors)].sum(0, dtype=np.uint64))


@pytest.mark.parametrize("stage", ["", "advertise", "share", "mask", "confirm"])
def test_with_too_few_left_the_round_is_abandoned(stage):
    params = setup(6, 5)
    with pytest.raises(TooFewError, match="threshold"):
        play(params, vectors(6, 5), dict.fromkeys((0, 3), stage))


def everything(found, path=()):
    """All bytes that can be reached from an object, through attributes and containers."""
    if id(found) in path:  # in a circle
        return
    path = (*path, id(found))
    match found:
        case bytes():
            yield found
        case np.ndarray():
            yield found.tobytes()
        case dict():
            for each in itertools.chain(found.keys(), found.values()):
                yield from everything(each, path)
        case list() | tuple() | set() | frozenset():
            for each in found:
                yield from everything(each, path)
        case _ if hasattr(found, "__dict__"):
            for each in vars(found).values():
                yield from everything(each, path)


@pytest.mark.parametrize("degree", [None, 10])
@pytest.mark.parametrize("gone", [(), (0, 4)])
def test_survivors_agree_on_a_secret_that_the_server_never_gets(monkeypatch, degree, gone):
    params, secrets_seen = setup(16, degree=degree, common=True), set()
    received, servers, clients = [], [], []
    for kind, made in ((Server, servers), (Client, clients)):
        init = kind.__init__
        monkeypatch.setattr(
            kind,
            "__init__",
            lambda self, *args, init=init, made=made: (made.append(self), init(self, *args))[1],
        )
    receive = Server.receive
    monkeypatch.setattr(
        Server, "receive", lambda self, n, data: (received.append(data), receive(self, n, data))[1]
    )

    def vector(client, secret):
        secrets_seen.add(secret)
        return np.zeros(5, np.uint64)

    result = runner.play(params, signing_keys(16), vector, dict.fromkeys(gone, "share"))
    assert len(result.survivors) == 16 - len(gone)
    (secret,) = secrets_seen
    assert len(secret) == 32
    # All that it received, as it came; and all that it made of it, in which we find what is there.
    made_of_it = list(everything(servers))
    for data in received:
        sent = everything(msgpack.unpackb(data, strict_map_key=False))
        assert set(sent) <= set(made_of_it)
    q = masks.positive(secret, ROUND, 5).tobytes()
    for hidden in (secret, q[:8], *(client._common_seed for client in clients)):
        assert not [data for data in (*received, *made_of_it) if hidden in data]


def test_another_round_has_another_common_secret():
    params, found = setup(4, common=True), []
    for _ in range(2):
        runner.play(
            params,
            signing_keys(4),
            lambda _, secret: (found.append(secret), np.zeros(5, np.uint64))[1],
        )
    assert len(set(found)) == 2


# --- cheats ----------------------------------------------------------------------------------


def without(survivors, *gone):
    """What a client is told of the survivors, but for some of them."""
    return Survivors(
        tuple(n for n in survivors.clients if n not in gone),
        {n: signature for n, signature in survivors.signatures.items() if n not in gone},
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


def signed_by(client, advertisement):
    signed = of_keys(setup(5).context, advertisement)
    return replace(advertisement, signature=signing_keys(5)[client].sign(signed))


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


def test_a_seed_fits_one_commitment_of_one_client_and_round():
    made = {
        keys.commitment(seed, context, client)
        for seed in (bytes(32), bytes(31) + b"\1")
        for context in (b"this round", b"another")
        for client in (1, 2)
    }
    assert len(made) == 8
    assert not made & {keys.of_self_mask(bytes(32), context) for context in (b"this round",)}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"round_number": -1}, "a round has a number from 0"),
        ({"round_number": 2**64}, "a round has a number from 0"),
        ({"entries": -1}, "entries must be"),
        ({"graph": graph.everyone(6)}, "not of the clients that are registered"),
        ({"graph": graph.everyone(4)}, "not of the clients that are registered"),
    ],
)
def test_parameters_that_do_not_fit_together(changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(setup(5), **changed)


def test_clients_have_small_numbers():
    links = graph.everyone(2)
    numbers = {0: 0, 1: 2**20}
    moved = {numbers[n]: frozenset(numbers[m] for m in links.neighbours[n]) for n in numbers}
    key = signing_keys(2)[0].public_key()
    known = replace(links, neighbours=moved, committee=frozenset(moved))
    with pytest.raises(ValueError, match="clients have numbers below"):
        Parameters(ROUND, dict.fromkeys(moved, key), known, 5)


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


@pytest.mark.parametrize(
    ("clients", "threshold", "sentence"),
    [(1, 1, "at least two"), (4, 5, "threshold of 5 of 4"), (4, 2, "two halves")],
)
def test_parameters_that_promise_nothing(clients, threshold, sentence):
    with pytest.raises(ValueError, match=sentence):
        setup(clients, threshold)


# --- what the server sees ------------------------------------------------------------------------


def test_masked_inputs_of_constant_vectors_are_uniform_bytes():
    vector, counts = np.full(64, 42, np.uint64), Counter()
    alone = {"self": Counter(), "pairwise": Counter()}
    for _ in range(60):
        played = Played(3, 2, entries=64)
        for n, delivery in played.deliveries().items():
            client = played.clients[n]
            client.receive(delivery)
            masked = client.mask(vector)
            counts.update(masked.vector)
            # Each kind of mask would do by itself.
            own = masks.expand(keys.of_self_mask(client._seed, client._context), ROUND, 64)
            pairwise = np.frombuffer(masked.vector, "<u8") - own
            alone["self"].update((vector + own).tobytes())
            alone["pairwise"].update(pairwise.tobytes())
    assert counts.total() == 60 * 3 * 64 * 8
    assert uniform(counts)
    assert all(map(uniform, alone.values()))


def test_fewer_shares_than_the_threshold_leave_every_secret_equally_likely():
    prime, threshold, points = 7, 3, (1, 2, 3, 4)
    for holders in itertools.combinations(points, threshold - 1):
        seen = Counter()
        for secret, *coefficients in itertools.product(range(prime), repeat=threshold):
            drawn = iter(coefficients)
            shares = shamir.split_number(
                secret, threshold, points, prime, lambda _, drawn=drawn: next(drawn)
            )
            seen[(*(shares[point] for point in holders), secret)] += 1
        # Whatever two holders see, each secret is behind it equally often.
        assert len(seen) == prime**threshold
        assert set(seen.values()) == {1}


@given(
    secret=st.binary(min_size=32, max_size=32),
    threshold=st.integers(1, 6),
    chosen=st.permutations(range(1, 7)),
)
def test_any_shares_of_the_threshold_give_the_secret(secret, threshold, chosen):
    shares = shamir.split(secret, threshold, range(1, 7))
    assert {len(share) for share in shares.values()} == {shamir.SHARE_BYTES}
    some = {point: shares[point] for point in chosen[:threshold]}
    assert shamir.combine(some, threshold, secret.__eq__) == (secret, frozenset())
    if threshold > 1:
        some.popitem()
        with pytest.raises(shamir.ShareError, match="takes"):
            shamir.combine(some, threshold, secret.__eq__)


@given(st.data())
def test_a_secret_is_decoded_around_wrong_shares_as_long_as_there_are_enough(data):
    points = data.draw(st.lists(st.integers(1, 40), min_size=2, max_size=14, unique=True))
    threshold = data.draw(st.integers(1, len(points) - 1))
    spare = len(points) - threshold
    most = max(spare // 2, spare == 1)
    liars = data.draw(st.permutations(points))[: data.draw(st.integers(0, most))]
    shares = shamir.split(bytes(range(32)), threshold, points)
    for liar in liars:
        shares[liar] = data.draw(st.integers(0, 2**256)).to_bytes(33)
    found = shamir.combine(shares, threshold, bytes(range(32)).__eq__)
    assert found.secret == bytes(range(32))
    assert found.wrong <= set(liars)


@settings(max_examples=300)
@given(st.data())
def test_decoding_finds_what_a_search_finds(data):
    """In a small field: the one polynomial of low degree that goes through enough of the shares."""
    prime, threshold = 11, data.draw(st.integers(1, 3))
    points = data.draw(st.lists(st.integers(0, 10), min_size=threshold, max_size=7, unique=True))
    shares = {point: data.draw(st.integers(0, 10)) for point in points}
    most = (len(points) - threshold) // 2
    near = [
        candidate
        for candidate in itertools.product(range(prime), repeat=threshold)
        if sum(evaluate(candidate, p, prime) != v for p, v in shares.items()) <= most
    ]
    found = decode(shares, threshold, prime)
    padded = [tuple(found + [0] * (threshold - len(found)))] if found is not None else []
    assert padded == near


@given(st.lists(st.integers(1, 10), max_size=8))
def test_inverses_are_those_of_each(numbers):
    assert inverses(numbers, 11) == [pow(number, -1, 11) for number in numbers]


def test_shares_are_drawn_by_the_system():
    """Those of one secret are uniform, too."""
    drawn = [shamir.split(bytes(32), 2, (1, 2))[1] for _ in range(2000)]
    assert len(set(drawn)) == len(drawn)
    assert uniform(Counter(byte for share in drawn for byte in share[1:]))


def test_shares_that_are_none_are_refused():
    shares = shamir.split(bytes(32), 2, (1, 2))
    for wrong in (b"\xff" * 33, b""):
        with pytest.raises(shamir.ShareError, match="no number"):
            shamir.combine(shares | {1: wrong}, 2, bytes(32).__eq__)
    for threshold, points in (
        (3, (1, 2)),
        (0, (1, 2)),
        (2, (0, 1)),
        (2, (1, 1)),
        (1, (2**20 + 1,)),
    ):
        with pytest.raises(ValueError, match=r"threshold|points"):
            shamir.split(bytes(32), threshold, points)


def test_secrets_are_shared_among_clients_with_the_largest_numbers():
    """Products of their points are as large as can be."""
    points = [*range(1, 40), *range(shamir.MOST_POINT - 39, shamir.MOST_POINT + 1)]
    shares = shamir.split(bytes(range(32)), len(points), points)
    assert shamir.combine(shares, len(points), bytes(range(32)).__eq__).secret == bytes(range(32))


def test_the_field_is_a_field():
    for witness in (2, 3, 5, 7, 11, 13, 17):
        assert pow(witness, shamir.PRIME - 1, shamir.PRIME) == 1
    assert shamir.PRIME > 2**256


# --- numbers ---------------------------------------------------------------------------------


@given(
    clip=st.floats(1e-6, 1e6),
    numbers=st.lists(st.floats(-2e6, 2e6), min_size=1, max_size=30),
    clients=st.integers(1, 2000),
)
def test_sums_of_quantised_numbers_are_within_the_bound_and_never_wrap(clip, numbers, clients):
    quantiser = Quantiser.for_sum(clip, clients)
    sent = [quantiser.quantise(np.array([number])) for number in numbers[:clients]]
    total = np.sum([each.values for each in sent], axis=0, dtype=np.uint64)
    exact = np.clip(numbers[:clients], -clip, clip).sum()
    assert abs(quantiser.restore(total)[0] - exact) <= quantiser.error(clients) * 1.01
    assert [each.clipped for each in sent] == [int(abs(n) > clip) for n in numbers[:clients]]
    # The largest sum that there can be.
    unit = int(quantiser.quantise(np.array([clip])).values[0])
    assert clients * unit < 2**63


def test_rounding_is_to_the_nearest_even():
    quantiser = Quantiser(clip=8.0, bits=0)
    values = quantiser.quantise(np.array([0.5, 1.5, 2.5, -0.5, -1.5, 2.6])).values
    assert values.view(np.int64).tolist() == [0, 2, 2, 0, -2, 3]


def test_what_is_no_number_is_not_sent():
    with pytest.raises(ValueError, match="diverged"):
        Quantiser.for_sum(1.0, 3).quantise(np.array([0.0, np.nan]))
    assert Quantiser.for_sum(1.0, 3).quantise(np.array([np.inf])).clipped == 1
    for clip, clients in ((0, 1), (np.inf, 1), (1, 0)):
        with pytest.raises(ValueError, match=r"clip|clients"):
            Quantiser.for_sum(clip, clients)


KEY = bytes(range(masks.KEY_BYTES))


def test_masks_are_those_of_their_key_and_round_alone():
    first = masks.expand(KEY, 0, 1000)
    assert np.array_equal(first[:10], masks.expand(KEY, 0, 10))
    assert not np.isin(masks.expand(KEY, 1, 1000), first).any()
    assert not np.isin(masks.expand(KEY[:-1] + b"\1", 0, 1000), first).any()
    with pytest.raises(ValueError, match="32 bytes"):
        masks.expand(bytes(16), 0, 1)


def xts_of_zeros(key, tweak, entries):
    """AES in XTS mode by its definition (IEEE 1619), block by block."""
    encrypt, of_tweak = (
        Cipher(AES(half), modes.ECB()).encryptor().update for half in (key[:16], key[16:])
    )
    place, places = int.from_bytes(of_tweak(tweak), "little"), []
    for _ in range(0, entries, 2):
        places.append(place.to_bytes(16, "little"))
        place = place << 1 & 2**128 - 1 ^ 0x87 * (place >> 127)
    joined = b"".join(places)
    blocks = np.frombuffer(encrypt(joined), "<u8") ^ np.frombuffer(joined, "<u8")
    return blocks[:entries]


PIECE = masks.PIECE


@pytest.mark.parametrize("entries", [0, 1, 2, 5, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 3])
def test_masks_are_pieces_of_xts_that_are_added_or_subtracted(entries):
    pieces = [
        xts_of_zeros(KEY, (3).to_bytes(8) + piece.to_bytes(8), min(PIECE, entries - start))
        for piece, start in enumerate(range(0, entries, PIECE))
    ]
    expected = np.concatenate([*pieces, np.zeros(0, "<u8")])
    assert np.array_equal(masks.expand(KEY, 3, entries), expected)
    for subtract, sign in ((False, 1), (True, 2**64 - 1)):
        total = np.full(entries, 5, np.uint64)
        masks.add(total, KEY, 3, subtract)
        assert np.array_equal(total, np.uint64(5) + np.uint64(sign) * expected)


def test_common_masks_are_positive_and_spread_over_their_span():
    q = masks.positive(KEY, 3, 100_000)
    assert 2.0**-masks.SPAN <= q.min() < q.max() <= 2.0**masks.SPAN
    assert np.log2(q).std() == pytest.approx(2 * masks.SPAN / 12**0.5, rel=0.01)


# --- neighbours ------------------------------------------------------------------------------


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


def test_the_benchmark_checks_its_sums_and_counts_all():
    found = bench.measure(bench.Case(8, 50, dropping=0.25))
    assert (found["degree"], found["threshold"]) == (7, 6)
    assert 8 * 50 * 0.75 < 1000 * found["sent_kb"] < 8 * 50 + 4000
    assert found["client_stages_ms"].keys() == set(runner.STAGES)
    assert found["server_stages_ms"].keys() == {*runner.STAGES, "sum"}


def test_the_benchmark_plays_sealed_rounds_and_times_the_pieces():
    found = bench.measure(bench.Case(5, 50, sealed=True))
    assert {"open", "answer"} <= found["server_stages_ms"].keys()
    assert min(bench.pieces(entries=10, threshold=3).values()) > 0


# --- records ---------------------------------------------------------------------------------


def test_maps_that_would_take_quadratic_time_are_refused_before_they_are_made():
    """Large numbers can be chosen so that all meet in the same places of a dictionary."""
    pairs = 12_000
    flood = b"\x91" + b"\xdf" + pairs.to_bytes(4)
    flood += b"".join(b"\xcf" + (n << 47).to_bytes(8) + b"\xc4\0" for n in range(pairs))
    with refused("malformed Confirmations: a key of a map is no number below"):
        Confirmations.from_bytes(flood)
    for key in (-1, 2**20, 1.0, True, None, b"1", (1,)):
        data = b"\x91\x81" + msgpack.packb(key) + msgpack.packb(bytes(64))
        with refused("malformed Confirmations: a key of a map is no number below"):
            Confirmations.from_bytes(data)
    twice = b"\x91\x82" + 2 * (b"\x01" + msgpack.packb(bytes(64)))
    with refused("malformed Confirmations: a map has a key twice"):
        Confirmations.from_bytes(twice)


FIELDS = {
    Advertisement: [1, ROUND, bytes(32), bytes(32), bytes(32), bytes(64)],
    Shares: [1, ROUND, {2: bytes(100)}],
    Parcel: [bytes(33), bytes(33), bytes(32)],
    MaskedInput: [1, ROUND, bytes(80), b"", bytes(64)],
    Unmasking: [1, ROUND, {2: bytes(33)}, {3: bytes(33)}],
}


@pytest.mark.parametrize(
    ("kind", "place", "wrong"),
    [
        *((kind, 0, number) for kind in (Shares, MaskedInput) for number in (-1, 2**20)),
        *((Shares, 1, number) for number in (-1, None)),
        *((Advertisement, place, bytes(31)) for place in (2, 3, 4, 5)),
        *((Advertisement, place, bytes(65)) for place in (2, 3, 4, 5)),
        (Shares, 2, {2: bytes(135)}),
        *((Parcel, place, bytes(34)) for place in range(3)),
        (MaskedInput, 3, bytes(34)),
        (MaskedInput, 4, bytes(63)),
        *((Unmasking, place, {2: bytes(size)}) for place in (2, 3) for size in (32, 34)),
    ],
)
def test_every_field_has_a_range_or_a_length(kind, place, wrong):
    content = FIELDS[kind]
    assert kind.from_bytes(msgpack.packb(content)) == kind(*content)
    with refused(f"malformed {kind.__name__}: .* is no"):
        kind.from_bytes(msgpack.packb([*content[:place], wrong, *content[place + 1 :]]))


def test_messages_longer_than_any_that_is_due_are_not_read():
    played = Played()
    long = replace(played.advertised[0], signature=bytes(played.params.longest))
    with refused("client 0 sends more than is due"):
        played.server.receive(0, long.to_bytes())


def test_records_survive_the_way_and_nothing_else_does():
    parcel = Parcel(b"seed", b"key", b"")
    assert Parcel.from_bytes(parcel.to_bytes()) == parcel
    for data in (b"", b"\xc1", parcel.to_bytes()[:-1], parcel.to_bytes() + b"\0", b"\x93\1\2\3"):
        with refused("malformed Parcel"):
            Parcel.from_bytes(data)
    with refused("malformed Confirmations"):
        Confirmations.from_bytes(parcel.to_bytes())
    for kind, content in (
        (Confirmations, [{1: 2}]),
        (Confirmations, [{b"1": b"2"}]),
        (Survivors, [[0, b"1"], {}]),
        (Survivors, [[0, True], {}]),
        (Parcel, [b"seed", "key", b""]),
    ):
        with refused(f"malformed {kind.__name__}: .* is no"):
            kind.from_bytes(msgpack.packb(content))


def test_statements_are_of_one_kind_round_client_and_content():
    """Else a signature could be passed off as another."""
    advertisement = Advertisement(1, ROUND, b"e", b"m", b"c", b"")
    contexts = b"a", b"b"
    signed = [
        *(
            of_keys(context, replace(advertisement, client=n))
            for context in contexts
            for n in (1, 2)
        ),
        *(of_keys(b"a", replace(advertisement, **{name: b"x"})) for name in (*KEYS, "commitment")),
        *(
            of_sharers(context, client, sharers, agreed)
            for context in contexts
            for client in (1, 2)
            for sharers in ((1, 2), (1, 2, 3))
            for agreed in (b"", b"q")
        ),
        *(
            of_survivors(context, client, sharers, agreed, survivors)
            for context in contexts
            for client in (1, 2)
            for sharers in ((1, 2, 3), (1, 2, 3, 4))
            for agreed in (b"", b"q")
            for survivors in ((1, 2), (1, 2, 3))
        ),
    ]
    assert len(set(signed)) == len(signed)


def test_the_context_is_all_that_is_known_beforehand():
    known = setup(8, degree=4)
    others = [
        replace(known, round_number=ROUND + 1),
        replace(known, entries=6),
        replace(known, common=True),
        replace(known, broadcast=b"a model"),
        replace(known, registered=dict(known.registered) | {0: known.registered[1]}),
        replace(known, graph=replace(known.graph, threshold=5)),
        replace(known, graph=replace(known.graph, committee=frozenset(range(5)))),
        replace(known, graph=graph.harary(8, graph.Degree(4, 4), 1)),
    ]
    assert len({each.context for each in (known, *others)}) == 1 + len(others)
    assert setup(8, degree=4).context == known.context
