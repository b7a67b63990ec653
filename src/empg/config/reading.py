"""From YAML files to models, with errors that name file, key, what was expected and what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from empg.config.data import Data
from empg.config.study import Study
from empg.errors import ConfigError

T = TypeVar("T")
DATA: TypeAdapter[Data] = TypeAdapter(Data)


def parse(model: type[T] | TypeAdapter[T], value: Any, where: str) -> T:
    """Validate; raises :class:`ConfigError` that names the file, each key, what was expected and what was found."""
    adapter = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        lines = [
            f"{where}: {'.'.join(str(part) for part in e['loc']) or '(top level)'}: {e['msg']}, found {e['input']!r}"
            for e in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from None


def read_yaml(path: Path) -> Any:
    """Raises :class:`ConfigError` that names the file when it is missing or not YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected a YAML file, found none") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: expected YAML, found {error}") from None


def load_data(path: Path) -> dict[str, Data]:
    """The data sets of ``config/data.yaml`` by name."""
    value = read_yaml(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping of data set names, found {type(value).__name__}")
    return {name: parse(DATA, entry, f"{path}: {name}") for name, entry in value.items()}


def load_study(path: Path, data: dict[str, Data]) -> Study:
    """A study; each of its environments must be a data set."""
    study = parse(Study, read_yaml(path), str(path))
    for name in study.environments:
        if name not in data:
            raise ConfigError(
                f"{path}: environments.{name}: expected one of the data sets {', '.join(data)}, found {name!r}"
            )
    return study
