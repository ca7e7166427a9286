"""A grid as command lines, one for each cell that is left, for a scheduler to run."""

import hashlib
import itertools
import json
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

from fl.experiment import results
from fl.experiment.departures import Departures
from fl.experiment.runs import cells


def print_left(
    options: Any, grid: Callable[[Any], Iterable[Any]], together: Collection[str] = ()
) -> int:
    """Print a command line for each cell of a grid that the results file does not hold.

    Each changes into the program's folder, runs one cell and skips it if it is there by then. What
    follows the # at its end stands for its runs: commands with the same of it do the same.

    Args:
        options: as parsed, of which those with several values are narrowed to one.
        grid: options -> the runs that they ask for.
        together: options that stay as they are, since runs which differ in them share work.

    Returns:
        The exit status, 0.
    """
    held, listed = results.read(options.results), set()
    for narrowed in _narrowed(options, together):
        runs = [run for run in grid(narrowed) if held.empty or not _is_held(held, run)]
        key = _key(runs)
        if runs and key not in listed:
            listed.add(key)
            print(f"{_command(narrowed)} # {key}")
    return 0


def _narrowed(options: Any, together: Collection[str]) -> Iterator[Any]:
    """The options with one value for each that takes several, in every combination."""
    several = [
        item.name
        for item in fields(options)
        if item.metadata.get("nargs") == "+" and item.name not in together
    ]
    # An option that was not given may be empty: then there is nothing to narrow.
    values = [getattr(options, name) or (None,) for name in several]
    for chosen in itertools.product(*values):
        given = {
            name: (value,)
            for name, value in zip(several, chosen, strict=True)
            if getattr(options, name)
        }
        yield replace(options, **given)


def _is_held(held, run):
    return bool(results.matches(held, cells(run)).any())


def _key(runs):
    text = json.dumps([asdict(run) for run in runs], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _command(options):
    program = Path(sys.argv[0]).resolve()
    words = [sys.executable, program.name, "--skip-done"]
    for item in fields(options):
        value = getattr(options, item.name)
        if item.name not in ("list", "plan", "skip_done") and _is_given(item, value):
            words += _words(item, value)
    return f"cd {shlex.quote(str(program.parent))} && {shlex.join(words)}"


def _is_given(item, value):
    return item.name == "results" or item.default is MISSING or value != item.default


def _words(item, value):
    """An option as it is written on the command line."""
    name = f"--{item.name.replace('_', '-')}"
    if value is True:
        return [name]
    if isinstance(value, Departures):
        return [f"{name}={','.join(str(value).split())}"]
    if "const" in item.metadata and value == item.metadata["const"]:
        return [name]
    values = value if isinstance(value, tuple) else (value,)
    return [name, *(str(each.resolve() if isinstance(each, Path) else each) for each in values)]
