"""A process that undoes masks for another: jobs come by standard input, as `pairs` sends them."""

import pickle
import sys

import numpy as np

from secagg.pairs import undo


def main() -> None:
    """Answer each (`Gone`, `Round`) with what it adds to the sum, until there are no more."""
    while True:
        try:
            gone, known = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        total = np.zeros(known.entries, np.uint64)
        undo(total, gone, known)
        pickle.dump(total, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
