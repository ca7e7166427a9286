"""Sealed sums: the committee opens them, and the server learns what it is told, nothing more."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg import keys, masks, runner, seal
from secagg.messages import Answer, Opening, SealedSum
from secagg.records import TooFewError
from secagg.seal import Seal
from secagg_rounds import ROUND, Played, altered, play, refused, setup, signing_keys, uniform

ENTRIES = 6


def sealing(clients=5, number=ROUND):
    pad, tag = bytes(range(masks.KEY_BYTES)), bytes(range(1, 1 + masks.KEY_BYTES))
    return Seal(pad, tag, number, clients)


def numbers_of(clients, entries, seed=0):
    """Signed integers whose sums over all clients are as large as may be."""
    most = 2 ** (62 - seal.shift(clients)) // clients
    rng = np.random.default_rng(seed)
    return rng.integers(-most, most, (clients, entries), endpoint=True).view(np.uint64)


def as_bytes(total, survivors):
    return bytes([survivors]) + total.tobytes()


def play_sealed(params, data, dropping=None):
    keys_of = signing_keys(params.clients)
    return runner.play(params, keys_of, lambda n, _: data[n], dropping, as_bytes)


def total_of(data, survivors):
    return as_bytes(data[list(survivors)].sum(0, dtype=np.uint64), len(survivors))


@settings(max_examples=50)
@given(st.data())
def test_an_opened_sum_is_that_of_the_vectors_bit_for_bit(data):
    clients = data.draw(st.integers(2, 40), label="clients")
    entries = data.draw(st.sampled_from([0, 1, 7, 20_000]), label="entries")
    survivors = data.draw(st.integers(1, clients), label="survivors")
    sealed, vectors = sealing(clients), numbers_of(clients, entries, clients)[:survivors]
    if data.draw(st.booleans(), label="extreme"):
        vectors[:] = np.int64(2 ** (62 - seal.shift(clients)) // clients)
        vectors *= np.uint64(data.draw(st.sampled_from([1, 2**64 - 1])))
    total = sum(map(sealed.close, vectors))
    assert np.array_equal(sealed.open(total, survivors), vectors.sum(0, dtype=np.uint64))


def test_tags_are_the_sums_that_they_should_be():
    """By whole numbers, one after the other."""
    sealed, numbers = sealing(), np.array([0, 1, -1, 2**58, -(2**58), 12345], np.int64)
    numbers = np.append(numbers, np.random.default_rng(0).integers(-(2**58), 2**58, 20_000))
    factors = (masks.expand(sealed.tag_key, ROUND, len(numbers)) >> np.uint64(3)).tolist()
    expected = sum(map(int.__mul__, numbers.tolist(), factors)) % seal.PRIME
    assert sealed._tag(numbers) == expected


@settings(max_examples=100)
@given(st.data())
def test_a_sum_that_was_changed_is_not_opened(data):
    clients = data.draw(st.integers(2, 9), label="clients")
    sealed = sealing(clients)
    total = sum(map(sealed.close, numbers_of(clients, ENTRIES)))
    powers = st.builds(pow, st.just(2), st.integers(0, 63))
    # In units of a vector's entries: the prime itself would leave the tag as it is.
    chosen = st.sampled_from([seal.PRIME * 2 ** seal.shift(clients) % 2**64, 2**64 - 1])
    change = powers | chosen | st.integers(1, 2**64 - 1)
    changes = np.zeros(len(total), np.uint64)
    for places in (range(ENTRIES), range(ENTRIES, len(total))):  # the vector, and then its tag
        several = st.dictionaries(st.sampled_from(places), change, min_size=places[0] == 0)
        for place, drawn in data.draw(several).items():
            changes[place] = drawn
    total += changes
    with refused("the sum is not that of the survivors' vectors"):
        sealed.open(total, clients)


def test_a_sum_of_others_or_of_another_round_is_not_opened():
    sealed, vectors = sealing(), numbers_of(5, ENTRIES)
    total = sum(map(sealed.close, vectors))
    for survivors in (0, 4, 6):
        with refused("not that of the survivors"):
            sealed.open(total, survivors)
    with refused("not that of the survivors"):
        sealing(number=ROUND + 1).open(total, 5)
    with refused("not that of the survivors"):
        sealed.open(2 * total, 5)


# --- rounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [{}, {0: "share", 4: ""}, {1: "mask", 2: "confirm"}])
@pytest.mark.parametrize("degree", [None, 10])
def test_the_server_gets_what_the_committee_makes_of_the_sum(degree, gone):
    params = setup(16, degree=degree, entries=ENTRIES, common=True, sealed=True)
    data = numbers_of(16, ENTRIES)
    result = play_sealed(params, data, gone)
    assert result.answer == total_of(data, result.survivors)
    assert not np.array_equal(result.total[:ENTRIES], data[list(result.survivors)].sum(0))


@pytest.mark.parametrize("stage", ["unmask", "open", "answer"])
def test_members_that_vanish_while_they_open_are_not_missed(stage):
    params = setup(7, entries=ENTRIES, common=True, sealed=True)
    data = numbers_of(7, ENTRIES)
    result = play_sealed(params, data, {0: stage, 1: stage})
    assert result.answer == total_of(data, range(7))


@pytest.mark.parametrize(("stage", "sentence"), [("unmask", "0 clients"), ("open", "nobody")])
def test_without_a_member_to_answer_the_round_is_abandoned(stage, sentence):
    params = setup(5, entries=ENTRIES, common=True, sealed=True)
    with pytest.raises(TooFewError, match=sentence):
        play_sealed(params, numbers_of(5, ENTRIES), dict.fromkeys(range(5), stage))


def test_one_member_alone_sends_the_answer_and_all_get_the_sum():
    params = setup(6, entries=1000, common=True, sealed=True)
    result = play_sealed(params, numbers_of(6, 1000))
    sent = sorted(result.sent.values())
    assert sent[-1] - sent[-2] > 8 * 1000
    assert sent[-2] - sent[0] < 100
    assert min(result.received.values()) > 8 * 1000


class Opened(Played):
    """A sealed round up to where the committee is to open the sum."""

    def __init__(self, clients=5, **options):
        super().__init__(clients, entries=ENTRIES, common=True, sealed=True, **options)
        self.numbers = numbers_of(clients, ENTRIES)
        for n, confirmations in self.confirmations().items():
            self.server.receive(n, self.clients[n].unmask(confirmations).to_bytes())
        self.total = self.server.total()
        self.sums = self.server.sealed_sums(self.total)

    def openings(self, lies=None):
        for n, told in self.sums.items():
            record = self.clients[n].open(told, (lies or {}).get(n, as_bytes))
            self.server.receive(n, record.to_bytes())
        return self.server.speakers()


def test_a_server_that_changes_the_sum_gets_no_answer():
    """Adding a large number to each second moment, say, would give it the first ones."""
    played = Opened()
    changed = played.total.copy()
    changed[ENTRIES // 2 : ENTRIES] += np.uint64(2**50)
    told = SealedSum(changed.tobytes())
    with refused("the sum is not that of the survivors' vectors"):
        played.clients[0].open(told, as_bytes)
    with refused("asked to open where failed is due"):
        played.clients[0].open(played.sums[0], as_bytes)
    with refused("client 1: the sealed sum has another length"):
        played.clients[1].open(SealedSum(changed[:-1].tobytes()), as_bytes)


def test_a_member_opens_one_sum_of_a_round():
    played = Opened()
    assert isinstance(played.clients[0].open(played.sums[0], as_bytes), Opening)
    with refused("asked to open where answer is due"):
        played.clients[0].open(played.sums[0], as_bytes)


def test_those_who_are_not_on_the_committee_open_nothing():

    played = Opened(16, degree=10)
    committee = played.params.graph.committee
    assert played.sums.keys() == committee
    outsider = min(set(range(16)) - committee)
    with refused("asked to open where done is due"):
        played.clients[outsider].open(next(iter(played.sums.values())), as_bytes)
    opening = Opening(outsider, ROUND, bytes(32))
    with refused(f"client {outsider} has no part in this stage"):
        played.server.receive(outsider, opening.to_bytes())


def test_liars_of_the_committee_are_outvoted_and_their_answers_refused():
    played = Opened()
    speakers = played.openings({2: lambda total, survivors: b"a lie"})
    assert speakers == (0, 1, 3, 4)
    said = played.clients[0].answer()
    for wrong, sentence in (
        (replace(said, content=altered(said.content)), "another answer than the committee"),
        (replace(said, client=1), "client 0 speaks for client 1"),
        (replace(said, round_number=ROUND + 1), "another round"),
    ):
        with refused(sentence):
            played.server.answer(0, wrong.to_bytes())
    with refused("malformed Answer"):
        played.server.answer(0, said.to_bytes()[:-1])
    expected = total_of(played.numbers, range(5))
    assert played.server.answer(1, played.clients[1].answer().to_bytes()) == expected


def test_without_enough_that_say_the_same_there_is_no_answer():
    with refused("too few of the committee say the same"):
        Opened().openings(dict.fromkeys((1, 2), lambda total, survivors: b"a lie"))


def test_sealing_takes_a_common_secret():
    with pytest.raises(ValueError, match="takes a common secret"):
        setup(5, sealed=True)


def test_a_digest_of_an_answer_tells_answers_and_rounds_apart():
    said = [(answer, context) for answer in (b"1", b"2") for context in (b"r", b"s")]
    assert len({keys.digest(*each) for each in said}) == 4
    assert Answer(1, ROUND, b"1").to_bytes() != Answer(1, ROUND, b"2").to_bytes()


# --- what the server sees ------------------------------------------------------------------------


def views(moments, clients, rounds):
    """Sealed sums of the same moments over many rounds, uint64 [round, entry]: the server's."""
    found = []
    for number in range(rounds):
        params = replace(
            setup(clients, entries=len(moments), common=True, sealed=True), round_number=number
        )
        found.append(play(params, np.tile(moments, (clients, 1)), finish=as_bytes).total)
    return np.array(found)


@pytest.mark.parametrize("clients", [3, 4, 6])
def test_over_many_rounds_the_server_holds_nothing_of_constant_moments(clients):
    """Neither bits, nor an average, nor a midrange of what it holds depends on them."""
    rounds = 60
    small, large = (
        np.full(32, number, np.int64).view(np.uint64) for number in (1, -(2**55) - 12345)
    )
    seen = [views(moments, clients, rounds) for moments in (small, large)]
    even = clients & -clients  # the largest power of 2 in it
    for view in seen:
        assert not (view & np.uint64(even - 1)).any(), "what pads leave bare is always zero"
        rest = view // np.uint64(even)
        uniform_bits = rest << np.uint64(even.bit_length() - 1)
        assert uniform(Counter((uniform_bits >> np.uint64(56)).astype(int).ravel().tolist()))
        assert uniform(Counter((rest & np.uint64(255)).astype(int).ravel().tolist()))
    average, midrange = (
        [statistic(view.astype(np.float64)) for view in seen]
        for statistic in (lambda v: v.mean(0), lambda v: (v.max(0) + v.min(0)) / 2)
    )
    assert ks_2samp(*average).pvalue > 1e-4
    assert ks_2samp(*midrange).pvalue > 1e-4
    # Averages come from the middle of the range, where those of numbers without a pad do not.
    spread = 2.0**64 / (12 * rounds) ** 0.5
    for each in average:
        assert abs(each.mean() - 2.0**63) < 5 * spread / len(each) ** 0.5


def test_pads_are_a_rounds_own():
    nothing = np.zeros(1000, np.uint64)
    first, second = (sealing(number=number).close(nothing) for number in (1, 2))
    assert not np.isin(first, second).any()
