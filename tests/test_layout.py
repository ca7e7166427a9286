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
# The package from the bottom up: each module may import those before it, and no others.
LAYERS = [
    {"fl", "fl.files", "fl.progress", "fl.simulation", "fl.data", "fl.experiment"},
    {"fl.experiment.lines"},
    {
        *("fl.data.catalogue", "fl.data.partition", "fl.data.generators", "fl.data.augmentation"),
        *("fl.simulation.hardware", "fl.simulation.models", "fl.simulation.algorithms"),
        *("fl.simulation.pgd", "fl.simulation.clip_and_noise", "fl.simulation.processes"),
        *("fl.simulation.placing", "fl.simulation.resting"),
        *("fl.experiment.options", "fl.experiment.departures", "fl.experiment.hypotheses"),
    },
    {
        *("fl.data.tfds_builders", "fl.data.sampling", "fl.experiment.runs"),
        *("fl.simulation.mapping", "fl.simulation.devices"),
    },
    {"fl.simulation.sharding", "fl.simulation.checkpoint"},
    {"fl.data.datasets"},
    {"fl.data.__main__", "fl.simulation.training", "fl.simulation.rounds"},
    {"fl.simulation.pooling", "fl.simulation.dispatch"},
    {"fl.simulation.engine"},
    {"fl.simulation.keeping"},
    {"fl.simulation.run", "fl.bench"},
    {"fl.scale_bench"},
    {"fl.experiment.results", "fl.experiment.provenance", "fl.experiment.summary"},
    {"fl.experiment.estimate", "fl.experiment.tables", "fl.experiment.names"},
    {"fl.experiment.cells", "fl.experiment.merge"},
    {"fl.experiment.program"},
    {"fl.experiment.layout", "fl.experiment.reports", "fl.experiment.startup"},
    {"fl.experiment.figures", "fl.experiment.comparison"},
    {"fl.experiment.comparison_figure", "fl.experiment.ablation"},
]


def module(path):
    """Name of a module of the package: `fl`, `fl.data`, `fl.data.datasets`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def hidden(path):
    """Whether a path is in a virtual environment or the like."""
    return any(part.startswith(".") for part in path.relative_to(ROOT).parts)


def files(folder):
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if not hidden(path)]


MODULES = {module(path): path for path in files("fl")}


def imported(path):
    """Names of all that a file imports, also within functions: `a`, `a.b`, `a.b.c`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            # `from fl.data import x` imports fl.data.x, or what fl/data/__init__.py defines.
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def needed(name):
    """The package's modules that one of them imports; that they load what they are in goes
    without saying.
    """
    return (imported(MODULES[name]) & set(MODULES)) - {"fl.data", "fl.simulation", "fl.experiment"}


def test_every_module_has_its_layer():
    placed = [name for layer in LAYERS for name in layer]
    assert sorted(placed) == sorted(MODULES)


@pytest.mark.parametrize("number", range(len(LAYERS)), ids=lambda number: min(LAYERS[number]))
def test_modules_import_what_is_in_layers_below(number):
    below = set().union(*LAYERS[:number])
    for name in LAYERS[number]:
        assert needed(name) <= below, name


def test_the_simulation_and_the_data_do_not_know_what_programs_share():
    for name in MODULES:
        if name.startswith(("fl.simulation", "fl.data")):
            assert not any(other.startswith("fl.experiment") for other in needed(name)), name


def test_the_package_does_not_know_the_experiments():
    scripts = {path.stem for folder in EXPERIMENTS for path in files(folder)}
    for name, path in MODULES.items():
        top = {imported_name.split(".")[0] for imported_name in imported(path)}
        assert not top & {"tests", *EXPERIMENTS, *scripts}, name


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


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_no_imports_go_round_in_circles(experiment):
    found = {path.stem: path for path in files(experiment)}
    graph = {name: imported(path) & set(found) - {name} for name, path in found.items()}
    try:
        assert "main" in TopologicalSorter(graph).static_order()
    except CycleError as error:
        pytest.fail(f"circular import: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_all_experiments_have_the_same_modules_for_the_same_jobs(experiment):
    names = ("main", "options", "runs", "federation", "recording", "plot", "result_tables")
    held = {path.name for path in (ROOT / experiment).iterdir()}
    others = {"experiment.sh", "requirements.txt", "README.md", "results.csv"}
    assert {f"{name}.py" for name in names} | others <= held


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_nothing_in_an_experiment_shadows_the_package(experiment):
    found = [*(ROOT / experiment).rglob("fl"), *(ROOT / experiment).rglob("fl.py")]
    assert not [path for path in found if not hidden(path)]


def test_what_is_installed_is_the_whole_package_and_nothing_else():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {module(path) for path in files("fl") if path.stem == "__init__"}
    assert set(settings["tool"]["setuptools"]["packages"]) == packages
    assert {path.parent for path in files("fl")} == {ROOT.joinpath(*p.split(".")) for p in packages}
