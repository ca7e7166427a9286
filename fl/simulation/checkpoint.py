"""Checkpoints: a state and what is known of it so far, in one file that is never half written."""

import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fl import files
from fl.simulation import processes

PyTree = Any


class CheckpointError(ValueError):
    """A checkpoint that does not fit, or cannot be read."""


def save(path: Path, state: PyTree, notes: dict) -> None:
    """Write a checkpoint in place of an earlier one; of several processes, the leader does.

    Args:
        path: the file; its folder is created where absent.
        state: a pytree of arrays.
        notes: what else to keep, as far as JSON can hold it.
    """
    leaves = {f"leaf_{number}": leaf for number, leaf in enumerate(jax.tree.leaves(state))}
    leaves = processes.to_host(leaves)
    if not processes.leads():
        return
    with files.replacing(path) as file:
        np.savez(file, notes=np.array(json.dumps(notes)), **leaves)


def load(path: Path, like: PyTree) -> tuple[PyTree, dict]:
    """Read a checkpoint; several processes get what the leader reads.

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
    data = processes.shared(lambda: path.read_bytes() if path.exists() else None)
    if data is None:
        raise FileNotFoundError(path)
    try:
        with np.load(io.BytesIO(data)) as saved:
            notes = json.loads(str(saved["notes"]))
            values = [saved[f"leaf_{number}"] for number in range(len(saved.files) - 1)]
    except Exception as error:  # NumPy raises whatever the broken part leads to
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if len(values) != len(leaves) or not all(map(_fits, values, leaves)):
        raise CheckpointError(f"{path} holds another kind of state")
    placed = [
        value if isinstance(leaf, np.ndarray) else _placed(value, leaf.sharding)
        for value, leaf in zip(values, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, placed), notes


def _placed(value, sharding):
    return jax.make_array_from_callback(value.shape, sharding, lambda part: value[part])


def _fits(value, leaf):
    whatever = 1 if isinstance(leaf, np.ndarray) else 0  # axes that may have another length
    return value.dtype == leaf.dtype and value.shape[whatever:] == leaf.shape[whatever:]
