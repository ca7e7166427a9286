"""The states of NumPy's generators as arrays, so that a checkpoint can hold them."""

from collections.abc import Sequence

import numpy as np

_WORD = (1 << 64) - 1


def states(generators: Sequence[np.random.Generator]) -> np.ndarray:
    """Where some generators stand, uint64 [generator, 6].

    Args:
        generators: as `np.random.default_rng` makes them (PCG64).
    """
    rows = np.empty((len(generators), 6), np.uint64)
    for row, generator in zip(rows, generators, strict=True):
        state = generator.bit_generator.state
        own, step = state["state"]["state"], state["state"]["inc"]
        halves = own >> 64, own & _WORD, step >> 64, step & _WORD
        row[:] = (*halves, state["has_uint32"], state["uinteger"])
    return rows


def restore(generators: Sequence[np.random.Generator], rows: np.ndarray) -> None:
    """Put generators where others stood.

    Args:
        generators: as for `states`.
        rows: what `states` gave for as many.
    """
    for generator, row in zip(generators, rows, strict=True):
        own_high, own_low, step_high, step_low, has_half, half = map(int, row)
        generator.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": own_high << 64 | own_low, "inc": step_high << 64 | step_low},
            "has_uint32": has_half,
            "uinteger": half,
        }
