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
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            status = main.main()
        except SystemExit as error:
            status = error.code
    found[words] = status, said.getvalue()
print(json.dumps(found))
"""


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


def run_script(script, *arguments, status=0, cwd=None):
    """Run a script that must neither warn nor show a traceback."""
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return done


def markdown_tables(folder, path, *arguments):
    """Captions and rows (lists of cells) of an experiment's tables for GitHub."""
    output = run_script(folder / "result_tables.py", "--results", path, "--markdown", *arguments)
    blocks = output.stdout.strip().split("\n\n")
    rows = [
        [[cell.strip() for cell in line.strip("|").split(" |")] for line in block.splitlines()]
        for block in blocks[1::2]
    ]
    return list(zip(blocks[::2], rows, strict=True))


def compile_latex(folder, text):
    """Typeset tables in two columns, which none of them may exceed."""
    (folder / "paper.tex").write_text(
        "\\documentclass[twocolumn]{article}\n\\usepackage{booktabs}\n"
        f"\\begin{{document}}\n{text}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout
