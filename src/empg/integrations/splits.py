"""Any registered environment, ready to play, with or without the files of the data stage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from empg.config import ENVIRONMENTS, DataSet, parse
from empg.environments import data as data_stage
from empg.environments import datasets
from empg.environments.base import Arena, Dataset, Task
from empg.errors import ConfigError, DataError
from empg.files import read_json
from empg.registry import did_you_mean

TRAIN = "train"


class Split:
    """The tasks of one split of a data set, and where they are played.

    Args:
        dataset: the data set.
        name: the split.
        max_steps: the most steps of an episode.
    """

    def __init__(self, dataset: Dataset, name: str, max_steps: int) -> None:
        self.name, self.max_steps = name, max_steps
        self._dataset = dataset

    @cached_property
    def arena(self) -> Arena:
        """Where the tasks are played."""
        return self._dataset.arena(self.max_steps)

    @cached_property
    def tasks(self) -> list[Task]:
        """The fixed tasks, in their order. Raises :class:`~empg.errors.DataError` where there are none."""
        try:
            tasks = self._dataset.tasks(self.name)
        except OSError as cause:
            raise DataError(f"split {self.name!r}: cannot be read from {cause.filename}: {cause.strerror}") from None
        if not tasks:
            raise DataError(f"split {self.name!r}: expected at least one task, found none")
        return tasks

    def task(self, number: int) -> Task:
        """The task with this id.

        Training tasks go beyond the fixed ones where the data set draws them without end. Raises
        :class:`~empg.errors.DataError` for any other id.
        """
        if number in self._by_id:
            return self._by_id[number]
        if self.name == TRAIN and number >= 0:
            drawn = self._dataset.training_task(number)
            if drawn.id == number:
                return drawn
        first, last = self.tasks[0].id, self.tasks[-1].id
        raise DataError(f"split {self.name!r}: expected the id of a task ({first} to {last}), found {number}")

    @cached_property
    def _by_id(self) -> dict[int, Task]:
        return {task.id: task for task in self.tasks}


def open_dataset(
    environment: str,
    *,
    data: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    interface: Mapping[str, Any] | None = None,
) -> Dataset:
    """A data set of a registered environment.

    Args:
        environment: the name of the registration, such as ``alfworld``.
        data: a folder that ``empg data NAME`` wrote; its settings are in its manifest. None: the tasks are drawn when
            they are played. Where play needs files, these are written once to ``$XDG_CACHE_HOME/empg/data``
            (``~/.cache`` if unset), a folder for each version of settings and code.
        settings: the settings of the data set, as in ``config/data.yaml``, without ``data``.
        interface: what agents see and may do, as in a study.

    Raises :class:`~empg.errors.ConfigError` for an unknown environment or setting and
    :class:`~empg.errors.DataError` for a folder that does not hold such a data set.
    """
    if environment not in ENVIRONMENTS:
        known = ", ".join(ENVIRONMENTS)
        hint = did_you_mean(environment, ENVIRONMENTS)
        raise ConfigError(f"environment: expected one of {known}, found {environment!r}{hint}")
    shown = json.dumps(dict(interface or {}), sort_keys=True)
    if data is not None:
        if settings:
            raise ConfigError(f"settings: expected none beside data, whose manifest has them, found {dict(settings)}")
        return _open(_written(environment, Path(data)), Path(data), shown)
    given = {"type": environment, **(settings or {})}
    return _without_data(environment, json.dumps(given, sort_keys=True), shown)


@lru_cache
def _without_data(environment: str, settings: str, interface: str) -> Dataset:
    """One data set for all the environments of a process: shops and indices are read-only and shared."""
    config = parse(ENVIRONMENTS[environment].data, json.loads(settings), f"settings of {environment}")
    folder = _cache_folder(config)
    free = _open(config, folder, interface).without_files()
    if free:
        return free
    _write(config, folder)
    return _open(config, folder, interface)


def _open(config: DataSet, folder: Path, interface: str) -> Dataset:
    given = json.loads(interface)
    parse(ENVIRONMENTS[config.type].interface, given, f"interface of {config.type}")
    return datasets.open_dataset(config, folder, given)


def _written(environment: str, folder: Path) -> DataSet:
    """The settings in the manifest of a folder that the data stage wrote."""
    path = folder / "manifest.json"
    manifest = read_json(path)
    config = manifest.get("config") if isinstance(manifest, dict) else None
    if not isinstance(config, dict) or config.get("type") != environment:
        found = config.get("type") if isinstance(config, dict) else None
        raise DataError(f"{path}: expected a data set of type {environment}, found {found!r}")
    return parse(ENVIRONMENTS[environment].data, config, str(path))


def _cache_folder(config: DataSet) -> Path:
    """The folder of a data set in the user's cache: another one for other settings or other code."""
    digest = hashlib.sha256(config.model_dump_json().encode())
    for path in _sources(ENVIRONMENTS.module(config.type)):
        digest.update(path.name.encode() + path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "empg" / "data" / f"{config.type}-{digest.hexdigest()[:16]}"


def _sources(module: str) -> list[Path]:
    """The source files that a data set comes from: those of the module's package, and what packages share."""
    spec = find_spec(module)
    own = Path(spec.origin) if spec and spec.origin else None
    inside = own is not None and (own.name == "__init__.py" or "." in module)
    found = sorted(own.parent.rglob("*.py")) if own and inside else [own] if own else []
    shared = Path(data_stage.__file__).parent
    return [*found, *sorted(shared.glob("*.py")), *(shared.parent / name for name in ("files.py", "seeding.py"))]


def _write(config: DataSet, folder: Path) -> None:
    """Write a data set unless it is there. The folder appears when it is complete, whoever else writes it."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        data_stage.run(config, temporary)
        try:
            temporary.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
