"""Many command lines of an experiment in one process, since starting one takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

CODE = """
import contextlib, io, json, sys
sys.path.insert(0, ".")
import main
found = {}
for words in json.load(sys.stdin):
    sys.argv[1:] = [*sys.argv[1:3], *words.split()]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main.main()
        except SystemExit as error:
            status = error.code
    found[words] = status, said.getvalue()
print(json.dumps(found))
"""


def outcomes(folder: Path, results: Path, command_lines: list[str]) -> dict[str, tuple[int, str]]:
    """Run command lines -> the exit status and what was said on standard error, by command line."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, "--results", str(results)],
        input=json.dumps(command_lines),
        cwd=folder,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return {words: tuple(found) for words, found in json.loads(done.stdout).items()}
