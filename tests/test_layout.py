"""Imports point one way, and nothing shadows the package."""

import ast
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXPERIMENTS = [
    name for name in ("inversion", "performance", "mitigation") if (ROOT / name).is_dir()
]
# Parts of the package that stand alone, each with what it was split into.
LEAVES = [
    {"datasets", "prepare_datasets"},
    {"partition"},
    {"progress"},
    {"hardware", "results", "summary", "tables"},
    {"sampling"},
]
# From the models up: each may import those before it, and leaves.
LAYERS = [
    {"models"},
    {"training"},
    {"algorithms", "defences", "hardening"},
    {"rounds"},
    {"simulation"},
]


def imported(path):
    """Names of all modules that a file imports, also within functions: `a`, `a.b`, `a.b.c`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = list(path.relative_to(ROOT).parent.parts)
            inside = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*inside, *filter(None, [node.module])])
            # `from fl import x` imports fl.x, or something that fl/__init__.py defines.
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def files(folder):
    found = sorted((ROOT / folder).rglob("*.py"))
    return [path for path in found if not hidden(path)]


def hidden(path):
    """Whether a path is in a virtual environment or the like."""
    return any(part.startswith(".") for part in path.relative_to(ROOT).parts)


def modules():
    return {path.stem: path for path in files("fl") if path.stem != "__init__"}


def needed(path):
    """The package's modules that a file imports."""
    names = {name.split(".")[1] for name in imported(path) if name.startswith("fl.")}
    return names & set(modules())


def test_the_package_does_not_know_the_experiments():
    inside = {path.stem for path in files("fl")}
    scripts = {path.stem for folder in EXPERIMENTS for path in files(folder)} - inside
    for path in files("fl"):
        top = {name.split(".")[0] for name in imported(path)}
        assert not top & {"inversion", "performance", "mitigation", "tests", *scripts}, path


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_do_not_import_each_other(experiment):
    own = {path.stem for path in files(experiment)}
    own |= {path.name for path in (ROOT / experiment).iterdir() if path.is_dir()}
    # Scripts of one folder import one another by their bare names.
    others = {"inversion", "performance", "mitigation", "tests"} - {experiment}
    others |= {path.stem for other in EXPERIMENTS if other != experiment for path in files(other)}
    for path in files(experiment):
        top = {name.split(".")[0] for name in imported(path)}
        assert not top & (others - own), path


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: min(leaf))
def test_leaves_stand_alone(leaf):
    for name in leaf & set(modules()):
        assert needed(modules()[name]) <= leaf, name


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_layers_import_what_is_below_them(number):
    below = set().union(*LEAVES, *LAYERS[:number])
    for name in LAYERS[number] & set(modules()):
        assert needed(modules()[name]) <= below, name


def test_no_imports_go_round_in_circles():
    graph = {name: needed(path) for name, path in modules().items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circular import: {' -> '.join(error.args[1])}")
    assert {"models", "simulation"} <= set(order)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_nothing_in_an_experiment_shadows_the_package(experiment):
    found = [*(ROOT / experiment).rglob("fl"), *(ROOT / experiment).rglob("fl.py")]
    assert not [path for path in found if not hidden(path)]


def test_the_package_that_is_installed_is_exactly_fl():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["packages"] == ["fl"]
    # A folder within it would be left out of what is installed.
    assert all(path.parent == ROOT / "fl" for path in files("fl"))
