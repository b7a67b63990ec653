"""A griffe extension: Sphinx roles in docstrings become cross-references of the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:mod|func|class|meth|data):`(~?)([\w.]+)`")
_logger = griffe.get_logger("roles")


class Roles(griffe.Extension):
    """Turns ``:func:`~empg.files.write_text` `` and its like into Markdown, once a package has been read.

    The look-up of a name starts at the object whose docstring holds it, as in Python, and goes on to the root. A
    private name becomes code. An unknown name is a warning, which fails a strict build.
    """

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self._visit(pkg)

    def _visit(self, item: griffe.Object) -> None:
        if item.docstring:
            item.docstring.value = ROLE.sub(lambda match: reference(item, *match.groups()), item.docstring.value)
        for member in item.members.values():
            if isinstance(member, griffe.Object):
                self._visit(member)


def reference(item: griffe.Object, short: str, name: str) -> str:
    """Markdown for the role's target: a cross-reference to its canonical path, or code where it is private."""
    text = f"`{name.rpartition('.')[2] if short else name}`"
    target = find(item, name)
    if target is None:
        _logger.warning(f"{item.path}: expected the name of an object of this package, found {name!r}")
        return text
    private = any(part.startswith("_") for part in target.split("."))
    return text if private else f"[{text}][{target}]"


def find(item: griffe.Object, name: str) -> str | None:
    """The canonical path of the object that ``name`` means in the docstring of ``item``; None if there is none."""
    scope: griffe.Object | None = item
    while scope is not None:
        if found := member(scope, name) or nearby(scope, name):
            return found
        scope = scope.parent
    package = item.package
    return package.path if name == package.path else member(package, name.removeprefix(f"{package.path}."))


def member(scope: griffe.Object, name: str) -> str | None:
    """The canonical path of the object of this dotted name in ``scope``."""
    try:
        return str(scope[name].canonical_path)
    except (KeyError, griffe.AliasResolutionError):
        return None


def nearby(scope: griffe.Object, name: str) -> str | None:
    """The only object of this name in a module of the package ``scope``, at any depth."""
    if not scope.is_init_module:
        return None
    modules, paths = [scope], set()
    while modules:
        module = modules.pop()
        modules += [inner for inner in module.modules.values() if isinstance(inner, griffe.Object)]
        paths |= {path} if (path := member(module, name)) else set()
    return paths.pop() if len(paths) == 1 else None
