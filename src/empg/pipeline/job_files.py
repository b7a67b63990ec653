"""Writes the files that a study's jobs take as inputs: the settings of each job and the source hashes of each stage.

A file is written only when its content changes. So changing one setting or one source file reruns exactly the jobs that
depend on it, and touching a file reruns nothing. This holds even if Snakemake's own records are lost.
"""

from __future__ import annotations

import binascii
import json
import os
import re
import shutil
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_origin

from pydantic import Field, TypeAdapter, create_model

from empg import sources
from empg.config import (
    ENVIRONMENTS,
    STAGES,
    DataSet,
    DecisivenessRun,
    EnvironmentStudy,
    Model,
    Name,
    Study,
    TrainRun,
    cut,
    decisiveness_run,
    evaluate_run,
    load_data,
    load_environments,
    load_study,
    read_yaml,
    testbed_runs,
)
from empg.config.base import NAME
from empg.config.slices import WARM_START
from empg.config.study import DEFAULT_STUDY
from empg.errors import ConfigError
from empg.files import write_text
from empg.registry import did_you_mean

MANIFEST = "manifest.json"
LEFT_BEHIND = ("checkpoint", ".timing")  # what a stage deletes after it has written its manifest
FUTURE_SECONDS = 60  # less is the clock of a file server
# Folders of the project beside those of studies; RESERVED lists those beside environments and methods.
OF_THE_RESULTS = ("data", "logs", "mlartifacts", "sources", "tune")
RESERVED = {
    "environments": ("config", "decisiveness", "logs", "report", "testbed"),
    "methods": (
        "warmstart_evaluate",
        "warmstart_decisiveness",
        *(name for name, stage in STAGES.items() if stage.of_an_environment),
    ),
}


def read_study(config: Path, study_name: str | None) -> tuple[Study, dict[str, DataSet]]:
    """The study of this name, and the data sets by name.

    It is read from ``config/study/NAME.yaml``, or from ``config/config.yaml`` for None and for the name in that file.

    Raises :class:`ConfigError` for any mistake in the configuration.
    """
    data, environments = load_data(config / "data.yaml"), load_environments(config / "environments.yaml")
    path = _study_file(config, study_name)
    study = load_study(path, data, environments)
    if study_name and study.study != study_name:
        raise ConfigError(f"{path}: study: expected {study_name!r}, as the file is called, found {study.study!r}")
    if study.study in OF_THE_RESULTS:
        raise ConfigError(f"{path}: study: expected another name, found one of {', '.join(OF_THE_RESULTS)}")
    for key, reserved in RESERVED.items():
        for name in getattr(study, key):
            if name in reserved:
                raise ConfigError(f"{path}: {key}.{name}: expected another name, found one of {', '.join(reserved)}")
    return study, data


def _study_file(config: Path, name: str | None) -> Path:
    """The file of a study. Raises :class:`ConfigError`, which lists the studies, for an unknown name."""
    default = config / "config.yaml"
    if name is None:
        return default
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"study: expected a name of lower-case letters, digits and _, found {name!r}")
    path = config / "study" / f"{name}.yaml"
    if path.exists():
        return path
    value = read_yaml(default)
    default_name = value.get("study", DEFAULT_STUDY) if isinstance(value, dict) else None
    if name == default_name:
        return default
    known = [str(default_name), *sorted(file.stem for file in path.parent.glob("*.yaml"))]
    hint = did_you_mean(name, known)
    raise ConfigError(f"study: expected one of {', '.join(known)}, found {name!r}{hint}")


def prepare(config: Path, study_name: str | None, results: Path) -> Study:
    """Read a study and update the files that its jobs depend on.

    Raises :class:`ConfigError` for any mistake in the configuration, before it writes a file.
    """
    study, data = read_study(config, study_name)
    _write_changed(_contents(study, data, results))
    _bring_back_from_the_future(results, study)
    _end_what_is_finished(results / study.study)
    return study


def _bring_back_from_the_future(results: Path, study: Study) -> None:
    """Date files of the future now: a clock that was wrong wrote them, and Snakemake refuses any output that is older.

    Nothing reruns for it, since Snakemake compares the content of small inputs and takes the large ones as ancient.
    """
    now = time.time()
    data = (results.parent / "data" / study.data_set(name) / MANIFEST for name in study.environments)
    written = (path for folder in (study.study, "data", "sources") for path in (results / folder).rglob("*"))
    for path in [*written, *data, *results.glob("*.db")]:
        if path.exists() and path.stat().st_mtime > now + FUTURE_SECONDS:
            os.utime(path, (now, now))


def _end_what_is_finished(folder: Path) -> None:
    """End the jobs that were cut off after they had written their manifest, which a stage does last.

    Snakemake has marked their outputs as incomplete. It would delete them and run the jobs from the beginning.
    """
    for manifest in folder.rglob(MANIFEST):
        for rest in (manifest.parent / name for name in LEFT_BEHIND):
            if rest.exists() and rest.stat().st_mtime <= manifest.stat().st_mtime:  # later: of another job
                shutil.rmtree(rest, ignore_errors=True)
    marks = Path(".snakemake/incomplete")
    for mark in (path for path in marks.rglob("*") if path.is_file()):
        encoded = "".join(part.removeprefix("@") for part in mark.relative_to(marks).parts)
        try:
            output = Path(urlsafe_b64decode(encoded).decode())
        except (binascii.Error, UnicodeDecodeError):
            continue  # no mark of an output
        inside = (place for place in output.parents if place.is_relative_to(folder))
        if any((place / MANIFEST).exists() for place in inside):
            mark.unlink(missing_ok=True)


def write_sources(name: str, data: DataSet, results: Path) -> None:
    """Update the source hashes of each stage for one data set."""
    _write_changed(_sources(name, data, results))


def _write_changed(files: Iterable[tuple[Path, Any]]) -> None:
    for file, content in files:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            write_text(file, text)


def _sources(data_set: str, data: DataSet, results: Path) -> Iterator[tuple[Path, Any]]:
    """The file of source hashes of each stage for one data set, except the stages of the whole study."""
    for name, stage in STAGES.items():
        if not (stage.of_the_study or stage.of_the_testbed):
            yield results / "sources" / data_set / f"{name}.json", sources.source_hashes(stage.module, data.type)


def _contents(study: Study, data: dict[str, DataSet], results: Path) -> Iterator[tuple[Path, Any]]:
    """Every file and its content."""
    for name, stage in STAGES.items():
        if stage.of_the_study or stage.of_the_testbed:
            yield results / "sources" / f"{name}.json", sources.source_hashes(stage.module)
    folder = results / study.study / "config"
    models: dict[Path, Model] = {folder / "study.json": study}
    for part, run in testbed_runs(study).items():
        models[folder / "testbed" / f"{part}.json"] = run
    for name in dict.fromkeys(map(study.data_set, study.environments)):
        yield from _sources(name, data[name], results)
        models[results / "data" / "config" / f"{name}.json"] = data[name]
    for environment in study.environments:
        models |= {folder / environment / f"{name}.json": model for name, model in _jobs(study, data, environment)}
    for path, model in models.items():
        yield path, _with_sources(model).model_dump(mode="json")


def _jobs(study: Study, data: dict[str, DataSet], environment: str) -> Iterator[tuple[str, Model]]:
    """The name and the settings of every job of an environment."""
    for name, stage in STAGES.items():
        if stage.of_an_environment:
            yield name, cut(stage.settings, study, data, environment)
    yield "warmstart_evaluate", evaluate_run(study, data, environment, WARM_START, 0)
    if study.decisiveness is not None:
        yield "warmstart_decisiveness", decisiveness_run(study, data, environment, WARM_START, 0)
    for method, seed in product(study.methods, study.seeds):
        for name, stage in STAGES.items():
            if stage.of_a_run and stage.runs_for(study, method):
                own = cut(stage.settings, study, data, environment, method=method, seed=seed)
                yield f"{method}/seed{seed}/{name}", own
    for method, seed in product(study.measured_halfway(environment), study.seeds):
        halfway = decisiveness_run(study, data, environment, method, seed, halfway=True)
        yield f"{method}/seed{seed}/decisiveness_halfway", halfway


def _with_sources(run: Model) -> Model:
    """Completed with the hashes of methods that another package registered, where the stage wants them."""
    if isinstance(run, DecisivenessRun):
        return run.model_copy(update={"estimators": {name: _with_sources(own) for name, own in run.estimators.items()}})
    if isinstance(run, TrainRun):
        return run.model_copy(update={"method_sources": sources.method_sources(run.method)})
    return run


def schemas() -> dict[str, Any]:
    """JSON schemas by file name: of a study, of ``config/data.yaml`` and of ``config/environments.yaml``."""
    return {
        "config.schema.json": _with_interfaces(Study.model_json_schema()),
        "data.schema.json": _data_schema(),
        "environments.schema.json": _with_interfaces(TypeAdapter(dict[str, EnvironmentStudy]).json_schema()),
    }


def _data_schema() -> dict[str, Any]:
    """The schema of ``config/data.yaml`` with the data sets of every registered environment."""
    models = [_named(name, kind.data) for name, kind in ENVIRONMENTS.items()]
    entry: Any = Annotated[Union[tuple(models)], Field(discriminator="type")]  # noqa: UP007 — made at run time
    return create_model("DataFile", __base__=Model, data_sets=(dict[Name, entry], ...)).model_json_schema()


def _named(name: str, model: type[DataSet]) -> type[DataSet]:
    """The model with the environment's name as its only ``type``, unless it says so itself."""
    if get_origin(model.model_fields["type"].annotation) is Literal:
        return model
    only: Any = Literal[name]
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, type=(only, ...))


def _with_interfaces(schema: dict[str, Any]) -> dict[str, Any]:
    """Adds the interface settings of every registered environment as choices for ``interface``."""
    models = {kind.interface.__name__: kind.interface for kind in ENVIRONMENTS.values()}
    choices = [model.model_json_schema() for model in models.values()]
    schema["$defs"]["EnvironmentStudy"]["properties"]["interface"] |= {"anyOf": choices}
    return schema
