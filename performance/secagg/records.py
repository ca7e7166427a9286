"""Records of typed fields, and statements, as bytes in MessagePack; errors where they are wrong.

The type of a field says what it may hold: a range with a number is what it lies in, and with bytes,
how long they are.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Self, get_args, get_origin

import msgpack

# Clients have small numbers: of large integers, many with one hash could be found, and a map with
# these as keys would take a time that is quadratic in its length.
Number = Annotated[int, range(1 << 20)]


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
