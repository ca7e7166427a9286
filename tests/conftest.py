"""Strictness that all tests share; that warnings are errors is said in pyproject.toml."""

import jax
import pytest
from hypothesis import settings

# An array of lower rank that is silently stretched is how a mean over the wrong axis goes unseen.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example of a test may compile for seconds: no deadline tells slow from stuck.
settings.register_profile("fl", deadline=None, max_examples=25)
settings.load_profile("fl")


@pytest.fixture
def double_precision():
    """Compute in float64, where two ways of summing differ by too little to matter."""
    with jax.enable_x64(True):
        yield
