"""The environments as TRL's ``environment_factory`` plays them, with real tasks of all three."""

from __future__ import annotations

import inspect
from pathlib import Path
from random import Random

import pytest
from transformers.utils import get_json_schema

from empg.config import ENVIRONMENTS
from empg.environments import data as data_stage
from empg.environments.datasets import open_dataset
from empg.errors import ConfigError, DataError
from empg.integrations.trl_environment import DEEPSEARCH, OVER, Episode, environment, prompts

PANELS = {"alfworld": ("valid_seen", "valid_unseen"), "webshop": ("valid", "test"), "deepsearch": ("id", "ood")}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory):
    def opened(name):
        config = ENVIRONMENTS[name].data.model_validate({"sizes": dict.fromkeys(("train", "tune", *PANELS[name]), 3)})
        folder: Path = tmp_path_factory.mktemp(name)
        data_stage.run(config, folder)
        return open_dataset(config, folder)

    return {name: opened(name) for name in PANELS}


def expert(dataset, number):
    steps = dataset.demonstrate(number, Random(0), max_steps=50)
    return [step.action for step in steps]


@pytest.mark.parametrize("name", PANELS)
def test_an_expert_solves_the_tasks_by_tool_calls(datasets, name):
    dataset = datasets[name]
    episode = environment(dataset)()
    for row in prompts(dataset, system="Act."):
        assert row["prompt"] == [{"role": "system", "content": "Act."}, {"role": "user", "content": ""}]
        task = dataset.tasks("train")[row["id"]]
        assert episode.reset(**row) == dataset.arena(50).make().reset(task)
        assert episode.get_reward() == 0.0
        answers = [episode.act(action) for action in expert(dataset, row["id"])]
        assert episode.get_reward() == 1.0
        assert answers[-1].endswith(OVER)
        assert not any(OVER in answer for answer in answers[:-1])
        assert episode.act("look") == OVER
        assert episode.get_reward() == 1.0


def test_deep_search_with_a_tool_for_each_action(datasets):
    dataset = datasets["deepsearch"]
    episode = environment(dataset, tools=DEEPSEARCH)()
    (row, *_) = prompts(dataset)
    episode.reset(**row)
    for action in expert(dataset, row["id"]):
        name, content = action[1 : action.index(">")], action[action.index(">") + 1 : action.rindex("<")]
        answer = getattr(episode, name)(content)
    assert answer.endswith(OVER)
    assert episode.get_reward() == 1.0


def test_the_tools_are_described_to_the_model(datasets):
    made = environment(datasets["deepsearch"], tools=DEEPSEARCH)
    assert issubclass(made, Episode)
    assert made.__name__ == "Deepsearch"
    public = [name for name, _ in inspect.getmembers(made, inspect.isfunction) if not name.startswith("_")]
    assert sorted(public) == ["access", "answer", "get_reward", "reset", "search"]
    schema = get_json_schema(made().search)["function"]
    assert schema["name"] == "search"
    assert schema["description"] == "Searches the corpus."
    assert schema["parameters"]["required"] == ["text"]
    assert schema["parameters"]["properties"]["text"]["type"] == "string"


def test_the_dense_score_and_the_step_limit(datasets):
    dataset = datasets["webshop"]
    (row, *_) = prompts(dataset, limit=1)
    scored = environment(dataset, reward="score", max_steps=2)()
    scored.reset(**row)
    assert not scored.act("search[nothing]").endswith(OVER)
    assert scored.act("search[nothing]").endswith(OVER)
    assert 0.0 <= scored.get_reward() <= 1.0
    assert len(prompts(dataset, "valid", limit=2)) == 2


def test_what_a_step_raises_stops_the_training(datasets, monkeypatch):
    dataset = datasets["alfworld"]
    episode = environment(dataset)()
    episode.reset(**prompts(dataset)[0])

    def broken(action):
        raise DataError("the server is down")

    monkeypatch.setattr(episode._environment, "step", broken)
    with pytest.raises(DataError, match="the server is down"):
        episode.act("look")  # TRL writes this into the conversation
    with pytest.raises(DataError, match="the server is down"):
        episode.get_reward()
    episode.reset(**prompts(dataset)[0])
    assert episode.get_reward() == 0.0


def test_wrong_rows_and_settings(datasets):
    episode = environment(datasets["alfworld"])()
    with pytest.raises(ConfigError, match=r"expected rows with split and id, as prompts\(\) gives"):
        episode.reset(prompt=[])
    with pytest.raises(DataError, match="split 'train': expected the id of one of its tasks, found 99"):
        episode.reset(split="train", id=99)
    with pytest.raises(ConfigError, match="reward: expected outcome or score, found 'both'"):
        environment(datasets["alfworld"], reward="both")
