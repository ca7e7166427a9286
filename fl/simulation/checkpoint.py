"""Checkpoints: a state and what is known of it so far, in one file that is never half written."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fl import files

PyTree = Any


class CheckpointError(ValueError):
    """A checkpoint that does not fit, or cannot be read."""


def save(path: Path, state: PyTree, notes: dict) -> None:
    """Write a checkpoint in place of an earlier one.

    Args:
        path: the file; its folder is created where absent.
        state: a pytree of arrays.
        notes: what else to keep, as far as JSON can hold it.
    """
    leaves = {f"leaf_{number}": leaf for number, leaf in enumerate(jax.tree.leaves(state))}
    with files.replacing(path) as file:
        np.savez(file, notes=np.array(json.dumps(notes)), **jax.device_get(leaves))


def load(path: Path, like: PyTree) -> tuple[PyTree, dict]:
    """Read a checkpoint.

    Args:
        path: the file.
        like: a pytree of arrays of the same structure, shapes and types. NumPy arrays on the host
            may have another length.

    Returns:
        The state, on the devices where `like` is, and the notes.

    Raises:
        CheckpointError: if the file is broken or holds another kind of state.
        FileNotFoundError: if there is none.
    """
    leaves, structure = jax.tree.flatten(like)
    try:
        with path.open("rb") as file, np.load(file) as saved:
            notes = json.loads(str(saved["notes"]))
            values = [saved[f"leaf_{number}"] for number in range(len(saved.files) - 1)]
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy raises whatever the broken part leads to
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if len(values) != len(leaves) or not all(map(_fits, values, leaves)):
        raise CheckpointError(f"{path} holds another kind of state")
    placed = [
        value if isinstance(leaf, np.ndarray) else jax.device_put(value, leaf.sharding)
        for value, leaf in zip(values, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, placed), notes


def _fits(value, leaf):
    whatever = 1 if isinstance(leaf, np.ndarray) else 0  # axes that may have another length
    return value.dtype == leaf.dtype and value.shape[whatever:] == leaf.shape[whatever:]
