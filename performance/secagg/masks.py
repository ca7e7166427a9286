"""Random vectors that two parties expand from one key.

By AES-128 in XTS mode, of zeros: block j of piece i is E(T) xor T with T = a^j F(i), where E and F
are AES under either half of the key and a generates the field of 2^128 elements. That is a
tweakable cipher (Rogaway, "Efficient instantiations of tweakable blockciphers and refinements to
modes OCB and PMAC", 2004; recalled) at distinct tweaks, and so as good as random as AES in counter
mode is, up to a constant: with b blocks, but for a probability of about b^2 / 2^128. OpenSSL
computes it with wider instructions than counter mode, where a processor has them. 128 bits are what
X25519 gives, from which keys come.
"""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

# Of two halves, which must differ; those of HKDF do.
KEY_BYTES = 32
# The common mask of SecAdam lies between 2^-SPAN and 2^SPAN.
SPAN = 2
# Integers of a piece: few enough for the cache, and many for threads that wait for Python's lock
# between two. The standard of XTS allows 2^20 blocks of two integers each.
PIECE = 1 << 17
ZEROS = memoryview(bytes(8 * PIECE))
INTEGERS_PER_BLOCK = 2


def expand(key: bytes, round_number: int, entries: int) -> np.ndarray:
    """Expand a key into uniform integers, uint64 [entries].

    Args:
        key: `KEY_BYTES` bytes, never used for anything else.
        round_number: from 0 to 2^64 - 1; part of the tweak, so that no two rounds share any of it.
        entries: how many integers, at least 0. Fewer are the beginning of more.
    """
    expanded = np.zeros(entries, np.uint64)
    add(expanded, key, round_number)
    return expanded


def add(total: np.ndarray, key: bytes, round_number: int, subtract: bool = False) -> None:
    """Add what a key expands to, see `expand`, or subtract it, modulo 2^64.

    Args:
        total: uint64 [entries], changed in place.
        key: as of `expand`.
        round_number: as of `expand`.
        subtract: instead of adding.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, got {len(key)}")
    # The same integers on machines of either byte order.
    integers = np.empty(min(PIECE, len(total) + 1), "<u8")
    into = memoryview(integers).cast("B")
    combine = np.subtract if subtract else np.add
    for piece, start in enumerate(range(0, len(total), PIECE)):
        part = total[start : start + PIECE]
        whole = len(part) + len(part) % INTEGERS_PER_BLOCK
        tweak = round_number.to_bytes(8) + piece.to_bytes(8)
        cipher = Cipher(algorithms.AES(key), modes.XTS(tweak)).encryptor()
        cipher.update_into(ZEROS[: 8 * whole], into)
        combine(part, integers[: len(part)], out=part)


def positive(key: bytes, round_number: int, entries: int) -> np.ndarray:
    """Expand a key into positive factors q, float64 [entries], log-uniform in [2^-SPAN, 2^SPAN)."""
    uniform = (expand(key, round_number, entries) >> np.uint64(11)) * 2.0**-53
    return np.exp2(SPAN * (2 * uniform - 1))
