"""Records and statements: what is malformed is not read, and signatures cannot be passed off."""

import sys
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg.messages import (
    Advertisement,
    Confirmations,
    MaskedInput,
    Parcel,
    Shares,
    Survivors,
    Unmasking,
)
from secagg.statements import of_keys, of_sharers, of_survivors
from secagg_rounds import KEYS, ROUND, Played, refused


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
