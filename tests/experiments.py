"""The experiments' modules, many of which have the same names in each experiment's folder."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
_LOADED = {}


def load(experiment: str, *names: str) -> list[ModuleType]:
    """Import modules by their bare names, as the scripts of an experiment do.

    What other experiments call by the same names neither gets in the way nor is replaced.

    Args:
        experiment: name of its folder.
        names: of modules in it.
    """
    folder = ROOT / experiment
    own = {path.stem for path in folder.iterdir()}
    before = {name: sys.modules.pop(name) for name in own & set(sys.modules)}
    sys.modules.update(_LOADED.get(experiment, {}))
    sys.path.insert(0, str(folder))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(folder))
        _LOADED[experiment] = {name: sys.modules.pop(name) for name in own & set(sys.modules)}
        sys.modules.update(before)
