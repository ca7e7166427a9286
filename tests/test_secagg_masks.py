"""Masks: AES-XTS by its definition, uniform, and of their key and round alone."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg import keys, masks
from secagg_rounds import ROUND, Played, uniform

KEY = bytes(range(masks.KEY_BYTES))


def test_masks_are_those_of_their_key_and_round_alone():
    first = masks.expand(KEY, 0, 1000)
    assert np.array_equal(first[:10], masks.expand(KEY, 0, 10))
    assert not np.isin(masks.expand(KEY, 1, 1000), first).any()
    assert not np.isin(masks.expand(KEY[:-1] + b"\1", 0, 1000), first).any()
    with pytest.raises(ValueError, match="32 bytes"):
        masks.expand(bytes(16), 0, 1)


def xts_of_zeros(key, tweak, entries):
    """AES in XTS mode by its definition (IEEE 1619), block by block."""
    encrypt, of_tweak = (
        Cipher(AES(half), modes.ECB()).encryptor().update for half in (key[:16], key[16:])
    )
    place, places = int.from_bytes(of_tweak(tweak), "little"), []
    for _ in range(0, entries, 2):
        places.append(place.to_bytes(16, "little"))
        place = place << 1 & 2**128 - 1 ^ 0x87 * (place >> 127)
    joined = b"".join(places)
    blocks = np.frombuffer(encrypt(joined), "<u8") ^ np.frombuffer(joined, "<u8")
    return blocks[:entries]


PIECE = masks.PIECE


@pytest.mark.parametrize("entries", [0, 1, 2, 5, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 3])
def test_masks_are_pieces_of_xts_that_are_added_or_subtracted(entries):
    pieces = [
        xts_of_zeros(KEY, (3).to_bytes(8) + piece.to_bytes(8), min(PIECE, entries - start))
        for piece, start in enumerate(range(0, entries, PIECE))
    ]
    expected = np.concatenate([*pieces, np.zeros(0, "<u8")])
    assert np.array_equal(masks.expand(KEY, 3, entries), expected)
    for subtract, sign in ((False, 1), (True, 2**64 - 1)):
        total = np.full(entries, 5, np.uint64)
        masks.add(total, KEY, 3, subtract)
        assert np.array_equal(total, np.uint64(5) + np.uint64(sign) * expected)


def test_common_masks_are_positive_and_spread_over_their_span():
    q = masks.positive(KEY, 3, 100_000)
    assert 2.0**-masks.SPAN <= q.min() < q.max() <= 2.0**masks.SPAN
    assert np.log2(q).std() == pytest.approx(2 * masks.SPAN / 12**0.5, rel=0.01)


def test_masked_inputs_of_constant_vectors_are_uniform_bytes():
    vector, counts = np.full(64, 42, np.uint64), Counter()
    alone = {"self": Counter(), "pairwise": Counter()}
    for _ in range(60):
        played = Played(3, 2, entries=64)
        for n, delivery in played.deliveries().items():
            client = played.clients[n]
            client.receive(delivery)
            masked = client.mask(vector)
            counts.update(masked.vector)
            # Each kind of mask would do by itself.
            own = masks.expand(keys.of_self_mask(client._seed, client._context), ROUND, 64)
            pairwise = np.frombuffer(masked.vector, "<u8") - own
            alone["self"].update((vector + own).tobytes())
            alone["pairwise"].update(pairwise.tobytes())
    assert counts.total() == 60 * 3 * 64 * 8
    assert uniform(counts)
    assert all(map(uniform, alone.values()))
