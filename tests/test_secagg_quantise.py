"""Numbers as integers: sums that are near, and never wrap."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg.quantise import Quantiser


@given(
    clip=st.floats(1e-6, 1e6),
    numbers=st.lists(st.floats(-2e6, 2e6), min_size=1, max_size=30),
    clients=st.integers(1, 2000),
)
def test_sums_of_quantised_numbers_are_within_the_bound_and_never_wrap(clip, numbers, clients):
    quantiser = Quantiser.for_sum(clip, clients)
    sent = [quantiser.quantise(np.array([number])) for number in numbers[:clients]]
    total = np.sum([each.values for each in sent], axis=0, dtype=np.uint64)
    exact = np.clip(numbers[:clients], -clip, clip).sum()
    assert abs(quantiser.restore(total)[0] - exact) <= quantiser.error(clients) * 1.01
    assert [each.clipped for each in sent] == [int(abs(n) > clip) for n in numbers[:clients]]
    # The largest sum that there can be.
    unit = int(quantiser.quantise(np.array([clip])).values[0])
    assert clients * unit < 2**63


def test_rounding_is_to_the_nearest_even():
    quantiser = Quantiser(clip=8.0, bits=0)
    values = quantiser.quantise(np.array([0.5, 1.5, 2.5, -0.5, -1.5, 2.6])).values
    assert values.view(np.int64).tolist() == [0, 2, 2, 0, -2, 3]


def test_what_is_no_number_is_not_sent():
    with pytest.raises(ValueError, match="diverged"):
        Quantiser.for_sum(1.0, 3).quantise(np.array([0.0, np.nan]))
    assert Quantiser.for_sum(1.0, 3).quantise(np.array([np.inf])).clipped == 1
    for clip, clients in ((0, 1), (np.inf, 1), (1, 0)):
        with pytest.raises(ValueError, match=r"clip|clients"):
            Quantiser.for_sum(clip, clients)
