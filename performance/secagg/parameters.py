"""What a party knows of a round before it begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from secagg import seal
from secagg.graph import Graph
from secagg.messages import Round
from secagg.records import Number, ProtocolError, statement


@dataclass(frozen=True)
class Parameters:
    """A round's parameters, as a party knows them: those who know others do not get on.

    Attributes:
        round_number: from 0 to 2^64 - 1, never used twice with the same registered keys.
        registered: client -> Ed25519 public key, known to all parties beforehand.
        graph: who deals with whom.
        entries: length of the vectors that are added up.
        common: whether clients agree on a secret that the server does not learn.
        sealed: whether they use it to seal their vectors, so that the server gets no sum, but
            what the committee makes of it; see `seal`.
        broadcast: a digest of what the vectors are computed from, such as the model, as this party
            was sent it. A server that sends one client another model, say one on which all others
            compute zeros, could tell that client's vector from the sum.
    """

    round_number: int
    registered: Mapping[int, Ed25519PublicKey]
    graph: Graph
    entries: int
    common: bool = False
    sealed: bool = False
    broadcast: bytes = b""

    def __post_init__(self):
        """Refuse what does not fit together.

        Raises:
            ValueError: for numbers out of range, or a graph of others than those registered.
        """
        if self.round_number not in get_args(Round)[1]:
            raise ValueError(f"a round has a number from 0 to 2^64 - 1, got {self.round_number}")
        if self.entries < 0:
            raise ValueError(f"entries must be at least 0, got {self.entries}")
        if self.sealed and not self.common:
            raise ValueError("it takes a common secret to seal vectors")
        if self.graph.neighbours.keys() != self.registered.keys():
            raise ValueError("the graph is not of the clients that are registered")
        if not all(client in get_args(Number)[1] for client in self.registered):
            raise ValueError(f"clients have numbers below {get_args(Number)[1].stop}")

    @cached_property
    def context(self) -> bytes:
        """A digest of all of this, 32 bytes: what keys and signatures of the round are bound to."""
        clients = [
            (client, key.public_bytes_raw(), sorted(self.graph.neighbours[client]))
            for client, key in sorted(self.registered.items())
        ]
        known = (self.round_number, self.entries, self.common, self.sealed)
        digest = Hash(SHA256())
        committee = sorted(self.graph.committee)
        links = self.graph.threshold, committee, clients
        digest.update(statement("parameters", *known, self.broadcast, *links))
        return digest.finalize()

    @property
    def longest(self) -> int:
        """How many bytes a client's message may have; less than 256 a client go with a vector."""
        return 8 * self.masked_entries + 256 * (self.clients + 2)

    @property
    def masked_entries(self) -> int:
        """Length of the vectors that travel."""
        return self.entries + (seal.LIMBS if self.sealed else 0)

    @property
    def clients(self) -> int:
        """Their number n."""
        return len(self.registered)

    def deals(self, client: int) -> bool:
        """Whether a client gives everybody a seed of the common secret."""
        return self.common and client in self.graph.committee

    def encrypts_for(self, client: int) -> frozenset[int]:
        """Whom a client has something to send: its neighbours, or all others if it deals."""
        if self.deals(client):
            return frozenset(self.registered) - {client}
        return self.graph.neighbours[client]

    def verify(self, signer: int, signature: bytes, signed: bytes, what: str) -> None:
        """Check a signature.

        Args:
            signer: whose it should be.
            signature: Ed25519.
            signed: what it should be of.
            what: for the error: what that is.

        Raises:
            ProtocolError: if it is not, or the signer is not registered.
        """
        registered = self.registered.get(signer)
        if registered is None:
            raise ProtocolError(f"client {signer} is not registered")
        try:
            registered.verify(signature, signed)
        except InvalidSignature as error:
            raise ProtocolError(
                f"wrong signature of client {signer} under {what}: it is forged, or of one that "
                "was told other parameters or sent another model"
            ) from error
