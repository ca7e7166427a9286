"""What the documents say can be done can be done: commands, links, examples, and the top level."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import experiments
import pytest
import yaml
from programs import compile_latex, run_report

import fl

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ("inversion", "performance", "mitigation")
DOCUMENTS = [
    *(ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))),
    *(ROOT / experiment / "README.md" for experiment in EXPERIMENTS),
    ROOT / "performance" / "secagg" / "README.md",
]
TOP_LEVEL = {
    *("README.md", "LICENSE", "CITATION.cff", "pyproject.toml", "run.sh", "test.sh"),
    *(*EXPERIMENTS, "fl", "tests", "docs", ".ci", ".gitignore"),
}
# Command lines without a time are run: here, or by what makes the environment of the tests.
REPORTS = {"python plot.py", "python result_tables.py"}
RUN = REPORTS | {
    "python main.py --help",
    "python -m fl.data list",
    "pip install -r requirements.txt",
}
NUMBER = r"(\d+|an?|half an?|some|two|three|five|ten)"
UNIT = r"(seconds?|minutes?|hours?|days?|weeks?)"
TIME = re.compile(rf"\b({NUMBER}( to \d+)? {UNIT}|seconds|minutes|weeks|takes long)\b|\d s\b")
# Accepts a command line as main.py does, but runs nothing of it.
ACCEPT = """
import importlib.util, json, sys
sys.path.insert(0, ".")
import main
main.run_grid = lambda runs, *rest: print(len(list(runs)), "runs") and 0
if importlib.util.find_spec("pictures"):
    import pictures
    pictures.draw = lambda *given: 0
for words in json.load(sys.stdin):
    sys.argv[1:] = words
    try:
        assert not main.main(), words
    except SystemExit as stop:
        assert not stop.code, words
"""

identified = {"ids": lambda path: str(path.relative_to(ROOT))}


def fenced(path, language):
    """Fenced blocks of a document: (rest of the opening line, text, the paragraphs around it)."""
    parts = re.split(r"^```", path.read_text(), flags=re.MULTILINE)
    for number in range(1, len(parts), 2):
        opening, text = parts[number].split("\n", 1)
        before, after = parts[number - 1].rstrip(), parts[number + 1].strip()
        if opening.split(" ")[0] == language:
            around = before.split("\n\n")[-1] + "\n" + after.split("\n\n")[0]
            yield opening.removeprefix(language).strip(), text, around


def command_lines(path):
    """Commands of a document's sh blocks: (command, what is said of it, its folder).

    What is said of a line is its comment, or where no comment of the block has a time, the
    paragraphs around it.
    """
    home = path.parent if path.parent.name in EXPERIMENTS else ROOT
    for _, text, around in fenced(path, "sh"):
        folder = ROOT / "performance" if path.parent.name == "secagg" else home
        for line in text.replace("\\\n", " ").splitlines():
            command, comment = (*re.split(r"\s#", line, maxsplit=1), "")[:2]
            for part in filter(None, map(str.strip, re.split("&&|;", command))):
                if part.startswith("cd "):
                    folder = folder / part.removeprefix("cd ")
                else:
                    said = comment if TIME.search(text) else around
                    yield " ".join(part.split()), said, folder


@pytest.mark.parametrize("path", DOCUMENTS, **identified)
def test_commands_are_run_by_a_test_or_say_how_long_they_take(path):
    for command, said, folder in command_lines(path):
        assert folder.is_dir(), f"{command}: no folder {folder}"
        assert command in RUN or TIME.search(said), f"{path.name}: {command}"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_programs_accept_what_the_documents_tell_them(experiment, tmp_path):
    found = {
        command
        for path in DOCUMENTS
        for command, _, folder in command_lines(path)
        if folder == ROOT / experiment and command.startswith("python main.py")
    }
    assert "python main.py --help" in found
    other = "--results", str(tmp_path / "results.csv")
    done = subprocess.run(
        [sys.executable, "-c", ACCEPT],
        input=json.dumps([[*shlex.split(command)[2:], *other] for command in sorted(found)]),
        cwd=ROOT / experiment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_figures_and_tables_are_made_of_the_committed_results(experiment, tmp_path):
    figures = tmp_path / "figures"
    # The trigger is drawn on real images.
    offline = ["--no-trigger"] if experiment == "mitigation" else []
    run_report(ROOT / experiment / "plot.py", "--output", figures, *offline)
    committed = {path.name for path in (ROOT / experiment / "figures").glob("*.png")}
    drawn = {path.name for path in figures.glob("*.png")}
    assert drawn
    assert drawn <= committed
    said = run_report(ROOT / experiment / "result_tables.py")
    assert said.stdout == (ROOT / experiment / "tables.tex").read_text()


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
@pytest.mark.parametrize(
    ("experiment", "kind"),
    [
        *((experiment, ()) for experiment in EXPERIMENTS),
        ("inversion", ["--dp"]),
        *((experiment, ["--compare"]) for experiment in ("inversion", "mitigation")),
    ],
)
def test_tables_of_the_committed_results_fit_on_a_page(experiment, kind, tmp_path):
    compile_latex(tmp_path, run_report(ROOT / experiment / "result_tables.py", *kind).stdout)


@pytest.mark.parametrize(
    ("experiment", "model"),
    [
        ("inversion", "lenet"),
        ("inversion", "cnn1"),
        ("mitigation", "lenet"),
        ("mitigation", "cnn1"),
    ],
)
def test_verdicts_that_are_told_are_those_of_the_committed_results(experiment, model):
    script = ROOT / experiment / "result_tables.py"
    said = run_report(script, "--compare", "--model", model).stderr
    told = tallies((ROOT / "docs" / "fidelity.md").read_text(), experiment, model)
    for words, number in told.items():
        assert (f" {number} {words}" in said) if number else (words not in said), (said, told)


def tallies(text, experiment, model):
    """What the rows of an experiment and model add up to, in the words of a tally."""
    rows = re.findall(
        rf"^\| {experiment}, {model}\b.*?\|(.*)\|$", text, re.MULTILINE | re.IGNORECASE
    )
    assert rows
    # Figures; agree; explained by departures and by guesses; unexplained; not run.
    cells = [
        [int((re.match(r"\d+", cell.strip()) or [0])[0]) for cell in row.split("|")] for row in rows
    ]
    every, agree, departures, guesses, unexplained, left = map(sum, zip(*cells, strict=True))
    words = {"agree": agree, "explained": departures + guesses, "unexplained": unexplained}
    return {"figures": every, **words, "not run": left}


def test_data_sets_are_listed():
    command = [sys.executable, "-m", "fl.data", "list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "digits" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize("path", DOCUMENTS, **identified)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)]+)\)", text)
    for link in links:
        if link.startswith("https://"):
            continue
        name, _, heading = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in slugs, link


def test_every_document_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    for path in DOCUMENTS[1:]:
        assert path.relative_to(ROOT).as_posix() in text, path


def test_the_readme_is_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_the_top_level_holds_what_a_visitor_should_see():
    command = ["git", "ls-files"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git repository")
    assert {name.split("/")[0] for name in done.stdout.splitlines()} == TOP_LEVEL


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == fl.__version__
    assert f"## {fl.__version__} (" in (ROOT / "docs" / "changelog.md").read_text()


def worked_examples():
    """Those of docs/contributing.md: module, code, test."""
    blocks = [block[:2] for block in fenced(ROOT / "docs" / "contributing.md", "python")]
    pairs = list(zip(blocks[::2], blocks[1::2], strict=True))
    assert all(said == "test" for _, (said, _) in pairs)
    return [pytest.param(where, code, test, id=where) for (where, code), (_, test) in pairs]


@pytest.mark.parametrize(("where", "code", "test"), worked_examples())
def test_worked_examples_work(where, code, test):
    if "/" in where:
        folder, name = where.removesuffix(".py").split("/")
        (module,) = experiments.load(folder, name)
    else:
        module = importlib.import_module(where)
    names = dict(vars(module))
    registry = next(names[name] for name in re.findall(r'^([A-Z]+)\["', code, re.MULTILINE))
    before = dict(registry)
    try:
        exec(code + test, names)
        tests = [name for name in names if name.startswith("test_")]
        assert tests
        for name in tests:
            names[name]()
    finally:
        registry.clear()
        registry.update(before)
