"""Configuration: the default study is valid, its schema is current, slices hold what a stage depends on."""

from __future__ import annotations

import json
import re
import shutil
from itertools import takewhile
from pathlib import Path

import jsonschema
import pytest
import yaml

from empg.config import (
    Method,
    Study,
    TinyPolicy,
    evaluate_run,
    load_data,
    load_environments,
    load_study,
    parse,
    train_run,
    warmstart_run,
)
from empg.errors import ConfigError
from empg.pipeline.job_files import prepare, schemas

ROOT = Path(__file__).parents[2]
DATA = load_data(ROOT / "config/data.yaml")
ENVIRONMENTS = load_environments(ROOT / "config/environments.yaml")
STUDIES = [ROOT / "config/config.yaml", *sorted((ROOT / "config/study").glob("*.yaml"))]


@pytest.mark.parametrize("name", ["config.schema.json", "data.schema.json", "environments.schema.json"])
def test_schemas_are_current(name):
    committed = json.loads((ROOT / "workflow/schemas" / name).read_text(encoding="utf-8"))
    assert committed == schemas()[name], "run `make schema`"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_are_valid(path):
    study = load_study(path, DATA, ENVIRONMENTS)
    assert path.parent.name != "study" or study.study == path.stem
    jsonschema.validate(yaml.safe_load(path.read_text()), schemas()["config.schema.json"])


@pytest.mark.parametrize("path", [*STUDIES, *(ROOT / f"config/{n}.yaml" for n in ("data", "environments"))], ids=str)
def test_an_editor_finds_the_schema_of_each_file(path):
    head = "".join(takewhile(lambda line: line.startswith("#"), path.read_text().splitlines(keepends=True)))
    reference = re.search(r"^# yaml-language-server: \$schema=(\S+)$", head, re.MULTILINE)
    assert reference is not None
    schema = path.parent / reference[1]
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(schema.read_text(encoding="utf-8")))


GRIDS = {
    name: load_study(ROOT / f"config/study/{name}.yaml", DATA, ENVIRONMENTS)
    for name in ("paper", "paper_webshop", "ablation_webshop", "methods", "architecture")
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_study_states_how_many_runs_it_costs(name):
    study = GRIDS[name]
    stated = re.search(r"^# Cost: (\d+) runs", (ROOT / f"config/study/{name}.yaml").read_text(), re.MULTILINE)
    assert stated is not None
    assert int(stated[1]) == len(study.environments) * len(study.methods) * len(study.seeds)


def test_no_two_methods_of_a_study_are_the_same():
    for study in GRIDS.values():
        assert len({method.model_dump_json() for method in study.methods.values()}) == len(study.methods), study.study


def write_study(path, **changes):
    """The default study with changes at its top level, as a file."""
    value = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    path.write_text(yaml.safe_dump(value | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"environments": {"alfworld": {"base": "alfworld", "evaluate": {"splits": ["valid_sen"]}}}},
            "environments.alfworld.evaluate.splits: expected some of train, tune, valid_seen, valid_unseen, "
            "found 'valid_sen'",
        ),
        ({"environments": {"all": {"base": "alfworld"}}}, "expected another name, since 'all' means all of them"),
        (
            {
                "environments": {
                    "alfworld": {"base": "alfworld", "interface": {"history": 2}, "warmstart": {"tokens": 0}}
                },
                "methods": {"grpo": {"advantage": "grpo"}, "pairs": {"advantage": "gigpo"}},
            },
            "methods.pairs.advantage: expected one that compares no observations, since those of "
            "environments.alfworld.interface.history are whole prompts, found gigpo",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_study(write_study(tmp_path / "study.yaml", **changes), DATA, ENVIRONMENTS)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"advantage": "grpo", "modulation": "empg"}, None),
        ({"advantage": "gigpo"}, "advantage"),
        ({"advantage": "rtmc"}, None),
        ({"advantage": "rtmc", "state": "observation"}, "state"),
        ({"advantage": "rtmc", "modulation": "calibrated"}, "modulation"),
        ({"advantage": "grpo", "modulation": "decisive"}, "modulation"),
    ],
)
def test_a_registration_says_whether_a_method_compares_observations(method, expected):
    assert Method.model_validate(method).comparing() == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"entropies": [0.3, 9.9]}, "other_entropy: expected less than 1.609, log of 5 actions, found 9.9"),
        ({"world": {"steps": 3, "decisive": 99}}, "decisive: expected at most the 3 steps, found 99"),
        ({"sweeps": {"decisive": [1, 40]}}, "decisive: expected at most the 10 steps, found 40"),
        ({"sweeps": {"zeta_": [0]}}, "testbed.sweeps: expected settings of the world or of a method, found 'zeta_'"),
    ],
)
def test_a_testbed_that_cannot_be_is_refused(changes, words):
    grid = {"methods": {"grpo": {"advantage": "grpo"}, "empg": {"advantage": "grpo", "modulation": "empg"}}}
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse(Study, grid | {"testbed": changes}, "test")


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("methods:\n  grpo: {advantage: grpo}\n  grpo: {advantage: dapo}\n")
    with pytest.raises(ConfigError, match="the key 'grpo' twice"):
        load_study(path, DATA, ENVIRONMENTS)


def test_modulation_is_compared_with_the_same_method_without_it():
    bases = {name: {m: study.compared_with(m) for m in study.methods} for name, study in GRIDS.items()}
    assert bases["paper"] == {"grpo": None, "grpo_empg": "grpo", "dapo": "grpo", "dapo_empg": "dapo"}
    assert {name for name, base in bases["methods"].items() if base not in ("grpo", None)} == {
        "rloo_empg",
        "gigpo_empg",
    }
    assert (bases["methods"]["rloo_empg"], bases["methods"]["gigpo_empg"]) == ("rloo", "gigpo")


def test_the_architectures_differ_in_nothing_but_the_family():
    study = GRIDS["architecture"]
    qwen2, llama = (study.environments[name] for name in ("alfworld", "alfworld_llama"))
    assert llama.policy == qwen2.policy.model_copy(update={"family": "llama"})
    assert llama.model_copy(update={"policy": qwen2.policy}) == qwen2


@pytest.mark.parametrize("name", ["data", "environments"])
def test_what_studies_share_follows_its_schema(name):
    jsonschema.validate(yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()), schemas()[f"{name}.schema.json"])


def test_schema_and_models_refuse_the_same():
    value = yaml.safe_load((ROOT / "config/config.yaml").read_text()) | {"sede": 1}
    with pytest.raises(jsonschema.ValidationError, match="sede"):
        jsonschema.validate(value, schemas()["config.schema.json"])
    with pytest.raises(ConfigError, match="sede"):
        parse(Study, value, "config.yaml")


def test_a_methods_own_zeta_wins():
    value = {
        "seeds": [1],
        "methods": {
            "grpo": {"advantage": "grpo", "modulation": "empg"},
            "own": {"advantage": "grpo", "modulation": "empg_bonus", "zeta": 0.2},
        },
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


def test_the_default_study_answers_to_its_name(tmp_path):
    assert prepare(ROOT / "config", "quick", tmp_path) == prepare(ROOT / "config", None, tmp_path)


def test_a_study_takes_no_name_of_the_results_folder(tmp_path):
    config = tmp_path / "config"
    shutil.copytree(ROOT / "config", config)
    (config / "study/tune.yaml").write_text((config / "config.yaml").read_text().replace("study: quick", "study: tune"))
    with pytest.raises(ConfigError, match=r"tune\.yaml: study: expected another name, found one of data, logs"):
        prepare(config, "tune", tmp_path / "results")


def test_a_study_is_named_as_its_file(tmp_path):
    config = tmp_path / "config"
    (config / "study").mkdir(parents=True)
    for name in ("data.yaml", "environments.yaml"):
        (config / name).write_text((ROOT / "config" / name).read_text())
    (config / "study/other.yaml").write_text((ROOT / "config/config.yaml").read_text())
    with pytest.raises(
        ConfigError, match=r"other\.yaml: study: expected 'other', as the file is called, found 'quick'"
    ):
        prepare(config, "other", tmp_path / "results")
    assert not (tmp_path / "results").exists()


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


BASES = """
rooms:
  zeta: 0.2
  data: alfworld
  policy: {type: tiny, layers: 2, width: 64}
  warmstart: {optimiser: {lr: 0.001}}
deepsearch: {max_steps: 8}
"""
HEAD = "study: s\nseeds: [1]\nmethods: {grpo: {advantage: grpo}}\nenvironments:\n"


@pytest.fixture
def bases(tmp_path):
    return load_environments(written(tmp_path, "environments.yaml", BASES))


def test_an_environment_is_laid_over_its_base(tmp_path, bases):
    text = (
        HEAD
        + """
  rooms: {base: rooms}
  llama: {base: rooms, max_steps: 9, policy: {family: llama}, warmstart: {optimiser: {muon_lr: 0.5}}}
  large: {base: rooms, policy: {type: pretrained, model: there}}
  deepsearch: {base: deepsearch}
"""
    )
    found = load_study(written(tmp_path, "s.yaml", text), DATA, bases).environments
    assert found["rooms"] == bases["rooms"].model_copy(update={"base": "rooms", "interface": {"history": None}})
    llama = found["llama"]
    assert (llama.max_steps, llama.zeta, llama.data) == (9, 0.2, "alfworld")
    assert llama.policy == TinyPolicy(family="llama", layers=2, width=64)
    assert (llama.warmstart.optimiser.lr, llama.warmstart.optimiser.muon_lr) == (0.001, 0.5)
    assert found["large"].policy.model_dump() == {
        "type": "pretrained",
        "model": "there",
        "dtype": "bfloat16",
        "lora": None,
        "freeze_embeddings": True,
        "gradient_checkpointing": True,
    }
    assert found["deepsearch"].data == "deepsearch"


def test_environments_can_share_a_data_set_and_differ_in_the_policy(tmp_path, bases):
    text = HEAD + "  here: {data: alfworld}\n  llama: {data: alfworld, policy: {type: tiny, family: llama}}\n"
    study = load_study(written(tmp_path, "s.yaml", text), DATA, bases)
    here, llama = (warmstart_run(study, DATA, name) for name in ("here", "llama"))
    assert here.data == llama.data == DATA["alfworld"]
    assert (here.policy.family, llama.policy.family) == ("qwen2", "llama")
    prepared = {"environment": "here", "policy": here.policy}
    assert llama.model_copy(update=prepared) == here
    assert evaluate_run(study, DATA, "llama", "grpo", 1).data == DATA["alfworld"]


def test_the_type_of_the_data_set_completes_an_environment(tmp_path, bases):
    entries = """
  a: {data: alfworld}
  d: {data: deepsearch, interface: {top_k: 1}}
  w: {data: webshop, evaluate: {splits: [test]}}
"""
    study = load_study(written(tmp_path, "s.yaml", HEAD + entries), DATA, bases)
    assert {name: e.interface for name, e in study.environments.items()} == {
        "a": {"history": None},
        "d": {"retriever": "local", "top_k": 1, "max_searches": 8, "max_observation": 2000},
        "w": {"observation": "text_rich", "history": None},
    }
    splits = {name: evaluate_run(study, DATA, name, "grpo", 1).evaluate.splits for name in study.environments}
    assert splits == {"a": ("valid_seen", "valid_unseen"), "d": ("id", "ood"), "w": ("test",)}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "{type: alfwold}",
            r"data\.yaml: data_sets\.x\.type: expected one of the environments alfworld, deepsearch, "
            r".*webshop; did you mean alfworld\?, found 'alfwold'",
        ),
        ("{source: embedded}", r"data_sets\.x\.type: expected one of the environments .*, found None"),
        ("{type: webshop, sizes: {trian: 3}}", r"data_sets\.x\.sizes\.trian: unknown; did you mean train\?"),
        ("7", r"data_sets\.x\.type: expected one of the environments"),
    ],
)
def test_a_mistake_in_a_data_set_is_named(tmp_path, entry, message):
    with pytest.raises(ConfigError, match=message):
        load_data(written(tmp_path, "data.yaml", f"data_sets:\n  x: {entry}\n"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "{data: alfworld, interface: {top_k: 1}}",
            r"environments\.e\.interface\.top_k: unknown; expected one of history",
        ),
        (
            "{data: deepsearch, interface: {topk: 1}}",
            r"environments\.e\.interface\.topk: unknown; did you mean top_k\?",
        ),
        ("{data: deepsearch, interface: {top_k: 0}}", r"environments\.e\.interface\.top_k: Input should be greater"),
        ("{data: alfword}", r"environments\.e\.data: expected one of the data sets .*; did you mean alfworld\?"),
        ("{base: attic}", r"s\.yaml: environments\.e\.base: expected one of .* rooms, deepsearch, found 'attic'"),
        ("{base: [rooms]}", r"s\.yaml: environments\.e\.base: expected one of .*, found \['rooms'\]"),
        ("{base: rooms, data: attic}", r"s\.yaml: environments\.e\.data: expected one of the data sets .*'attic'"),
        (
            "{base: rooms, policy: {layer: 2}}",
            r"s\.yaml: environments\.e\.policy\.tiny\.layer: unknown; did you mean layers\?",
        ),
        ("{base: rooms, policy: 2}", r"s\.yaml: environments\.e\.policy: .*found 2"),
        ("rooms", r"s\.yaml: environments\.e: .*found 'rooms'"),
    ],
)
def test_a_mistake_in_an_environment_is_named(tmp_path, bases, entry, message):
    with pytest.raises(ConfigError, match=message):
        load_study(written(tmp_path, "s.yaml", HEAD + f"  e: {entry}\n"), DATA, bases)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rooms: {max_step: 2}", r"environments\.yaml: rooms: max_step: unknown; did you mean max_steps\?"),
        ("rooms: {base: deepsearch}", r"environments\.yaml: rooms\.base: expected none, .*, found 'deepsearch'"),
        ("- rooms", r"environments\.yaml: expected a mapping of environments, found list"),
    ],
)
def test_a_mistake_in_a_base_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_environments(written(tmp_path, "environments.yaml", text))
