"""Rows say which code they come from, and no run goes on under other code than it began with."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import DIES, RUNS

from fl.experiment import results
from fl.experiment.provenance import code, digest, provenance, sources

ROOT = Path(__file__).parents[1]

PROGRAM = {
    "main.py": "import helper\ndef late():\n    from steps import first\n",
    "helper.py": "VALUE = 1\n",
    "runs.py": "class Run:\n    pass\n",
    "plot.py": "import helper\n",
    "steps/__init__.py": "",
    "steps/first.py": "from . import second\nfrom steps.second import VALUE\n",
    "steps/second.py": "VALUE = 2\n",
}


@pytest.fixture
def program(tmp_path):
    """A folder with a program of some modules."""
    for name, text in PROGRAM.items():
        path = tmp_path / "program" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    return tmp_path / "program"


@pytest.fixture
def kind(program, monkeypatch):
    """The program's `Run`."""
    spec = importlib.util.spec_from_file_location("runs_of_a_program", program / "runs.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module.Run


@pytest.mark.parametrize("name", PROGRAM)
def test_the_code_is_what_the_program_imports(program, name):
    before = digest(sources(program / "main.py"))
    edited = program / name
    edited.write_text(edited.read_text() + "\n# edited\n")
    differs = digest(sources(program / "main.py")) != before
    assert differs == (name not in ("plot.py", "runs.py"))  # what nothing imports


def test_line_ends_and_the_place_of_the_folder_are_no_code(program, tmp_path):
    before = digest(sources(program / "main.py"))
    moved = program.rename(tmp_path / "moved")
    for path in moved.rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert digest(sources(moved / "main.py")) == before


@pytest.mark.parametrize("experiment", ["inversion", "performance", "mitigation"])
def test_all_modules_that_a_program_loads_are_among_its_sources(experiment):
    folder = ROOT / experiment
    script = (
        "import sys; sys.path.insert(0, '.'); import main\n"
        "print(*filter(None, (getattr(m, '__file__', 0) for m in sys.modules.values())), sep='\\n')"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    loaded = {(folder / line).resolve() for line in done.stdout.splitlines()}
    own = {path for path in loaded if path.is_relative_to(folder)}
    own |= {path for path in loaded if path.is_relative_to(ROOT / "fl")}
    assert folder / "main.py" in own
    assert ROOT / "fl" / "simulation" / "algorithms.py" in own
    found = sources(folder / "main.py")
    assert own <= set(found.values())
    assert not {"plot.py", "result_tables.py"} & set(found)


def test_the_commit_is_named_where_there_is_one(program, kind):
    assert code(kind).commit == ""

    def git(*arguments):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=program, check=True, capture_output=True)

    def commit():
        code.cache_clear()
        return code(kind).commit

    git("init")
    git("add", ".")
    git("commit", "-m", "One")
    head = commit()
    assert len(head) >= 7
    assert not head.endswith("+")
    (program / "plot.py").write_text("# not computed with\n")
    assert commit() == head
    (program / "helper.py").write_text("VALUE = 3\n")
    assert commit() == head + "+"
    git("commit", "-am", "Two")
    assert commit() not in (head, head + "+")
    (program / "late.py").write_text("")
    (program / "helper.py").write_text("import late\n")
    git("commit", "-am", "Three")
    assert commit().endswith("+"), "a module that git does not know"


def test_provenance_fits_a_results_file(tmp_path, kind):
    path, found = tmp_path / "results.csv", provenance(kind())
    assert tuple(found) == results.PROVENANCE
    assert all(found.values())
    results.append(path, [found], results.PROVENANCE)
    assert results.matches(results.read(path), found).all()
    assert found["code"].startswith(digest(sources(tmp_path / "program" / "main.py")))


@pytest.fixture
def copy(tmp_path):
    """A copy of the package and an experiment, and what runs its main.py."""
    ignored = shutil.ignore_patterns("*.csv", "__pycache__", ".checkpoints", "figures", "quick")
    for folder in ("fl", "performance"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)

    def run(*words, before="", status=0):
        options = ["--efficient", "-m", "softmax", "-r", "6", "-a", "secadam", *words]
        done = subprocess.run(
            [sys.executable, "-c", before + RUNS, "--results", tmp_path / "results.csv", *options],
            cwd=tmp_path / "performance",
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
        return done.stdout

    run.folder = tmp_path
    return run


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_edited_algorithm_neither_resumes_nor_passes_for_the_same(copy):
    folder, path = copy.folder, copy.folder / "results.csv"

    def checkpoints():
        return list(folder.glob(".checkpoints/*"))

    algorithms = folder / "fl" / "simulation" / "algorithms.py"
    copy(before=DIES, status=-9)
    assert len(checkpoints()) == 1

    edit(algorithms, "B1, B2 = 0.9, 0.999", "B1, B2 = 0.5, 0.999")
    copy("-s", "0", "1")
    assert len(checkpoints()) == 1, "left for the code that it belongs to"
    edited = results.read(path)["code"][0]
    header, first, second = path.read_text().splitlines()
    path.write_text("\n".join([header, first, second.replace(edited, ""), ""]))

    edit(algorithms, "B1, B2 = 0.5, 0.999", "B1, B2 = 0.9, 0.999")
    edit(folder / "performance" / "plot.py", "import math", "import math  # edited")
    said = copy("-s", "0", "1", "--skip-done")
    assert "2 of 2 runs are already in" in said
    assert f"1 of these by other code ({edited}) than the present" in said
    assert "1 of these by other code (not recorded)" in said
    assert "softmax secadam lda 0.5 1 local step, seed 1" in said

    copy()
    assert not checkpoints(), "plots are not computed with: the run went on"
    said = copy("--skip-done")
    assert "other code" not in said
