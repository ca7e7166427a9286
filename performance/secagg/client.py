"""A client: a state machine that accepts only the message that is due next.

advertise -> share -> receive -> mask -> confirm -> unmask, and in a sealed round, for those on the
committee, -> open -> answer. Whatever does not fit raises `ProtocolError`, and the client takes no
further part in the round.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from secagg import dealing, keys, masks, shamir
from secagg.messages import (
    Advertisement,
    Answer,
    Confirmation,
    Confirmations,
    Delivery,
    MaskedInput,
    Opening,
    Parcel,
    Roster,
    SealedSum,
    Shares,
    Survivors,
    Unmasking,
)
from secagg.parameters import Parameters
from secagg.statements import of_keys, of_sharers, of_survivors
from secagg.told import Told

STAGES = ("advertise", "share", "receive", "mask", "confirm", "unmask")
OPENING = ("open", "answer")
DONE, FAILED = "done", "failed"


class Client:
    """One client in one round. It trusts the registered keys, and nothing that the server says."""

    def __init__(self, number: int, signing_key: Ed25519PrivateKey, parameters: Parameters):
        """Draw the round's secrets.

        Args:
            number: of the client, among those registered.
            signing_key: the private part of its registered key.
            parameters: of the round.
        """
        self._number, self._signing_key, self._parameters = number, signing_key, parameters
        self._graph, self._context = parameters.graph, parameters.context
        self._told = Told(number, parameters)
        opens = parameters.sealed and number in self._graph.committee
        self._stages = (*STAGES, *(OPENING if opens else ()), DONE)
        self._stage = self._stages[0]
        self._encryption = X25519PrivateKey.generate()
        self._masking = X25519PrivateKey.generate()
        self._seed = secrets.token_bytes(masks.KEY_BYTES)
        self._common_seed = secrets.token_bytes(masks.KEY_BYTES)

    def advertise(self) -> Advertisement:
        """Stage 0: offer fresh public keys, signed."""
        with self._due("advertise"):
            unsigned = Advertisement(
                self._number,
                self._parameters.round_number,
                self._encryption.public_key().public_bytes_raw(),
                self._masking.public_key().public_bytes_raw(),
                keys.commitment(self._seed, self._context, self._number),
                signature=b"",
            )
            signature = self._signing_key.sign(of_keys(self._context, unsigned))
            self._own = replace(unsigned, signature=signature)
            return self._own

    def share(self, roster: Roster) -> Shares:
        """Stage 1: check who is there, and send each its shares of this client's secrets."""
        with self._due("share"):
            self._roster = self._told.advertisements(roster, self._own)
            circle = self._graph.circle(self._number) & self._roster.keys()
            self._told.enough(circle, "advertised keys")
            points = {member: member + 1 for member in circle}
            threshold = self._graph.threshold
            seed, key = (
                shamir.split(secret, threshold, points.values())
                for secret in (self._seed, self._masking.private_bytes_raw())
            )
            common_seed = self._common_seed if self._parameters.deals(self._number) else b""
            own = seed[self._number + 1], key[self._number + 1], common_seed
            self._parcels = {self._number: Parcel(*own)}
            ciphertexts = {}
            for other in sorted(self._parameters.encrypts_for(self._number) & self._roster.keys()):
                pair = (shares[points[other]] if other in circle else b"" for shares in (seed, key))
                ciphertexts[other] = keys.encrypt(
                    *(self._key_with(other), Parcel(*pair, common_seed).to_bytes()),
                    *(self._context, self._number, other),
                )
            return Shares(self._number, self._parameters.round_number, ciphertexts)

    def receive(self, delivery: Delivery) -> bytes | None:
        """Stage 2, first half: take in what others sent.

        Returns:
            A key that all clients have in common, 32 bytes; None where there is none, or where
            vectors are sealed with it.
        """
        with self._due("receive"):
            self._sharers = self._told.clients(delivery.sharers, "sharers")
            circle = self._graph.circle(self._number) & self._sharers
            self._told.enough(circle, "shares")
            # Without them nobody could vouch for the survivors.
            self._told.enough(self._graph.committee & self._sharers, "shares of the committee")
            expected = {
                sender
                for sender in self._sharers - {self._number}
                if sender in circle or self._parameters.deals(sender)
            }
            if not expected <= self._roster.keys():
                raise self._told.error("the delivery names sharers that never advertised keys")
            if delivery.ciphertexts.keys() != expected:
                raise self._told.error("the delivery does not hold one parcel of each sharer")
            for sender, ciphertext in delivery.ciphertexts.items():
                key, way = self._key_with(sender), (sender, self._number)
                self._parcels[sender] = dealing.opened(self._parameters, key, ciphertext, *way)
            self._circle = circle
            if not self._parameters.common:
                self._agreed = b""
                return None
            seeds = {n: self._parcels[n].common_seed for n in self._graph.committee & self._sharers}
            common = dealing.common_secret(self._parameters, seeds)
            self._agreed = keys.derive(common, "digest of the common secret", self._context)
            if self._parameters.sealed:
                self._seal = dealing.seal(self._parameters, common)
                return None
            return keys.derive(common, "common key", self._context)

    def mask(self, vector: np.ndarray) -> MaskedInput:
        """Stage 2, second half: hide a vector.

        Args:
            vector: uint64 [entries], modulo 2^64; if it is to be sealed, as `seal` takes it.

        Raises:
            ValueError: if it is none of that kind.
        """
        entries, number = self._parameters.entries, self._parameters.round_number
        if vector.dtype != np.uint64 or vector.shape != (entries,):
            raise ValueError(f"uint64 [{entries}] expected, got {vector.dtype} {vector.shape}")
        with self._due("mask"):
            if self._parameters.sealed:
                vector = self._seal.close(vector)
            own = keys.of_self_mask(self._seed, self._context)
            masked = vector.copy()
            masks.add(masked, own, number)
            for other in self._circle - {self._number}:
                key = keys.agree(
                    self._masking, self._roster[other].masking_key, "mask", self._context
                )
                # What one of a pair adds, the other subtracts.
                masks.add(masked, key, number, subtract=self._number > other)
            vector = masked.astype("<u8", copy=False).tobytes()
            signature = self._signing_key.sign(self._signed_with_input(self._number))
            return MaskedInput(self._number, number, vector, self._agreed, signature)

    def confirm(self, survivors: Survivors) -> Confirmation:
        """Stage 3: sign who is left, which a client does but once a round."""
        with self._due("confirm"):
            self._survivors = self._told.clients(survivors.clients, "survivors")
            if not self._survivors <= self._sharers:
                raise self._told.error("survivors are named that never shared their secrets")
            left = self._circle & self._survivors
            self._told.enough(left, "masked inputs")
            # Had one of them been told other sharers, it would lack some of the masks that hide it.
            # Had a dealer given it another seed, its vector would weigh more, or less, in the sum.
            if survivors.signatures.keys() != left - {self._number}:
                raise self._told.error("there is not one signature of each survivor it deals with")
            for other, signature in survivors.signatures.items():
                signed = self._signed_with_input(other)
                self._parameters.verify(other, signature, signed, "the sharers and common secret")
            signature = self._signing_key.sign(self._signed_to_confirm(self._number))
            return Confirmation(self._number, self._parameters.round_number, signature)

    def unmask(self, confirmations: Confirmations) -> Unmasking:
        """Stage 4: give what opens the sum, once others have signed the same survivors."""
        with self._due("unmask"):
            committee = self._graph.committee & self._survivors
            if not confirmations.signatures.keys() <= committee - {self._number}:
                raise self._told.error("there are signatures of clients that are not to give any")
            for signer, signature in confirmations.signatures.items():
                signed = self._signed_to_confirm(signer)
                self._parameters.verify(signer, signature, signed, "the survivors")
            vouching = confirmations.signatures.keys() | (committee & {self._number})
            self._told.enough(vouching, "matching signatures")
            left, gone = self._circle & self._survivors, self._circle - self._survivors
            return Unmasking(
                self._number,
                self._parameters.round_number,
                {member: self._parcels[member].seed_share for member in sorted(left)},
                {member: self._parcels[member].key_share for member in sorted(gone)},
            )

    def open(self, sealed: SealedSum, finish: Callable[[np.ndarray, int], bytes]) -> Opening:
        """Stage 5, on the committee: open the sum, and say the digest of what it comes to.

        Args:
            sealed: as the server has it.
            finish: (sum uint64 [entries] modulo 2^64, number of survivors) -> all that the server
                is to learn of it; the same bytes for all members.
        """
        with self._due("open"):
            if len(sealed.vector) != 8 * self._parameters.masked_entries:
                raise self._told.error("the sealed sum has another length")
            total = np.frombuffer(sealed.vector, "<u8").astype(np.uint64, copy=False)
            survivors = len(self._survivors)
            self._answer = finish(self._seal.open(total, survivors), survivors)
            digest = keys.digest(self._answer, self._context)
            return Opening(self._number, self._parameters.round_number, digest)

    def answer(self) -> Answer:
        """Stage 6, for one member: tell the server what it is to learn."""
        with self._due("answer"):
            return Answer(self._number, self._parameters.round_number, self._answer)

    @contextmanager
    def _due(self, stage: str) -> Iterator[None]:
        """Go through a stage: only when it is due, and once; on an error all is over."""
        due, self._stage = self._stage, FAILED
        if stage != due:
            raise self._told.error(f"asked to {stage} where {due} is due")
        yield
        self._stage = self._stages[self._stages.index(stage) + 1]

    def _key_with(self, other):
        public = self._roster[other].encryption_key
        return keys.agree(self._encryption, public, "parcel", self._context)

    def _signed_with_input(self, signer):
        return of_sharers(self._context, signer, self._sharers, self._agreed)

    def _signed_to_confirm(self, signer):
        view = self._sharers, self._agreed, self._survivors
        return of_survivors(self._context, signer, *view)
