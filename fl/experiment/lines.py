"""A program's command lines one after the other in one process: to start Python takes seconds.

    python -m fl.experiment.lines main.py <LINES

For what takes no time itself, such as --plan and --list: what computes has a process of its own,
whose memory goes with it. The program lies in the present folder and has a function `main`, which
takes its arguments from `sys.argv` and returns an exit status.
"""

import importlib
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path


def run_lines(program: Path, main: Callable[[], int], lines: Iterable[str]) -> int:
    """Run a program with one line of arguments after the other.

    One that is refused does not keep the others from running.

    Args:
        program: its file.
        main: runs it with the arguments in `sys.argv`.
        lines: arguments as a shell reads them.

    Returns:
        The exit status: 0, or that of the last line that had another; 130 if the user interrupted.
    """
    status = 0
    for line in lines:
        sys.argv = [str(program), *shlex.split(line)]
        try:
            status = main() or status
        except SystemExit as refused:  # argparse ends programs with it
            status = refused.code or status
        except KeyboardInterrupt:
            return 130
    return status


if __name__ == "__main__":
    path = Path(sys.argv[1])
    sys.exit(run_lines(path, importlib.import_module(path.stem).main, sys.stdin))
