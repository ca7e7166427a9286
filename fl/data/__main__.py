"""Manage data sets from the command line: `python -m fl.data prepare | list`."""

import argparse
import sys

from fl.data import datasets, tfds_builders
from fl.data.catalogue import DATASETS, Original


def _parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(prog="python -m fl.data", description="Manage data sets.")
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser(
        "prepare", help="prepare a data set from its original files, without a network"
    )
    original = [name for name, entry in DATASETS.items() if isinstance(entry.source, Original)]
    preparing.add_argument("name", help=", ".join(original))
    preparing.add_argument("--raw", required=True, metavar="DIR", help="holds the original files")
    preparing.add_argument(
        "--unchecked", action="store_true", help="accept files that differ from the originals"
    )
    listing = commands.add_parser("list", help="say where each data set would come from")
    for command in (preparing, listing):
        command.add_argument("--data-dir", metavar="DIR", help="TFDS's data directory")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
      arguments: the command line's words; None takes the process's own.

    Returns:
      the exit code: 0, or 1 if the data are unavailable (wrong arguments exit with 2).
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    data_dir = datasets.resolve_dir(options.data_dir)
    if options.command == "list":
        for name in DATASETS:
            print(f"{name:<13} {datasets.where(name, data_dir)}")
        return 0
    try:
        name = datasets.canonical_name(options.name)
        if folder := tfds_builders.prepared_dir(name, data_dir):
            print(f"{name} is prepared already: delete {folder} to prepare it again")
        else:
            datasets.prepare(name, options.raw, data_dir, options.unchecked)
        dataset = datasets.load(name, data_dir)
    except ValueError as error:
        parser.error(str(error))
    except tfds_builders.DatasetUnavailableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{dataset.name}: {len(dataset.train_labels)} training and {len(dataset.test_labels)} test"
        f" images in {data_dir}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
