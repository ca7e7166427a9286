"""What travels between clients and the server: typed records, as bytes in MessagePack.

Every record of a client names the round and the client. What is signed names the kind of statement,
the client, and by a digest the round and all else that was known of it before, so that no signature
can be passed off as another.

The type of a field says what it may hold: a range with a number is what it lies in, and with bytes,
how long they are.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Self, get_args, get_origin

import msgpack

# Clients have small numbers: of large integers, many with one hash could be found, and a map with
# these as keys would take a time that is quadratic in its length.
Number = Annotated[int, range(1 << 20)]
# As many as the counter of the masks has room for.
Round = Annotated[int, range(1 << 64)]
PublicKey = Annotated[bytes, range(32, 33)]
Signature = Annotated[bytes, range(64, 65)]
Digest = Annotated[bytes, range(32, 33)]
Share = Annotated[bytes, range(33, 34)]
# A share, a seed or a digest; empty where none is due, which the recipient knows.
Piece = Annotated[bytes, range(34)]
# A nonce, a `Parcel` of three of these, and what authenticates it.
Ciphertext = Annotated[bytes, range(12 + 1 + 3 * (2 + 33) + 16 + 1)]
# Larger than any signed `Advertisement`.
Signed = Annotated[bytes, range(257)]
Vector = Annotated[bytes, range(1 << 34)]


class ProtocolError(Exception):
    """A message that must not be: the error names what is wrong with it, and who sent it."""


class TooFewError(ProtocolError):
    """Fewer clients are left than the threshold: the round is abandoned."""


@dataclass(frozen=True)
class Record:
    """A message."""

    def to_bytes(self) -> bytes:
        """What travels."""
        return msgpack.packb([getattr(self, field.name) for field in dataclasses.fields(self)])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what travelled.

        Raises:
            ProtocolError: if it is no such record.
        """
        fields = dataclasses.fields(cls)
        try:
            values = msgpack.unpackb(
                data, strict_map_key=False, use_list=False, object_pairs_hook=_map
            )
            if not isinstance(values, tuple) or len(values) != len(fields):
                raise ValueError(f"{len(fields)} fields expected")
            for field, value in zip(fields, values, strict=True):
                if not _is(value, field.type):
                    raise ValueError(f"{field.name} is not of its type and size")
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise ProtocolError(f"malformed {cls.__name__}: {error}") from error
        return cls(*values)


def _map(pairs):
    """What a map of numbers holds; other keys are refused before any of them is hashed."""
    numbers = get_args(Number)[1]
    if not all(type(key) is int and key in numbers for key, _ in pairs):
        raise ValueError(f"a key of a map is no number below {numbers.stop}")
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a map has a key twice")
    return found


def _is(value, kind):
    """Whether a value is of a field's type, with all that it contains."""
    if get_origin(kind) is Annotated:
        kind, allowed = get_args(kind)
        return type(value) is kind and (value if kind is int else len(value)) in allowed
    if type(value) is not get_origin(kind):
        return False
    each = get_args(kind)[-1 if isinstance(value, dict) else 0]
    return all(_is(item, each) for item in (value.values() if isinstance(value, dict) else value))


def statement(kind: str, *content) -> bytes:
    """The bytes that are signed, or authenticated beside a ciphertext."""
    return msgpack.packb(["secagg", kind, *content])


def of_keys(context: bytes, advertisement: "Advertisement") -> bytes:
    """What a client signs when it advertises; `context` is that of the round's parameters."""
    offered = advertisement.encryption_key, advertisement.masking_key, advertisement.commitment
    return statement("keys", context, advertisement.client, *offered)


def of_sharers(context: bytes, client: int, sharers: Iterable[int], agreed: bytes) -> bytes:
    """What a client signs when it masks its vector.

    Args:
        context: of the round's parameters.
        client: who signs.
        sharers: all clients whose shares arrived, as it was told.
        agreed: digest of the common secret that it derived; empty where there is none.
    """
    return statement("sharers", context, client, sorted(sharers), agreed)


def of_survivors(
    context: bytes, client: int, sharers: Iterable[int], agreed: bytes, survivors: Iterable[int]
) -> bytes:
    """What a client signs when it confirms: that, and whose masked inputs arrived."""
    return statement("survivors", context, client, sorted(sharers), agreed, sorted(survivors))


@dataclass(frozen=True)
class Advertisement(Record):
    """Stage 0, to the server.

    Attributes:
        client: who sends it.
        round_number: of the round.
        encryption_key: fresh, of X25519, for shares.
        masking_key: another one, for masks.
        commitment: to the self-mask's seed, `keys.commitment`.
        signature: `of_keys`.
    """

    client: Number
    round_number: Round
    encryption_key: PublicKey
    masking_key: PublicKey
    commitment: Digest
    signature: Signature


@dataclass(frozen=True)
class Roster(Record):
    """Stage 1, to a client: advertisements, of itself and all that it deals with."""

    advertisements: tuple[Signed, ...]


@dataclass(frozen=True)
class Shares(Record):
    """Stage 1, to the server: for each recipient, an encrypted `Parcel`."""

    client: Number
    round_number: Round
    ciphertexts: dict[Number, Ciphertext]


@dataclass(frozen=True)
class Parcel(Record):
    """What one client encrypts for another.

    Shares of the self-mask's seed and of the masking private key, and a seed of the common mask;
    each is empty where the recipient gets none.
    """

    seed_share: Piece
    key_share: Piece
    common_seed: Piece


@dataclass(frozen=True)
class Delivery(Record):
    """Stage 2, to a client: what others encrypted for it, by sender, and who takes part.

    Attributes:
        ciphertexts: from those that it deals with.
        sharers: all clients whose shares arrived, in ascending order.
    """

    ciphertexts: dict[Number, Ciphertext]
    sharers: tuple[Number, ...]


@dataclass(frozen=True)
class MaskedInput(Record):
    """Stage 2, to the server.

    Attributes:
        client: who sends it.
        round_number: of the round.
        vector: masked integers modulo 2^64, little-endian.
        agreed: see `of_sharers`.
        signature: `of_sharers`.
    """

    client: Number
    round_number: Round
    vector: Vector
    agreed: Piece
    signature: Signature


@dataclass(frozen=True)
class Survivors(Record):
    """Stage 3, to a client.

    Attributes:
        clients: all whose masked inputs arrived, in ascending order.
        signatures: `of_sharers`, of those among them that the client deals with.
    """

    clients: tuple[Number, ...]
    signatures: dict[Number, Signature]


@dataclass(frozen=True)
class Confirmation(Record):
    """Stage 3, to the server: a signature, `of_survivors`."""

    client: Number
    round_number: Round
    signature: Signature


@dataclass(frozen=True)
class Confirmations(Record):
    """Stage 4, to a client: the committee's signatures, `of_survivors`, by client."""

    signatures: dict[Number, Signature]


@dataclass(frozen=True)
class Unmasking(Record):
    """Stage 4, to the server: shares of seeds of survivors, and of keys of dropped clients."""

    client: Number
    round_number: Round
    seed_shares: dict[Number, Share]
    key_shares: dict[Number, Share]


@dataclass(frozen=True)
class SealedSum(Record):
    """Stage 5, to a member of the committee: the survivors' sum, little-endian, see `seal`."""

    vector: Vector


@dataclass(frozen=True)
class Opening(Record):
    """Stage 5, to the server: the digest of what a member made of the opened sum."""

    client: Number
    round_number: Round
    digest: Digest


@dataclass(frozen=True)
class Answer(Record):
    """Stage 6, to the server, from one whose digest is that of most: what it is the digest of."""

    client: Number
    round_number: Round
    content: Vector
