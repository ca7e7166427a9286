"""Sums of secure aggregation: exact, whoever drops out."""

import itertools
import sys
import threading
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg import masks, pairs, runner, unmasking
from secagg.client import Client
from secagg.quantise import Quantiser
from secagg.records import TooFewError
from secagg.server import Server
from secagg_rounds import ROUND, play, setup, signing_keys, vectors


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
