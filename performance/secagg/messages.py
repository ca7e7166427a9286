"""What travels between clients and the server.

Every record of a client names the round and the client.
"""

from dataclasses import dataclass
from typing import Annotated

from secagg.records import Number, Record

# As many as the tweak of the masks has room for.
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
