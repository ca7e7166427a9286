"""Random vectors that two parties expand from one key."""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY_BYTES = 32
# The common mask of SecAdam lies between 2^-SPAN and 2^SPAN.
SPAN = 2


def expand(key: bytes, round_number: int, entries: int) -> np.ndarray:
    """Expand a key into uniform integers, uint64 [entries], by AES-256 in counter mode.

    Args:
        key: `KEY_BYTES` bytes, never used for anything else.
        round_number: in the upper half of the counter, so that no two rounds share any of it.
        entries: how many integers, at least 0.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, got {len(key)}")
    counter = round_number.to_bytes(8) + bytes(8)
    stream = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    # The same integers on machines of either byte order.
    integers = np.frombuffer(stream.update(bytes(8 * entries)), "<u8")
    return integers.astype(np.uint64, copy=False)


def positive(key: bytes, round_number: int, entries: int) -> np.ndarray:
    """Expand a key into positive factors q, float64 [entries], log-uniform in [2^-SPAN, 2^SPAN)."""
    uniform = (expand(key, round_number, entries) >> np.uint64(11)) * 2.0**-53
    return np.exp2(SPAN * (2 * uniform - 1))
