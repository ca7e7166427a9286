"""Random vectors that two parties expand from one key."""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY_BYTES = 32
# The common mask of SecAdam lies between 2^-SPAN and 2^SPAN.
SPAN = 2
# Integers that are expanded at a time: few enough for the cache, and many for threads that wait for
# Python's lock between two.
BLOCK = 1 << 17
ZEROS = bytes(8 * BLOCK)


def expand(key: bytes, round_number: int, entries: int) -> np.ndarray:
    """Expand a key into uniform integers, uint64 [entries], by AES-256 in counter mode.

    Args:
        key: `KEY_BYTES` bytes, never used for anything else.
        round_number: in the upper half of the counter, so that no two rounds share any of it.
        entries: how many integers, at least 0.
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
    counter = round_number.to_bytes(8) + bytes(8)
    stream = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    # The same integers on machines of either byte order.
    integers = np.empty(BLOCK, "<u8")
    into = memoryview(integers).cast("B")
    for start in range(0, len(total), BLOCK):
        part = total[start : start + BLOCK]
        stream.update_into(ZEROS[: 8 * len(part)], into)
        if subtract:
            part -= integers[: len(part)]
        else:
            part += integers[: len(part)]


def positive(key: bytes, round_number: int, entries: int) -> np.ndarray:
    """Expand a key into positive factors q, float64 [entries], log-uniform in [2^-SPAN, 2^SPAN)."""
    uniform = (expand(key, round_number, entries) >> np.uint64(11)) * 2.0**-53
    return np.exp2(SPAN * (2 * uniform - 1))
