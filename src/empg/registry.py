"""Registries of environments, outcome advantages and modulations, from inside and outside this package.

A registration is an object behind an entry point (https://packaging.python.org/specifications/entry-points), so
installing a package makes its registrations known. The built-in ones register the same way, in ``pyproject.toml``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from empg.errors import ConfigError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """The registrations of an entry-point group by name. Each is loaded on first use.

    Args:
        group: the entry-point group, such as ``empg.environments``.
        kind: the type that every registration must have.
        what: the word for one in messages, such as ``environment``.
    """

    def __init__(self, group: str, kind: type[T], what: str) -> None:
        self.group, self.kind, self.what = group, kind, what
        self._loaded: dict[str, T] = {}

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        entries: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group):
            other = entries.setdefault(entry.name, entry)
            if other.value != entry.value:
                raise ConfigError(
                    f"{self.group}: expected one {self.what} called {entry.name!r}, "
                    f"found {other.value} and {entry.value}; uninstall one of the packages"
                )
        return entries

    def __getitem__(self, name: str) -> T:
        """Raises KeyError for an unknown name, :class:`ConfigError` for a registration that does not load."""
        if name not in self._loaded:
            self._loaded[name] = self._load(self._entries[name])
        return self._loaded[name]

    def _load(self, entry: EntryPoint) -> T:
        try:
            found = entry.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{self.what} {entry.name!r}: expected {entry.value}, found {error}") from error
        if not isinstance(found, self.kind):
            raise ConfigError(
                f"{self.what} {entry.name!r}: expected {entry.value} to be of type {self.kind.__name__}, "
                f"found {type(found).__name__}"
            )
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def module(self, name: str) -> str:
        """The module that holds the registration of this name."""
        return self._entries[name].module


def resolve(reference: str) -> Any:
    """Import and return the object that ``module:attribute`` names. Registrations name what is slow to import."""
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)


def did_you_mean(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """``; did you mean X?`` for the known name nearest to ``name``, or an empty text if none is near."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
