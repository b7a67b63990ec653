"""Registered environments as gymnasium sees them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

import empg.integrations.gymnasium as registration
from empg.environments.base import CLEAN, Arena, Dataset, StepResult, Task
from empg.errors import ConfigError, DataError, EnvironmentStateError
from empg.integrations.gymnasium import TextEnv
from empg.integrations.gymnasium_text import AnyText

from .conftest import PLAYERS

IDS = {"alfworld": "empg/ALFWorld-v0", "webshop": "empg/WebShop-v0", "deepsearch": "empg/DeepSearch-v0"}
KEYS = {"environment", "split", "task", "type", "score", "metrics", "invalid", "stop_reason"}
HOSTILE = ["", "\x00\n\t\r", "<action>\u202e</action>", "\ud800", "🛒" * 300, "a" * 70_000, "%s{}\\x", "\U0010ffff"]


def play(env: gymnasium.Env, name: str, *, responses: bool = False, **reset: Any) -> list[tuple]:
    """What the steps of an expert's episode return."""
    observation, _ = env.reset(**reset)
    expert, steps = PLAYERS[name].expert(), []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        thought, action = expert.act(observation)
        steps.append(env.step(PLAYERS[name].format_step(thought, action) if responses else action))
        observation = steps[-1][0]
    return steps


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", IDS)
def test_the_checker_of_gymnasium_finds_nothing(name):
    check_env(gymnasium.make(IDS[name]).unwrapped)
    check_env(gymnasium.make(IDS[name], reward="score", responses=True, render_mode="ansi").unwrapped)


def test_every_registration_is_made_by_its_name():
    assert {spec for spec in gymnasium.registry if spec.startswith("empg/")} == set(IDS.values())
    code = "import gymnasium; print(gymnasium.make('empg.integrations.gymnasium:empg/WebShop-v0').reset(seed=0)[0])"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.startswith("WebShop\n")


def test_an_environment_of_another_package_is_made_by_its_own_name(tmp_path):
    example = Path(__file__).parents[2] / "examples/environment"
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(example)], check=True, capture_output=True)
    code = (
        "import gymnasium; from gymnasium.utils.env_checker import check_env; "
        "env = gymnasium.make('empg.integrations.gymnasium:empg/doors-v0', split='few'); check_env(env.unwrapped); "
        "env.reset(seed=0); doors = iter((1, 2, 3)); "
        "print(next(step[1:4] for step in (env.step(f'open {door}') for door in doors) if step[2]))"
    )
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(1.0, True, False)\n"
    assert done.stderr == ""
    assert [path.name[:6] for path in (tmp_path / "cache/empg/data").iterdir()] == ["doors-"]


@pytest.mark.parametrize("responses", [False, True])
@pytest.mark.parametrize("name", IDS)
def test_an_expert_wins(name, responses):
    env = gymnasium.make(IDS[name], responses=responses)
    steps = play(env, name, responses=responses, options={"task": 7})
    assert [reward for _, reward, *_ in steps] == [0.0] * (len(steps) - 1) + [1.0]
    assert [(terminated, truncated) for *_, terminated, truncated, _ in steps[-2:]] == [(False, False), (True, False)]
    info = steps[-1][-1]
    assert info["task"] == 7
    assert (info["environment"], info["split"], info["score"]) == (name, "train", 1.0)
    assert [step[-1]["stop_reason"] for step in steps[-2:]] == ["", "success"]
    assert set(info) - {"admissible_actions"} == KEYS
    assert ("admissible_actions" in info) == (name in ("alfworld", "webshop"))
    with pytest.raises(EnvironmentStateError):
        env.step("look")


def test_admissible_actions_are_those_that_the_game_answers():
    env = gymnasium.make(IDS["alfworld"])
    _, info = env.reset(seed=1)
    assert "go to" in " ".join(info["admissible_actions"])
    *_, info = env.step(info["admissible_actions"][0])
    assert not info["invalid"]
    *_, info = env.step("fly to the moon")
    assert info["invalid"]
    unasked = gymnasium.make(IDS["alfworld"], admissible_actions=False)
    assert "admissible_actions" not in unasked.reset(seed=1)[1]


def test_a_limit_truncates_and_does_not_terminate():
    env = gymnasium.make(IDS["alfworld"], max_steps=3)
    env.reset(seed=0)
    steps = [env.step("look") for _ in range(3)]
    assert [step[2:4] for step in steps] == [(False, False), (False, False), (False, True)]
    assert [step[-1]["stop_reason"] for step in steps] == ["", "", "step_limit"]
    env = gymnasium.make(IDS["deepsearch"], interface={"max_searches": 1})
    env.reset(seed=0)
    steps = [env.step("<search>Peru</search>") for _ in range(3)]
    assert steps[-1][2:4] == (False, True)
    assert steps[-1][-1]["stop_reason"] == "search_limit"


def test_a_wrong_purchase_terminates_with_its_score():
    bought = {}
    for reward in ("outcome", "score"):
        env = gymnasium.make(IDS["webshop"], reward=reward)
        observation, _ = env.reset(options={"task": 3})
        env.step("search[shirt]")
        observation, *_ = env.step("search[red]")
        product = next(word for word in observation.split() if word.startswith("B0"))
        env.step(f"click[{product}]")
        bought[reward] = env.step("click[Buy Now]")
    assert bought["outcome"][1:4] == (0.0, True, False)
    assert bought["score"][1] == bought["score"][-1]["score"] < 1.0
    assert bought["score"][-1]["stop_reason"] == "failure"


def test_seeds_and_options_name_tasks():
    env, other = (gymnasium.make(IDS["alfworld"]) for _ in range(2))
    drawn = [env.reset(seed=5)[1]["task"], *(env.reset()[1]["task"] for _ in range(4))]
    assert drawn == [other.reset(seed=5)[1]["task"], *(other.reset()[1]["task"] for _ in range(4))]
    assert len(set(drawn)) == 5
    observation, info = env.reset(options={"split": "valid_seen", "task": 7})
    assert (info["split"], info["task"]) == ("valid_seen", 7)
    assert observation != env.reset(options={"task": 7})[0]
    with pytest.raises(DataError, match="expected one of train, valid_seen"):
        env.reset(options={"split": "test"})
    with pytest.raises(ConfigError, match="expected task and split alone, found taks"):
        env.reset(options={"taks": 3})


@pytest.mark.parametrize(
    "wrong", [{"reward": "dense"}, {"render_mode": "human"}, {"max_steps": 0}, {"max_length": 0}, {"split": "no"}]
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises((ConfigError, DataError), match=next(iter(wrong))):
        TextEnv("alfworld", **wrong)


@pytest.mark.parametrize("name", IDS)
def test_any_action_is_answered_within_the_space(name):
    env = gymnasium.make(IDS[name])
    env.reset(seed=0)
    for action in HOSTILE:
        observation, reward, terminated, _, info = env.step(action)
        assert observation in env.observation_space
        assert (reward, terminated, info["invalid"]) == (0.0, False, True)


def test_the_episode_is_rendered():
    env = gymnasium.make(IDS["alfworld"], render_mode="ansi")
    observation, _ = env.reset(seed=0)
    answer, *_ = env.step("inventory")
    assert env.render() == f"{observation}\n> inventory\n{answer}"


# -------------------------------------------------------------------------------------------------- vector environments
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("name", IDS)
def test_vector_environments_play_what_single_ones_play(name, mode):
    vector = gymnasium.make_vec(IDS[name], num_envs=3, vectorization_mode=mode)
    try:
        observations, infos = vector.reset(seed=[4, 5, 6])
        experts = [PLAYERS[name].expert() for _ in range(3)]
        expected = []
        for seed in (4, 5, 6):
            env = gymnasium.make(IDS[name])
            first, info = env.reset(seed=seed)
            expected.append([first, *(step[0] for step in play(env, name, options={"task": info["task"]}))])
        seen = [[observation] for observation in observations]
        for _ in range(min(map(len, expected)) - 1):
            actions = [expert.act(texts[-1])[1] for expert, texts in zip(experts, seen, strict=True)]
            observations, rewards, terminated, _, infos = vector.step(actions)
            for texts, observation in zip(seen, observations, strict=True):
                texts.append(observation)
        assert seen == [texts[: len(seen[0])] for texts in expected]
        assert 1.0 in rewards
        assert terminated.any()
        assert "success" in list(infos["stop_reason"])
    finally:
        vector.close()


class Echo(gymnasium.Env):
    """Answers with the action."""

    observation_space = action_space = AnyText(80)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return "", {}

    def step(self, action):
        return action, 0.0, False, False, {}


@pytest.mark.parametrize("copied", [True, False])
def test_texts_pass_shared_memory_unchanged(copied):
    texts = [text for text in HOSTILE if len(text) <= 80] + ["x" * 80, "y" * 79]
    vector = AsyncVectorEnv([Echo, Echo], copy=copied)
    try:
        assert tuple(vector.reset()[0]) == ("", "")
        for text in texts:
            assert tuple(vector.step([text, text[::-1]])[0]) == (text, text[::-1])
    finally:
        vector.close()


# ---------------------------------------------------------------------------------------------------------- text spaces
@given(st.text(st.characters(), max_size=120))
def test_all_short_texts_are_in_the_space(text):
    space = AnyText(100)
    assert (text in space) == (len(text) <= 100)
    if text in space:
        codes = gymnasium.spaces.utils.flatten(space, text)
        assert gymnasium.spaces.utils.unflatten(space, codes) == text


def test_a_space_of_texts_is_a_space():
    space = AnyText(100, seed=0)
    assert "\ud800" in space
    assert None not in space
    assert 3 not in space
    samples = [space.sample() for _ in range(50)]
    assert all(sample in space for sample in samples)
    assert len(set(samples)) == 50
    other = copy.deepcopy(space)
    assert other == space != AnyText(99)
    assert other.sample() == space.sample()
    assert repr(space) == "AnyText(100)"
    with pytest.raises(ValueError, match="neither mask nor probability"):
        space.sample(mask=(3, np.zeros(2, np.int8)))


class Parrot:
    """An environment whose observations are as its test wants them."""

    max_steps, score, limit = 9, 0.0, None
    metrics: dict[str, float] = {"shared": 1.0}  # noqa: RUF012 - the same object at every step

    def __init__(self, texts: list[str]) -> None:
        self.texts = iter(texts)

    def reset(self, task: Task) -> str:
        return next(self.texts)

    def step(self, action: str | None) -> StepResult:
        return StepResult(next(self.texts), 0.0, done=False, invalid=False)


class Parrots(Dataset):
    """One task, with these observations."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def tasks(self, split: str) -> list[Task]:
        return [Task("parrot", split, 0, "any")]

    def arena(self, max_steps: int) -> Arena:
        return Arena(lambda: Parrot(self.texts))

    def write(self, out):
        raise NotImplementedError

    def demonstrate(self, number, random, *, max_steps, rates=CLEAN):
        raise NotImplementedError


@pytest.mark.parametrize("max_length", [1, 2, 3, 1000, 65536])
def test_observations_that_are_too_long_are_cut(monkeypatch, max_length):
    monkeypatch.setattr(registration, "open_dataset", lambda *_, **__: Parrots(HOSTILE))
    env = TextEnv("parrot", max_length=max_length)
    shown = [env.reset(seed=0)[0], *(env.step("on")[0] for _ in HOSTILE[1:])]
    for text, observation in zip(HOSTILE, shown, strict=True):
        assert observation in env.observation_space
        if len(text) <= max_length:
            assert observation == text
        else:
            assert len(observation) == max_length
            assert max_length == 1 or observation.endswith(" …")
            assert text.startswith(observation[:-2])
