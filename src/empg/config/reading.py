"""Reads YAML files into models. Errors name the file, the key, what was expected and what was found."""

from __future__ import annotations

from collections.abc import ItemsView
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from empg.config.base import UNKNOWN, Model, Name
from empg.config.environments import Data, DataSet, read_interface
from empg.config.pretrained import OF_THE_POLICY, check_folder
from empg.config.study import EnvironmentStudy, Study
from empg.errors import ConfigError
from empg.registry import did_you_mean

T = TypeVar("T")


class DataFile(Model):
    """``config/data.yaml``: data sets by name."""

    data_sets: dict[Name, Data]


def parse(model: type[T] | TypeAdapter[T], value: Any, where: str) -> T:
    """Validate ``value``. Raises :class:`ConfigError` with the file, each key, what was expected and what was found."""
    adapter = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise ConfigError(_lines(error, where)) from None


def _lines(error: ValidationError, where: str, *within: str) -> str:
    """One line for each mistake. ``within`` holds the keys that lead to the validated value."""
    lines = []
    for e in error.errors():
        place = ".".join(str(part) for part in (*within, *e["loc"])) or "(top level)"
        found = "" if e["type"] == UNKNOWN else f", found {e['input']!r}"
        lines.append(f"{where}: {place}: {e['msg']}{found}")
    return "\n".join(lines)


def read_yaml(path: Path) -> Any:
    """The value in a YAML file. Raises :class:`ConfigError` with its name if it is missing or not YAML."""
    try:
        return _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected a YAML file, found none") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: expected YAML, found {error}") from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which the plain loader would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_data(path: Path) -> dict[str, DataSet]:
    """The data sets of ``config/data.yaml`` by name."""
    return dict(parse(DataFile, read_yaml(path), str(path)).data_sets)


def load_environments(path: Path) -> dict[str, EnvironmentStudy]:
    """The settings of ``config/environments.yaml`` by name. ``data`` defaults to the name of the entry."""
    environments = {}
    for name, entry in _entries(path, "environments"):
        settings = parse(EnvironmentStudy, entry, f"{path}: {name}")
        if settings.base is not None:
            raise ConfigError(
                f"{path}: {name}.base: expected none, since this is where bases are, found {settings.base!r}"
            )
        environments[name] = settings.model_copy(update={"data": settings.data or name})
    return environments


def load_study(path: Path, data: dict[str, DataSet], environments: dict[str, EnvironmentStudy]) -> Study:
    """The study in a file. An environment with a ``base`` is laid over that entry of ``environments``.

    Raises :class:`ConfigError` for a base or a data set that does not exist, and for what :func:`parse` refuses.
    """
    value = read_yaml(path)
    if isinstance(value, dict) and isinstance(entries := value.get("environments"), dict):
        over = {
            name: _over_base(entry, environments, f"{path}: environments.{name}") for name, entry in entries.items()
        }
        value = value | {"environments": over}
    study = parse(Study, value, str(path))
    complete = {name: _completed(study, name, data, path) for name in study.environments}
    return study.model_copy(update={"environments": complete})


def _completed(study: Study, name: str, data: dict[str, DataSet], path: Path) -> EnvironmentStudy:
    """An environment's settings, with the missing interface settings filled in from the type of its data set.

    Raises :class:`ConfigError` for an unknown data set and for interface settings that its type does not have.
    """
    settings, data_set = study.environments[name], study.data_set(name)
    where = f"{path}: environments.{name}"
    if data_set not in data:
        key = where if settings.data is None else f"{where}.data"
        hint = did_you_mean(data_set, data)
        raise ConfigError(f"{key}: expected one of the data sets {', '.join(data)}, found {data_set!r}{hint}")
    try:
        interface = read_interface(data[data_set], settings.interface)
    except ValidationError as error:
        raise ConfigError(_lines(error, str(path), "environments", name)) from None
    sizes = getattr(data[data_set], "sizes", None)
    splits = sorted(type(sizes).model_fields) if isinstance(sizes, Model) else []
    if splits and (unknown := [split for split in settings.evaluate.splits if split not in splits]):
        raise ConfigError(f"{where}.evaluate.splits: expected some of {', '.join(splits)}, found {unknown[0]!r}")
    if getattr(interface, "history", None) is not None:
        _check_apart(study, name, path)
    check_folder(settings.policy, settings.sampling.max_context, where)
    return settings.model_copy(update={"interface": interface.model_dump(mode="json")})


def _check_apart(study: Study, name: str, path: Path) -> None:
    """Refuse what does not go with turns that are conversations of their own (``interface.history``)."""
    if tokens := study.environments[name].warmstart.tokens:
        raise ConfigError(
            f"{path}: environments.{name}.warmstart.tokens: expected 0 with interface.history, whose prompts "
            f"demonstrations do not have, found {tokens}"
        )
    for method, own in study.methods.items():
        if key := own.comparing():
            raise ConfigError(
                f"{path}: methods.{method}.{key}: expected one that compares no observations, since those of "
                f"environments.{name}.interface.history are whole prompts, found {getattr(own, key)}"
            )


def _entries(path: Path, what: str) -> ItemsView[str, Any]:
    value = read_yaml(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping of {what}, found {type(value).__name__}")
    return value.items()


def _over_base(entry: Any, environments: dict[str, EnvironmentStudy], where: str) -> Any:
    base = entry.get("base") if isinstance(entry, dict) else None
    if base is None:
        return entry
    if not isinstance(base, str) or base not in environments:
        known = ", ".join(environments)
        raise ConfigError(f"{where}.base: expected one of environments.yaml's entries {known}, found {base!r}")
    settings = environments[base].model_dump(mode="json")
    policy = entry.get("policy")
    if isinstance(policy, dict) and policy.get("type", settings["policy"]["type"]) != settings["policy"]["type"]:
        settings = {key: value for key, value in settings.items() if key not in OF_THE_POLICY}
    return _laid_over(settings, entry)


def _laid_over(base: Any, change: Any) -> Any:
    """``change`` laid over ``base``, key by key at every depth. Another ``type`` replaces the whole section."""
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    if change.get("type", base.get("type")) != base.get("type"):
        return change
    return base | {key: _laid_over(base.get(key), value) for key, value in change.items()}
