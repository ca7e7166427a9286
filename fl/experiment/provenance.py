"""Where a row comes from: the code, the hardware, the versions, the date."""

import ast
import hashlib
import inspect
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax

import fl
from fl.simulation import hardware


def provenance(run: Any) -> dict[str, str]:
    """The columns `results.PROVENANCE` of a run that is done: what it was computed on, and when.

    Args:
        run: an instance of an experiment's `Run`.
    """
    return {
        "backend": jax.default_backend(),
        "hardware": hardware.describe(jax.devices()),
        "jax": jax.__version__,
        "version": fl.__version__,
        "code": str(code(type(run))),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


class Code(NamedTuple):
    """What runs are computed with.

    Attributes:
        digest: 12 hex digits of the SHA-256 of its sources.
        commit: the git commit that is checked out, with a + where these sources differ from it;
            empty where there is none.
    """

    digest: str
    commit: str

    def __str__(self) -> str:
        """As the column `code` has it."""
        return f"{self.digest} {self.commit}".rstrip()


# Once a process, which goes on with what it has loaded whatever becomes of the files.
@lru_cache
def code(kind: type) -> Code:
    """Which code computes the runs of a kind: what `main.py` imports, in its folder and of `fl`.

    Args:
        kind: an experiment's `Run`, from a module beside its main.py.
    """
    main = Path(inspect.getfile(kind)).resolve().with_name("main.py")
    found = sources(main)
    return Code(digest(found), _commit(main.parent, [*found.values()]))


def sources(main: Path) -> dict[str, Path]:
    """The modules that a program loads or may load, also within functions.

    Args:
        main: the program, in a folder whose modules it imports by their bare names.

    Returns:
        Path from that folder, or `fl/...` -> file, for those of that folder and of `fl`.
    """
    package = Path(fl.__file__).resolve().parent
    names, left = {}, [main]
    while left:
        path = left.pop()
        root = package.parent if path.is_relative_to(package) else main.parent
        name = path.relative_to(root).as_posix()
        if name not in names:
            names[name] = path
            left += _imported(path, main.parent, package.parent)
    return names


def digest(modules: dict[str, Path]) -> str:
    """Twelve hex digits that stand for the names and the content of some modules."""
    # As text, since line ends depend on how the files were checked out.
    texts = [(name, path.read_text("utf-8")) for name, path in sorted(modules.items())]
    return hashlib.sha256(repr(texts).encode()).hexdigest()[:12]


def _imported(path: Path, folder: Path, above_package: Path) -> Iterator[Path]:
    """Files of the modules that one imports, as far as they are in the folder or in `fl`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names, level = [alias.name for alias in node.names], 0
        elif isinstance(node, ast.ImportFrom):
            module = [node.module] if node.module else []
            # What is imported from a package may be a module of it.
            names = [".".join([*module, alias.name]) for alias in node.names]
            level = node.level
        else:
            continue
        for parts in (name.split(".") for name in names):
            inside = above_package if parts[0] == fl.__name__ else folder
            root = path.parents[level - 1] if level else inside
            for length in range(1, len(parts) + 1):  # a package's __init__ is loaded too
                stem = root.joinpath(*parts[:length])
                candidates = stem.with_suffix(".py"), stem / "__init__.py"
                yield from filter(Path.is_file, candidates)


def _commit(folder: Path, paths: list[Path]) -> str:
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)

    try:
        head = git("rev-parse", "--short", "HEAD")
    except OSError:  # no git
        return ""
    if head.returncode:
        return ""
    tracked = git("ls-files", "--error-unmatch", "--", *paths)
    same = git("diff", "--quiet", "HEAD", "--", *paths)
    return head.stdout.strip() + ("+" if tracked.returncode or same.returncode else "")
