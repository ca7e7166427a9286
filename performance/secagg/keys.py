"""Key agreement and authenticated encryption between two clients."""

import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secagg.records import ProtocolError, statement

NONCE_BYTES, DIGEST_BYTES = 12, 32


def derive(secret: bytes, purpose: str, *context) -> bytes:
    """A 32-byte key from a secret, for one purpose (HKDF-SHA256).

    Args:
        secret: of any length.
        purpose: keys for different purposes or contexts say nothing of one another.
        *context: whatever else the key is bound to.
    """
    return HKDF(SHA256(), DIGEST_BYTES, salt=None, info=statement(purpose, *context)).derive(secret)


def public(private: bytes) -> bytes:
    """The X25519 public key of a private one, 32 bytes each."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def of_self_mask(seed: bytes, context: bytes) -> bytes:
    """The key of the mask that a client adds for itself, from the seed that it shares."""
    return derive(seed, "self mask", context)


def commitment(seed: bytes, context: bytes, client: int) -> bytes:
    """What a client signs of its self-mask's seed: it hides the seed, and fits no other."""
    return derive(seed, "commitment", context, client)


def digest(content: bytes, context: bytes) -> bytes:
    """Of what a committee answers; see `Opening`."""
    return derive(content, "answer", context)


def agree(own: X25519PrivateKey, other: bytes, purpose: str, context: bytes) -> bytes:
    """The 32-byte key that two clients have in common (X25519 and HKDF).

    Args:
        own: one's private key.
        other: the other's public key, 32 bytes.
        purpose: see `derive`.
        context: of the round's parameters: the key is for this round alone.

    Raises:
        ProtocolError: if the public key is none, or one that makes the secret known to all.
    """
    try:
        secret = own.exchange(_public_key(other))
    except ValueError as error:
        raise ProtocolError(f"a public key with which no secret can be shared: {error}") from error
    both = sorted((own.public_key().public_bytes_raw(), other))
    return derive(secret, purpose, context, *both)


# A server agrees on keys with the same clients for many others.
@lru_cache(maxsize=4096)
def _public_key(data):
    return X25519PublicKey.from_public_bytes(data)


def encrypt(key: bytes, plaintext: bytes, context: bytes, sender: int, recipient: int) -> bytes:
    """Encrypt for one recipient (ChaCha20-Poly1305), under a fresh nonce that comes first."""
    nonce = os.urandom(NONCE_BYTES)
    about = statement("parcel", context, sender, recipient)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, plaintext, about)


def decrypt(key: bytes, ciphertext: bytes, context: bytes, sender: int, recipient: int) -> bytes:
    """Undo `encrypt`.

    Raises:
        ProtocolError: unless it is, to the bit, what the sender encrypted for this recipient in
            this round.
    """
    about = statement("parcel", context, sender, recipient)
    nonce, rest = ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:]
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, rest, about)
    except (InvalidTag, ValueError) as error:
        raise ProtocolError(
            f"what came for client {recipient} from client {sender} was altered, cut off, or meant "
            "for another client or round"
        ) from error
