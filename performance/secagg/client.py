"""A client: a state machine that accepts only the message that is due next.

advertise -> share -> receive -> mask -> confirm -> unmask. Whatever does not fit raises
`ProtocolError`, and the client takes no further part in the round.
"""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from secagg import keys, masks, shamir
from secagg.messages import (
    Advertisement,
    Confirmation,
    Confirmations,
    Delivery,
    MaskedInput,
    Parcel,
    ProtocolError,
    Roster,
    Shares,
    Survivors,
    TooFewError,
    Unmasking,
    statement,
)
from secagg.parameters import Parameters

STAGES = ("advertise", "share", "receive", "mask", "confirm", "unmask", "done")
FAILED = "failed"


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
        self._stage = STAGES[0]
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
                signature=b"",
            )
            signature = self._signing_key.sign(unsigned.signed())
            self._own = replace(unsigned, signature=signature)
            return self._own

    def share(self, roster: Roster) -> Shares:
        """Stage 1: check who is there, and send each its shares of this client's secrets."""
        with self._due("share"):
            self._roster = self._checked(roster)
            circle = self._parameters.circle(self._number) & self._roster.keys()
            self._require(circle, "advertised keys")
            points = {member: member + 1 for member in circle}
            threshold = self._parameters.threshold
            seed, key = (
                shamir.split(secret, threshold, points.values())
                for secret in (self._seed, self._masking.private_bytes_raw())
            )
            self._parcels = {
                self._number: Parcel(seed[self._number + 1], key[self._number + 1], b"")
            }
            ciphertexts = {}
            for other in sorted(self._roster.keys() - {self._number}):
                parcel = Parcel(
                    *(shares[points[other]] if other in circle else b"" for shares in (seed, key)),
                    common_seed=self._common_seed if self._deals else b"",
                )
                if any((parcel.seed_share, parcel.common_seed)):
                    ciphertexts[other] = keys.encrypt(
                        *(self._key_with(other), parcel.to_bytes()),
                        *(self._parameters.round_number, self._number, other),
                    )
            return Shares(self._number, self._parameters.round_number, ciphertexts)

    def receive(self, delivery: Delivery) -> bytes | None:
        """Stage 2, first half: take in what others sent.

        Returns:
            The common secret of all clients, 32 bytes; None where there is none.
        """
        with self._due("receive"):
            self._sharers = self._numbers(delivery.sharers, "sharers")
            circle = self._parameters.circle(self._number) & self._sharers
            self._require(circle, "shares")
            expected = {
                sender
                for sender in self._sharers - {self._number}
                if sender in circle or self._common_from(sender)
            }
            if not expected <= self._roster.keys():
                raise self._error("the delivery names sharers that never advertised keys")
            if delivery.ciphertexts.keys() != expected:
                raise self._error("the delivery does not hold one parcel of each sharer")
            for sender, ciphertext in delivery.ciphertexts.items():
                self._parcels[sender] = self._opened(sender, ciphertext, sender in circle)
            self._circle = circle
            return self._common_secret() if self._parameters.common else None

    def mask(self, vector: np.ndarray) -> MaskedInput:
        """Stage 2, second half: hide a vector.

        Args:
            vector: uint64 [entries], modulo 2^64.

        Raises:
            ValueError: if it is none of that kind.
        """
        entries, number = self._parameters.entries, self._parameters.round_number
        if vector.dtype != np.uint64 or vector.shape != (entries,):
            raise ValueError(f"uint64 [{entries}] expected, got {vector.dtype} {vector.shape}")
        with self._due("mask"):
            masked = vector + masks.expand(self._seed, number, entries)
            for other in self._circle - {self._number}:
                key = keys.agree(self._masking, self._roster[other].masking_key, "mask", number)
                mask = masks.expand(key, number, entries)
                # What one of a pair adds, the other subtracts.
                if self._number < other:
                    masked += mask
                else:
                    masked -= mask
            return MaskedInput(self._number, number, masked.astype("<u8", copy=False).tobytes())

    def confirm(self, survivors: Survivors) -> Confirmation:
        """Stage 3: sign who is left, which a client does but once a round."""
        with self._due("confirm"):
            self._survivors = self._numbers(survivors.clients, "survivors")
            if not self._survivors <= self._sharers:
                raise self._error("survivors are named that never shared their secrets")
            self._require(self._circle & self._survivors, "masked inputs")
            signature = self._signing_key.sign(self._statement(self._number))
            return Confirmation(self._number, self._parameters.round_number, signature)

    def unmask(self, confirmations: Confirmations) -> Unmasking:
        """Stage 4: give what opens the sum, once others have signed the same survivors."""
        with self._due("unmask"):
            signers = self._circle & self._survivors - {self._number}
            if not confirmations.signatures.keys() <= signers:
                raise self._error("there are signatures of clients that are none of the survivors")
            for signer, signature in confirmations.signatures.items():
                self._verify(signer, signature, self._statement(signer), "the survivors")
            self._require(confirmations.signatures.keys() | {self._number}, "matching signatures")
            left, gone = self._circle & self._survivors, self._circle - self._survivors
            return Unmasking(
                self._number,
                self._parameters.round_number,
                {member: self._parcels[member].seed_share for member in sorted(left)},
                {member: self._parcels[member].key_share for member in sorted(gone)},
            )

    @contextmanager
    def _due(self, stage: str) -> Iterator[None]:
        """Go through a stage: only when it is due, and once; on an error all is over."""
        if self._stage != stage:
            raise self._error(f"asked to {stage} where {self._stage} is due")
        self._stage = FAILED
        yield
        self._stage = STAGES[STAGES.index(stage) + 1]

    def _checked(self, roster):
        """The advertisements by client, each as its client signed it."""
        found = {}
        for data in roster.advertisements:
            advertisement = Advertisement.from_bytes(data)
            sender = advertisement.client
            if sender in found:
                raise self._error(f"client {sender} is advertised twice")
            if advertisement.round_number != self._parameters.round_number:
                raise self._error(f"the keys of client {sender} are of another round")
            self._verify(sender, advertisement.signature, advertisement.signed(), "its keys")
            found[sender] = advertisement
        if found.get(self._number) != self._own:
            raise self._error("its own keys are missing or replaced")
        offered = [key for a in found.values() for key in (a.encryption_key, a.masking_key)]
        if len(set(offered)) < len(offered):
            raise self._error("a public key is advertised more than once")
        return found

    def _verify(self, signer, signature, signed, what):
        registered = self._parameters.registered.get(signer)
        if registered is None:
            raise self._error(f"client {signer} is not registered")
        try:
            registered.verify(signature, signed)
        except InvalidSignature as error:
            raise self._error(f"wrong signature of client {signer} under {what}") from error

    def _numbers(self, clients, what):
        """A list of clients from the server, as a set."""
        if list(clients) != sorted(set(clients)):
            raise self._error(f"the {what} are no ascending list of clients")
        if self._number not in clients or not set(clients) <= self._parameters.registered.keys():
            raise self._error(f"the {what} lack this client, or name unknown ones")
        return frozenset(clients)

    def _require(self, members: Iterable[int], what: str):
        count = len(list(members))
        if count < self._parameters.threshold:
            raise TooFewError(
                f"client {self._number}: {what} of {count} clients are fewer than the threshold of "
                f"{self._parameters.threshold}"
            )

    def _opened(self, sender, ciphertext, in_circle):
        plaintext = keys.decrypt(
            *(self._key_with(sender), ciphertext),
            *(self._parameters.round_number, sender, self._number),
        )
        parcel = Parcel.from_bytes(plaintext)
        share = shamir.SHARE_BYTES if in_circle else 0
        seed = masks.KEY_BYTES if self._common_from(sender) else 0
        if tuple(map(len, (parcel.seed_share, parcel.key_share, parcel.common_seed))) != (
            *(share, share),
            seed,
        ):
            raise self._error(f"the parcel of client {sender} does not hold what it should")
        return parcel

    def _common_secret(self):
        """From the seeds of exactly the dealers among the sharers."""
        dealers = sorted(self._parameters.dealers & self._sharers)
        if not dealers:
            raise self._error("nobody is left who deals the common secret")
        seeds = [
            self._common_seed if dealer == self._number else self._parcels[dealer].common_seed
            for dealer in dealers
        ]
        number = self._parameters.round_number
        return keys.derive(b"".join(seeds), "common secret", number, dealers)

    @property
    def _deals(self):
        return self._common_from(self._number)

    def _common_from(self, sender):
        return self._parameters.common and sender in self._parameters.dealers

    def _key_with(self, other):
        public = self._roster[other].encryption_key
        return keys.agree(self._encryption, public, "parcel", self._parameters.round_number)

    def _statement(self, signer):
        return statement(
            *("confirm", signer, self._parameters.round_number),
            *(sorted(self._sharers), sorted(self._survivors)),
        )

    def _error(self, text):
        return ProtocolError(f"client {self._number}: {text}")
