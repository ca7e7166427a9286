"""Strictness that all tests share; that warnings are errors is said in pyproject.toml."""

from pathlib import Path

import jax
import pytest
from hypothesis import settings

# An array of lower rank that is silently stretched is how a mean over the wrong axis goes unseen.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example of a test may compile for seconds: no deadline tells slow from stuck.
settings.register_profile("fl", deadline=None, max_examples=25)
settings.load_profile("fl")

# Linux lets a process map 65,530 pieces of memory. What is compiled takes some of them, and where
# there are none left XLA crashes.
MAPPINGS = 20_000


@pytest.fixture(autouse=True, scope="module")
def drop_what_was_compiled():
    """After a module forget what was compiled, if it has become much."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPPINGS:
        jax.clear_caches()


@pytest.fixture
def double_precision():
    """Compute in float64, where two ways of summing differ by too little to matter."""
    with jax.enable_x64(True):
        yield
