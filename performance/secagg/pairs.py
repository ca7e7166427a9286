"""Masks of pairs of clients, of which one is gone: most of a server's time goes here.

Other processes help where the work is worth it. Threads do not: agreeing on a key holds Python's
lock, and it takes a thread longer to wake than to expand a mask of 100,000 entries.
"""

import atexit
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from secagg import keys, masks

# For how many entries' mask a key takes as long to agree on.
KEY_ENTRIES = 60_000
# Entries, with those of keys, from which on others help: half a second's.
WORTH = 1 << 29


class Gone(NamedTuple):
    """A client that is gone, with those neighbours that masked their vectors for it.

    Attributes:
        private: its masking key, 32 bytes.
        partners: for each neighbour, its public masking key, and whether to subtract the mask,
            which is what the neighbour added.
    """

    private: bytes
    partners: list[tuple[bytes, bool]]


class Round(NamedTuple):
    """What is known of a round: context and number of its `Parameters`, and a vector's length."""

    context: bytes
    number: int
    entries: int


def undo(total: np.ndarray, gone: Gone, known: Round) -> None:
    """Undo the masks for a client that is gone in the sum of vectors, uint64 [entries]."""
    private = X25519PrivateKey.from_private_bytes(gone.private)
    for public, subtract in gone.partners:
        key = keys.agree(private, public, "mask", known.context)
        masks.add(total, key, known.number, subtract)


class Undoing:
    """The masks of many that are gone, undone by other processes while this one does else."""

    def __init__(self, gone: Iterable[Gone], known: Round, cores: int):
        """Begin.

        Args:
            gone: whose masks.
            known: of the round.
            cores: how many processes may work, this one with them.
        """
        self._left, self._known = deque(gone), known
        pairs = sum(len(each.partners) for each in self._left)
        worth = pairs * (known.entries + KEY_ENTRIES) >= WORTH
        helpers = _helpers(cores - 1) if worth and cores > 1 else ()
        self._pool = ThreadPoolExecutor(max(1, len(helpers)))
        self._helped = [self._pool.submit(self._by, helper) for helper in helpers]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._left.clear()
        self._pool.shutdown()

    def add_to(self, total: np.ndarray) -> None:
        """Help with the rest, and add all of it to the sum, uint64 [entries]."""
        while (gone := self._next()) is not None:
            undo(total, gone, self._known)
        for helped in self._helped:
            total += helped.result()

    def _by(self, helper):
        """What a process makes of those that it gets, one after the other."""
        part = np.zeros(self._known.entries, np.uint64)
        while (gone := self._next()) is not None:
            part += helper.undone(gone, self._known)
        return part

    def _next(self):
        try:
            return self._left.popleft()
        except IndexError:
            return None


class _Helper:
    """A process that undoes masks until this one ends, see `helper`.

    It is started afresh: a fork of this one would have JAX's locks without its threads.
    """

    def __init__(self):
        path = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "secagg.helper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
            process_group=0,  # an interrupt is for this process
        )
        atexit.register(self._end)

    def _end(self):
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()

    def undone(self, gone, known):
        try:
            pickle.dump((gone, known), self._process.stdin)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (BrokenPipeError, EOFError) as error:
            _helpers.cache_clear()  # the next round starts others
            raise ChildProcessError("a process that helped to take masks off has ended") from error


@lru_cache
def _helpers(count):
    return tuple(_Helper() for _ in range(count))
