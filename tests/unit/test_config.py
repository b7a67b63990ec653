"""Configuration: the default study is valid, its schema is current, slices hold what a stage depends on."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from empg.config import Study, load_data, load_study, parse, train_run
from empg.errors import ConfigError
from empg.study.slices import prepare, schemas

ROOT = Path(__file__).parents[2]
DATA = load_data(ROOT / "config/data.yaml")
STUDIES = [ROOT / "config/config.yaml", *sorted((ROOT / "config/study").glob("*.yaml"))]


@pytest.mark.parametrize("name", ["config.schema.json", "data.schema.json"])
def test_schemas_are_current(name):
    committed = json.loads((ROOT / "workflow/schemas" / name).read_text(encoding="utf-8"))
    assert committed == schemas()[name], "run `make schema`"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_are_valid(path):
    study = load_study(path, DATA)
    assert path.parent.name != "study" or study.study == path.stem
    jsonschema.validate(yaml.safe_load(path.read_text()), schemas()["config.schema.json"])


def test_the_data_sets_follow_their_schema():
    jsonschema.validate(yaml.safe_load((ROOT / "config/data.yaml").read_text()), schemas()["data.schema.json"])


def test_schema_and_models_refuse_the_same():
    value = yaml.safe_load((ROOT / "config/config.yaml").read_text()) | {"sede": 1}
    with pytest.raises(jsonschema.ValidationError, match="sede"):
        jsonschema.validate(value, schemas()["config.schema.json"])
    with pytest.raises(ConfigError, match="sede"):
        parse(Study, value, "config.yaml")


def test_a_methods_own_zeta_wins():
    value = {
        "seeds": [1],
        "methods": {"grpo": {"advantage": "grpo"}, "own": {"advantage": "grpo", "zeta": 0.2}},
        "environments": {"alfworld": {"zeta": 0.1}},
    }
    study = parse(Study, value, "config.yaml")
    assert train_run(study, DATA, "alfworld", "grpo", 1).method.zeta == 0.1
    assert train_run(study, DATA, "alfworld", "own", 1).method.zeta == 0.2


def test_files_are_written_only_when_their_content_changes(tmp_path):
    prepare(ROOT / "config", None, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    study = prepare(ROOT / "config", None, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == times
    runs = len(study.environments) * len(study.methods) * len(study.seeds)
    assert len(list((tmp_path / study.study / "config").rglob("seed*/*.json"))) == 2 * runs


def test_a_study_is_named_as_its_file(tmp_path):
    config = tmp_path / "config"
    (config / "study").mkdir(parents=True)
    (config / "data.yaml").write_text((ROOT / "config/data.yaml").read_text())
    (config / "study/other.yaml").write_text((ROOT / "config/config.yaml").read_text())
    with pytest.raises(
        ConfigError, match=r"other\.yaml: study: expected 'other', as the file is called, found 'quick'"
    ):
        prepare(config, "other", tmp_path / "results")
    assert not (tmp_path / "results").exists()
