"""Rows of several results files into one: `python -m fl.experiment.merge INTO FILE ...`.

For jobs that each wrote a file of their own, such as on machines without a file system in common.
Rows that are there already are not added again, and the files are left as they are. What belongs
to a results file, its history and its curves, is merged with it.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from fl.experiment import results


def merge(into: Path, sources: Iterable[Path]) -> int:
    """Append the rows of some results files that another one lacks.

    Args:
        into: the results file, which may be absent.
        sources: the others, with the same columns.

    Returns:
        How many rows were added.

    Raises:
        results.ResultsError: for a file that is no results file, or has other columns than the
            others.
    """
    added = 0
    for source in sources:
        if not source.is_file():
            raise results.ResultsError(f"{source} is not a file")
        columns, rows = results.read_text(source)
        held = set(map(tuple, results.read_text(into)[1]))
        new = [row for row in dict.fromkeys(map(tuple, rows)) if row not in held]
        results.append(into, (dict(zip(columns, row, strict=True)) for row in new), columns)
        added += len(new)
    return added


def main() -> int:
    """Merge what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("into", type=Path, metavar="INTO", help="results file to add rows to")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="files to take them of")
    options = parser.parse_args()
    for kind in (Path, results.history_path, results.curves_path):
        sources = [path for path in map(kind, options.files) if kind is Path or path.exists()]
        try:
            print(f"{kind(options.into)}: {merge(kind(options.into), sources)} rows added")
        except results.ResultsError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
