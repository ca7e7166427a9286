"""Checkpoints: a state and what is known of it so far, which orbax keeps and never half writes.

Of several processes each writes and reads what its own devices hold, all in one folder, and calls
these functions together with the others.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fl.simulation import processes

PyTree = Any

STATE, NOTES = "state", "notes"


class CheckpointError(OSError):
    """A checkpoint that cannot be written or read, or does not fit."""


def save(folder: Path, state: PyTree, notes: dict) -> None:
    """Write a checkpoint in place of an earlier one, which stays until the new one is whole.

    Args:
        folder: for it alone; created where absent.
        state: a pytree of arrays.
        notes: what else to keep, as far as JSON can hold it.

    Raises:
        CheckpointError: if it cannot be written.
    """
    leaves = {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(state))}
    # Which orbax does not keep.
    empty = {name: leaf.shape for name, leaf in leaves.items() if leaf.size == 0}
    kept = {name: leaf for name, leaf in leaves.items() if name not in empty}
    with _manager(folder, "written") as (orbax, manager):
        step = processes.told(lambda: (manager.latest_step() or 0) + 1)
        items = {
            STATE: orbax.args.PyTreeSave(kept),
            NOTES: orbax.args.JsonSave({"notes": notes, "empty": empty}),
        }
        manager.save(step, args=orbax.args.Composite(**items))


def exists(folder: Path) -> bool:
    """Whether there is a whole checkpoint in a folder, as this process sees it."""
    return folder.is_dir() and bool(_orbax().utils.checkpoint_steps(folder))


def load(folder: Path, like: PyTree) -> tuple[PyTree, dict]:
    """Read a checkpoint.

    Args:
        folder: of the checkpoint.
        like: a pytree of arrays of the same structure, shapes and types. NumPy arrays on the host
            may have another length.

    Returns:
        The state, on the devices where `like` is, and the notes.

    Raises:
        CheckpointError: if it is broken or holds another kind of state.
        FileNotFoundError: if there is none.
    """
    if not processes.agree(exists(folder)):
        raise FileNotFoundError(folder)
    leaves, structure = jax.tree.flatten(like)
    with _manager(folder, "read") as (orbax, manager):
        step = manager.latest_step()
        read_notes = orbax.args.Composite(**{NOTES: orbax.args.JsonRestore()})
        notes = manager.restore(step, args=read_notes)[NOTES]
        empty = {name: np.empty(shape) for name, shape in notes["empty"].items()}
        kept = manager.item_metadata(step)[STATE].tree
        if not _fits(kept, empty, leaves):
            raise CheckpointError(f"{folder} holds another kind of state")
        where = {name: _placed(orbax, leaves[int(name)]) for name in kept}
        read_state = orbax.args.PyTreeRestore(restore_args=where)
        values = manager.restore(step, args=orbax.args.Composite(**{STATE: read_state}))[STATE]
    for name, value in empty.items():
        leaf = leaves[int(name)]
        values[name] = value.astype(leaf.dtype) if isinstance(leaf, np.ndarray) else leaf
    return structure.unflatten([values[str(number)] for number in range(len(leaves))]), notes[NOTES]


def remove(folder: Path) -> None:
    """Remove a checkpoint, if there is one; of several processes, the leader does."""
    if processes.leads():
        shutil.rmtree(folder, ignore_errors=True)


def _orbax():
    import orbax.checkpoint  # takes a second to load

    return orbax.checkpoint


@contextmanager
def _manager(folder, done) -> Iterator[tuple]:
    """What keeps one checkpoint in a folder, without a word of its own -> (orbax, manager)."""
    orbax = _orbax()
    options = orbax.CheckpointManagerOptions(
        max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    handlers = {STATE: orbax.PyTreeCheckpointHandler(), NOTES: orbax.JsonCheckpointHandler()}
    log = logging.getLogger("absl")  # orbax's
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with orbax.CheckpointManager(
            folder.absolute(), options=options, item_handlers=handlers
        ) as manager:
            yield orbax, manager
    except (CheckpointError, jax.errors.JaxRuntimeError):  # the latter: another process has died
        raise
    except Exception as error:  # orbax raises whatever the disk or the broken part leads to
        raise CheckpointError(f"checkpoint {folder} cannot be {done}: {error}") from error
    finally:
        log.setLevel(level)


def _placed(orbax, leaf):
    if isinstance(leaf, np.ndarray):
        return orbax.RestoreArgs(restore_type=np.ndarray)
    return orbax.ArrayRestoreArgs(sharding=leaf.sharding)


def _fits(kept, empty, leaves):
    """Whether leaves that orbax kept, and empty ones, are those of a state."""
    found = {**kept, **empty}
    if sorted(found, key=int) != [str(number) for number in range(len(leaves))]:
        return False

    def fits(value, leaf):
        whatever = 1 if isinstance(leaf, np.ndarray) else 0  # axes that may have another length
        return value.shape[whatever:] == leaf.shape[whatever:]

    same_type = all(value.dtype == leaves[int(name)].dtype for name, value in kept.items())
    return same_type and all(fits(value, leaves[int(name)]) for name, value in found.items())
