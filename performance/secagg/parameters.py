"""What all parties know of a round before it begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from secagg.graph import Graph
from secagg.messages import ProtocolError, statement


@dataclass(frozen=True)
class Parameters:
    """A round's parameters.

    Attributes:
        round_number: at least 0, never used twice with the same registered keys.
        registered: client -> Ed25519 public key, known to all parties beforehand.
        graph: who deals with whom.
        entries: length of the vectors that are added up.
        common: whether clients agree on a secret that the server does not learn.
    """

    round_number: int
    registered: Mapping[int, Ed25519PublicKey]
    graph: Graph
    entries: int
    common: bool = False

    @cached_property
    def context(self) -> bytes:
        """A digest of all of this, 32 bytes: what keys and signatures of the round are bound to."""
        clients = [
            (client, key.public_bytes_raw(), sorted(self.graph.neighbours[client]))
            for client, key in sorted(self.registered.items())
        ]
        known = (self.round_number, self.entries, self.common, self.graph.threshold)
        digest = Hash(SHA256())
        digest.update(statement("parameters", *known, sorted(self.graph.committee), clients))
        return digest.finalize()

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
            raise ProtocolError(f"wrong signature of client {signer} under {what}") from error
