"""What a study's jobs depend on, as files: each job's settings and each stage's source. Snakemake takes them as inputs.

A file is written only when its content changes. So changing one setting or one source file outdates exactly the jobs
that depend on it, touching a file outdates nothing, and nothing is forgotten when Snakemake's own records are lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from empg import provenance
from empg.config import (
    Data,
    EnvironmentStudy,
    Model,
    Study,
    evaluate_run,
    load_data,
    load_environments,
    load_study,
    rollouts_run,
    train_run,
    warmstart_run,
)
from empg.errors import ConfigError
from empg.files import write_text

# The stages that are of the whole study, not of one environment.
OF_THE_STUDY = ("report", "track")
# Folders that the project itself makes beside a study's, an environment's or a method's.
OF_THE_RESULTS = ("data", "logs", "mlartifacts", "sources", "tune")
RESERVED = {"environments": ("config", "logs", "report"), "methods": ("warmstart", "warmstart_evaluate", "rollouts")}


def read_study(config: Path, study_name: str | None) -> tuple[Study, dict[str, Data]]:
    """The study of ``config/study/NAME.yaml``, or of ``config/config.yaml`` for none and for the name that it has; and
    the data sets.

    Raises :class:`ConfigError` for any mistake in the configuration.
    """
    data, environments = load_data(config / "data.yaml"), load_environments(config / "environments.yaml")
    default, path = config / "config.yaml", config / "study" / f"{study_name}.yaml"
    if study_name is None or (not path.exists() and load_study(default, data, environments).study == study_name):
        path = default
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


def prepare(config: Path, study_name: str | None, results: Path) -> Study:
    """Read a study and bring the files that its jobs depend on up to date.

    Raises :class:`ConfigError` for any mistake in the configuration, before a file is written.
    """
    study, data = read_study(config, study_name)
    for file, content in _contents(study, data, results):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            write_text(file, text)
    return study


def _contents(study: Study, data: dict[str, Data], results: Path) -> Iterator[tuple[Path, Any]]:
    """Every file and what it should hold."""
    for stage in OF_THE_STUDY:
        yield results / "sources" / f"{stage}.json", provenance.source_hashes(provenance.STAGES[stage])
    folder = results / study.study / "config"
    models: dict[Path, Model] = {folder / "study.json": study}
    for name in dict.fromkeys(map(study.data_set, study.environments)):
        for stage in provenance.STAGES.keys() - set(OF_THE_STUDY):
            hashes = provenance.source_hashes(provenance.STAGES[stage], data[name].type)
            yield results / "sources" / name / f"{stage}.json", hashes
        models[results / "data" / "config" / f"{name}.json"] = data[name]
    for environment in study.environments:
        own = folder / environment
        models[own / "warmstart.json"] = warmstart_run(study, data, environment)
        models[own / "rollouts.json"] = rollouts_run(study, data, environment)
        models[own / "warmstart_evaluate.json"] = evaluate_run(study, data, environment, "warmstart", 0)
        for method in study.methods:
            for seed in study.seeds:
                run = own / method / f"seed{seed}"
                models[run / "train.json"] = train_run(study, data, environment, method, seed)
                models[run / "evaluate.json"] = evaluate_run(study, data, environment, method, seed)
    for path, model in models.items():
        yield path, model.model_dump(mode="json")


def schemas() -> dict[str, Any]:
    """File name → JSON schema of a study, of ``config/data.yaml`` and of ``config/environments.yaml``."""
    return {
        "config.schema.json": Study.model_json_schema(),
        "data.schema.json": TypeAdapter(dict[str, Data]).json_schema(),
        "environments.schema.json": TypeAdapter(dict[str, EnvironmentStudy]).json_schema(),
    }
