"""What travels between clients and the server: typed records, as bytes in MessagePack.

Every record of a client names the round and the client. What is signed names the kind of statement,
the client, and by a digest the round and all else that was known of it before, so that no signature
can be passed off as another.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, get_args, get_origin

import msgpack


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
            values = msgpack.unpackb(data, strict_map_key=False, use_list=False)
            if not isinstance(values, tuple) or len(values) != len(fields):
                raise ValueError(f"{len(fields)} fields expected")
            for field, value in zip(fields, values, strict=True):
                if not _is(value, field.type):
                    raise ValueError(f"{field.name} is no {field.type}")
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise ProtocolError(f"malformed {cls.__name__}: {error}") from error
        return cls(*values)


def _is(value, kind):
    """Whether a value is of a field's type, with all that it contains."""
    if type(value) is not (get_origin(kind) or kind):
        return False
    match value:
        case dict():
            of_keys, of_values = get_args(kind)
            return all(_is(k, of_keys) and _is(v, of_values) for k, v in value.items())
        case tuple():
            return all(_is(each, get_args(kind)[0]) for each in value)
    return True


def statement(kind: str, *content) -> bytes:
    """The bytes that are signed, or authenticated beside a ciphertext."""
    return msgpack.packb(["secagg", kind, *content])


def of_keys(context: bytes, advertisement: "Advertisement") -> bytes:
    """What a client signs when it advertises; `context` is that of the round's parameters."""
    keys = advertisement.encryption_key, advertisement.masking_key
    return statement("keys", context, advertisement.client, *keys)


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
    """Stage 0, to the server: fresh X25519 public keys, for shares and for masks; `of_keys`."""

    client: int
    round_number: int
    encryption_key: bytes
    masking_key: bytes
    signature: bytes


@dataclass(frozen=True)
class Roster(Record):
    """Stage 1, to a client: advertisements, of itself and all that it deals with."""

    advertisements: tuple[bytes, ...]


@dataclass(frozen=True)
class Shares(Record):
    """Stage 1, to the server: for each recipient, an encrypted `Parcel`."""

    client: int
    round_number: int
    ciphertexts: dict[int, bytes]


@dataclass(frozen=True)
class Parcel(Record):
    """What one client encrypts for another.

    Shares of the self-mask's seed and of the masking private key, and a seed of the common mask;
    each is empty where the recipient gets none.
    """

    seed_share: bytes
    key_share: bytes
    common_seed: bytes


@dataclass(frozen=True)
class Delivery(Record):
    """Stage 2, to a client: what others encrypted for it, by sender, and who takes part.

    Attributes:
        ciphertexts: from those that it deals with.
        sharers: all clients whose shares arrived, in ascending order.
    """

    ciphertexts: dict[int, bytes]
    sharers: tuple[int, ...]


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

    client: int
    round_number: int
    vector: bytes
    agreed: bytes
    signature: bytes


@dataclass(frozen=True)
class Survivors(Record):
    """Stage 3, to a client.

    Attributes:
        clients: all whose masked inputs arrived, in ascending order.
        signatures: `of_sharers`, of those among them that the client deals with.
    """

    clients: tuple[int, ...]
    signatures: dict[int, bytes]


@dataclass(frozen=True)
class Confirmation(Record):
    """Stage 3, to the server: a signature, `of_survivors`."""

    client: int
    round_number: int
    signature: bytes


@dataclass(frozen=True)
class Confirmations(Record):
    """Stage 4, to a client: the committee's signatures, `of_survivors`, by client."""

    signatures: dict[int, bytes]


@dataclass(frozen=True)
class Unmasking(Record):
    """Stage 4, to the server: shares of seeds of survivors, and of keys of dropped clients."""

    client: int
    round_number: int
    seed_shares: dict[int, bytes]
    key_shares: dict[int, bytes]
