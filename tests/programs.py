"""Many command lines of an experiment in one process, since starting one takes seconds."""

import contextlib
import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

CODE = """
import contextlib, io, json, sys
sys.path.insert(0, ".")
import main
found = {}
for words in json.load(sys.stdin):
    sys.argv[1:] = [*sys.argv[1:3], *words.split()]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            status = main.main()
        except SystemExit as error:
            status = error.code
    found[words] = status, said.getvalue()
print(json.dumps(found))
"""

# Put before what starts a program: checkpoints after every round, and a kill right after the third.
DIES = """
import os, signal
from fl.simulation import checkpoint, keeping
keeping.CHECKPOINT_EVERY, save, saves = 0.0, checkpoint.save, []
def save_and_die(*arguments):
    save(*arguments)
    saves.append(1)
    if len(saves) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save = save_and_die
"""
RUNS = "import sys; sys.path.insert(0, '.'); import main; sys.exit(main.main())"


def outcomes(folder: Path, results: Path, command_lines: list[str]) -> dict[str, tuple[int, str]]:
    """Run command lines -> the exit status and all that was said, by command line."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, "--results", str(results)],
        input=json.dumps(command_lines),
        cwd=folder,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return {words: tuple(found) for words, found in json.loads(done.stdout).items()}


def assert_refused(folder: Path, results: Path, refused: dict[str, str]) -> None:
    """Check that command lines exit with status 2 and a sentence, before anything is written.

    Args:
        folder: of the experiment.
        results: a results file that is not there.
        refused: command line -> part of the sentence.
    """
    found = outcomes(folder, results, list(refused))
    for words, sentence in refused.items():
        status, said = found[words]
        assert status == 2, words
        assert sentence in said, said
    assert not results.exists()


class Said(NamedTuple):
    """What a program said."""

    stdout: str
    stderr: str


def run_report(script, *arguments, status=0):
    """Run a plot or table script as a user does, but in this process, where warnings are errors."""
    before = set(sys.modules)
    out, err, found = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        patch.syspath_prepend(script.parent)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as stop:
                found = stop.code if isinstance(stop.code, int) else 1
                err.write("" if isinstance(stop.code, int) else f"{stop.code}\n")
    # Another experiment's scripts have the same names.
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == script.parent:
            del sys.modules[name]
    assert found == status, err.getvalue()
    return Said(out.getvalue(), err.getvalue())


def markdown_rows(text):
    """A table for GitHub -> rows, lists of cells; the second one is the rule."""
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        for line in text.splitlines()
    ]


def markdown_tables(folder, path, *arguments):
    """Captions and rows of an experiment's tables for GitHub."""
    output = run_report(folder / "result_tables.py", "--results", path, "--markdown", *arguments)
    blocks = output.stdout.strip().split("\n\n")
    return list(zip(blocks[::2], map(markdown_rows, blocks[1::2]), strict=True))


def compile_latex(folder, text):
    """Typeset tables in two columns, which none of them may exceed, nor a page."""
    (folder / "paper.tex").write_text(
        "\\documentclass[twocolumn]{article}\n\\usepackage{booktabs}\n"
        f"\\begin{{document}}\n{text}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout
    assert "too large" not in done.stdout
