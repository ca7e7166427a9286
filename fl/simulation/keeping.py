"""When a run keeps checkpoints, and how one goes on from them."""

import time
import warnings
from collections.abc import Mapping
from pathlib import Path

from fl.data.sampling import MinibatchSampler
from fl.simulation import checkpoint, processes
from fl.simulation.engine import packed, unpacked
from fl.simulation.rounds import State

# Seconds between checkpoints: what a kill may cost, unless rounds between them are chosen.
CHECKPOINT_EVERY = 60.0
# One that takes more seconds than this makes that longer, in proportion.
QUICK_SAVE = 6.0
_chosen_rounds = [None]


def choose_checkpoint_rounds(rounds: int | None) -> None:
    """Choose how many rounds there are between checkpoints; None for some time between them."""
    _chosen_rounds[:] = [rounds]


def stand(path: Path, state: State, sampler: MinibatchSampler) -> State:
    """Go back to a copy of a state that a run kept.

    Args:
        path: of the copy.
        state: of the same federation, after whatever rounds.
        sampler: a new one; it is put where that of the run stood.
    """
    state, generators, _ = _load(path, state, sampler)
    sampler.restore(generators)
    return state


class Keeper:
    """Keeps the states of a run on the disk: the latest one, and copies of some rounds'."""

    def __init__(self, saved: Path | None, copies: Mapping[int, Path]):
        """Keep nothing yet.

        Args:
            saved: of checkpoints, and of one of a run that was interrupted; None for none.
            copies: number of rounds done -> where to keep a copy of the state then.
        """
        self._saved, self._copies = saved, copies
        self._last_saved = time.perf_counter()
        self._save_s = 0.0  # that the last checkpoint took

    def look(self, like: State, sampler: MinibatchSampler) -> tuple[State, dict] | None:
        """The state and the notes of the last checkpoint, if there is one that can be used.

        Args:
            like: a state of the same federation.
            sampler: it is put where that of the interrupted run stood.
        """
        if self._saved is None:
            return None
        try:
            state, generators, notes = _load(self._saved, like, sampler)
        except FileNotFoundError:
            return None
        except checkpoint.CheckpointError as error:
            if processes.several():  # the others may have read it
                raise
            warnings.warn(f"{error}: starting from the first round", stacklevel=4)
            return None
        passed = [path for number, path in self._copies.items() if number <= notes["done"]]
        if not processes.agree(all(map(checkpoint.exists, passed))):
            return None  # another process did not want these copies: make them now
        sampler.restore(generators)
        return state, notes

    def goals(self, done: int) -> list[int]:
        """Rounds after which the run is to stop for a moment, of those that are to come."""
        goals = [number for number in self._copies if number > done]
        if _chosen_rounds[0]:
            goals.append((done // _chosen_rounds[0] + 1) * _chosen_rounds[0])
        return goals

    def is_due(self, done: int, evaluates: bool) -> bool:
        """Whether a checkpoint is; large ones are made less often.

        Args:
            done: number of rounds.
            evaluates: whether the run stops here to evaluate.
        """
        if self._saved is None:
            return False
        if _chosen_rounds[0]:
            return done % _chosen_rounds[0] == 0
        # Several processes save together, where they stop to evaluate anyway.
        if processes.several() and not evaluates:
            return False
        waited = time.perf_counter() - self._last_saved
        return processes.agree(waited > CHECKPOINT_EVERY * max(1.0, self._save_s / QUICK_SAVE))

    def save(self, done: int, state: State, sampler: MinibatchSampler, notes: dict) -> None:
        """Write a checkpoint, with notes that JSON can hold."""
        began = time.perf_counter()
        try:
            _write(self._saved, done, state, sampler, notes)
        except checkpoint.CheckpointError as error:
            if processes.several():  # the others may wait for this one's part
                raise
            # A full disk must not end a run that can still finish.
            warnings.warn(f"no checkpoint: {error}", stacklevel=3)
        self._last_saved = time.perf_counter()
        self._save_s = self._last_saved - began

    def is_copied(self, done: int) -> bool:
        """Whether a copy is asked for after so many rounds."""
        return done in self._copies

    def copy(self, done: int, state: State, sampler: MinibatchSampler) -> None:
        """Write the copy that is asked for here."""
        _write(self._copies[done], done, state, sampler, {})


def _write(path, done, state, sampler, notes):
    checkpoint.save(path, (packed(state), sampler.state()), {"done": done, **notes})


def _load(path, state, sampler):
    """What a checkpoint holds -> (state, where the generators stand, notes)."""
    like = packed(state), sampler.state()
    (loaded, generators), notes = checkpoint.load(path, like)
    return unpacked(loaded, state), generators, notes
