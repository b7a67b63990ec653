"""The code behind a result: the source files that a stage depends on, and their commit."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grimp

from empg.config import ADVANTAGES, ENVIRONMENTS, MODULATIONS, Method
from empg.files import file_digest

PACKAGE = Path(__file__).parent
# These modules change a stage's result only through its resolved configuration, which is an input of its own: the
# package's lazy names, the models of the configuration (a package), the registries and the types of errors.
NOT_SOURCES = frozenset({"empg", "empg.config", "empg.errors", "empg.registry"})
CONFIG_SOURCES = frozenset({"empg.config.methods"})  # says which functions the built-in methods call


def sources(module: str, environment: str | None = None) -> list[Path]:
    """The files that a stage's result depends on, found without importing them.

    They are the modules that ``module`` imports, at any depth and also inside functions, and the files in ``assets``
    and ``templates`` beside them. With an ``environment``, they include its registration and its data set, from any
    package. They never include other environments.
    """
    roots = [module]
    if environment is not None:
        roots += [ENVIRONMENTS.module(environment), ENVIRONMENTS[environment].dataset.partition(":")[0]]
    return _closure(tuple(roots))


@cache
def _closure(roots: tuple[str, ...]) -> list[Path]:
    graph = _import_graph(tuple(sorted({PACKAGE.name, *(root.partition(".")[0] for root in roots)})))
    pending, seen = [*roots], set()
    while pending:
        name = pending.pop()
        if name in seen or name not in graph.modules or not _is_source(name):
            continue
        seen.add(name)
        pending += graph.find_modules_directly_imported_by(name)
        pending += [name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)]  # its parent packages run first
    modules = {_file(name) for name in seen}
    beside = {path for file in modules for name in ("assets", "templates") for path in (file.parent / name).glob("*")}
    return sorted(path for path in {*modules, *beside} if path.is_file() and path.stat().st_size)


@cache
def _import_graph(packages: tuple[str, ...]) -> grimp.ImportGraph:
    return grimp.build_graph(*packages, cache_dir=None)


def _is_source(name: str) -> bool:
    is_model = name.startswith("empg.config.") and name not in CONFIG_SOURCES
    return name not in NOT_SOURCES and not is_model


def _file(name: str) -> Path:
    """The source file of a module."""
    spec = find_spec(name.partition(".")[0])
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def source_hashes(module: str, environment: str | None = None) -> dict[str, str]:
    """SHA-256 of each source file of a stage, by its path from the top-level package."""
    return _hashes([module, *([ENVIRONMENTS.module(environment)] if environment else [])], sources(module, environment))


def method_sources(method: Method) -> dict[str, str]:
    """SHA-256 of each source file of a method that another package registered. Empty for a built-in method."""
    functions = [ADVANTAGES[method.advantage].function, MODULATIONS[method.modulation].function]
    roots = [ADVANTAGES.module(method.advantage), MODULATIONS.module(method.modulation)]
    roots += [function.partition(":")[0] for function in functions]
    others = tuple(root for root in roots if root.partition(".")[0] != PACKAGE.name)
    own = [path for path in _closure(others) if not path.is_relative_to(PACKAGE)] if others else []
    return _hashes(list(others), own)


def _hashes(modules: list[str], paths: list[Path]) -> dict[str, str]:
    """SHA-256 of each file, by its path from the top-level package of one of the modules."""
    packages = {PACKAGE.name, *(module.partition(".")[0] for module in modules)}
    parents = [_file(package).parent.parent for package in sorted(packages)]
    return {_within(path, parents): file_digest(path) for path in paths}


def _within(path: Path, parents: list[Path]) -> str:
    return next(path.relative_to(parent) for parent in parents if path.is_relative_to(parent)).as_posix()


@cache
def commit() -> dict[str, Any]:
    """``commit`` of the git repository that holds this package, and ``dirty``: has the package changed since?

    Both are None without git and outside a repository.
    """
    name = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", str(PACKAGE))
    known = name is not None and _git("ls-files", "--error-unmatch", str(PACKAGE / "__init__.py")) is not None
    return {"commit": name, "dirty": bool(changes)} if known else {"commit": None, "dirty": None}


def _git(*arguments: str) -> str | None:
    """The output of git; None where git fails or is missing."""
    try:
        result = subprocess.run(["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
