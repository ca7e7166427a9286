"""Guesses at what the paper ran. None is a result: docs/fidelity.md says how each fits."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Hypothesis(NamedTuple):
    """A guess, as values of options.

    Attributes:
        says: what, in a phrase.
        options: name of an option to its value.
    """

    says: str
    options: Mapping[str, Any]
