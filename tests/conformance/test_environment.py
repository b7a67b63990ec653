"""What every environment must satisfy. A new environment adds a case and passes all of it."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empg.environments.alfworld import expert as alfworld_expert
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.generated.rooms import PROFILES
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.base import Environment, Expert, StepResult, Task
from empg.environments.deepsearch import expert as deepsearch_expert
from empg.environments.deepsearch.environment import DeepSearchEnvironment
from empg.environments.deepsearch.generated.writer import corpus_text
from empg.environments.deepsearch.search.index import Index
from empg.environments.deepsearch.search.retrieval import LocalRetriever
from empg.environments.deepsearch.tasks import GeneratedQuestions
from empg.environments.webshop import expert as webshop_expert
from empg.environments.webshop.environment import WebShopEnvironment
from empg.environments.webshop.tasks import GeneratedGoals
from empg.errors import EnvironmentStateError
from empg.files import write_text


@dataclass(frozen=True)
class Case:
    """An environment under test: how to make one, some of its tasks, and an expert that solves these."""

    name: str
    make: Callable[[], Environment]
    tasks: list[Task]
    expert: Callable[[], Expert]


def _alfworld(profile: str) -> Case:
    games = GeneratedGames(profile, 0)
    return Case(
        f"alfworld-{profile}",
        lambda: AlfworldEnvironment(games, PROFILES[profile].max_steps),
        games.tasks("train", range(12)),
        alfworld_expert.Expert,
    )


def _webshop() -> Case:
    goals = GeneratedGoals(0)
    tasks = goals.tasks("train", range(6, 18))
    return Case("webshop", lambda: WebShopEnvironment(goals, 30), tasks, webshop_expert.Expert)


def _deepsearch() -> Case:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    write_text(folder / "corpus.jsonl", corpus_text(0))
    retriever = LocalRetriever(Index.build(folder / "corpus.jsonl", folder / "index"))
    questions = GeneratedQuestions(0)
    return Case(
        "deepsearch",
        lambda: DeepSearchEnvironment(questions, retriever, max_steps=12),
        questions.tasks("train", range(12)),
        deepsearch_expert.Expert,
    )


CASES = {
    "alfworld-small": lambda: _alfworld("small"),
    "alfworld-official": lambda: _alfworld("official"),
    "webshop": _webshop,
    "deepsearch": _deepsearch,
}


@cache
def named(name: str) -> Case:
    return CASES[name]()


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    """Each environment in turn."""
    return named(request.param)


def random_actions(case: Case, task: Task) -> Iterator[str]:
    """The same actions every time, half the expert's and half nonsense, so that the episode lasts."""
    expert, environment, rng = case.expert(), case.make(), Random(task.id)
    observation, done = environment.reset(task), False
    while not done:
        _, action = expert.act(observation)
        yield action
        result = environment.step(action)
        observation, done = result.observation, result.done
        if rng.random() < 0.5:
            yield "wave at the camera"


def play(environment: Environment, task: Task, actions: list[str]) -> list[str | StepResult]:
    """Everything that an episode says, until it ends or the actions do."""
    transcript: list[str | StepResult] = [environment.reset(task)]
    for action in actions:
        transcript.append(environment.step(action))
        if transcript[-1].done:
            break
    return transcript


def test_results_have_their_types_and_reward_comes_only_at_the_end(case: Case) -> None:
    for task in case.tasks:
        first, *results = play(case.make(), task, list(random_actions(case, task)))
        assert isinstance(first, str)
        assert first == first.strip() != ""
        for result in results:
            assert isinstance(result.observation, str)
            assert isinstance(result.reward, float)
            assert isinstance(result.done, bool)
            assert isinstance(result.invalid, bool)
            assert result.reward in (0.0, 1.0)
            assert result.done or result.reward == 0.0


def test_the_expert_earns_the_reward(case: Case) -> None:
    for task in case.tasks:
        environment, expert = case.make(), case.expert()
        observation, result = environment.reset(task), None
        while result is None or not result.done:
            result = environment.step(expert.act(observation)[1])
            observation = result.observation
        assert result.reward == 1.0
        with pytest.raises(EnvironmentStateError, match="reset"):
            environment.step("look")


def test_an_episode_ends_at_the_limit_without_reward_and_cannot_be_stepped_on(case: Case) -> None:
    environment = case.make()
    with pytest.raises(EnvironmentStateError, match="reset"):
        environment.step("look")
    for task in case.tasks[:2]:
        environment.reset(task)
        for step in range(environment.max_steps):
            result = environment.step("")
            assert (result.done, result.reward, result.invalid) == (step == environment.max_steps - 1, 0.0, True)
        with pytest.raises(EnvironmentStateError, match="reset"):
            environment.step("")


def test_an_invalid_step_leaves_the_episode_as_it_was(case: Case) -> None:
    invalid = 0
    for task in case.tasks:
        actions = list(random_actions(case, task))
        sensible = [action for action in actions if action != "wave at the camera"]
        with_nonsense, without = play(case.make(), task, actions), play(case.make(), task, sensible)
        kept = [entry for entry in with_nonsense if isinstance(entry, str) or not entry.invalid]
        assert [e if isinstance(e, str) else e.observation for e in kept] == [
            e if isinstance(e, str) else e.observation for e in without[: len(kept)]
        ]
        invalid += len(with_nonsense) - len(kept)
    assert invalid > len(case.tasks) / 2


def test_a_task_is_the_same_in_any_order_and_instance(case: Case) -> None:
    scripts = {task: list(random_actions(case, task)) for task in case.tasks}
    fresh = {task: play(case.make(), task, actions) for task, actions in scripts.items()}
    reused = case.make()
    for task in reversed(case.tasks):
        assert play(reused, task, scripts[task]) == fresh[task]
        reused.reset(task)  # left in the middle of an episode


def test_interleaved_instances_do_not_disturb_each_other(case: Case) -> None:
    scripts = [list(random_actions(case, task)) for task in case.tasks] * 10
    tasks = case.tasks * 10
    environments = [case.make() for _ in tasks]
    transcripts: list[list[str | StepResult]] = [[e.reset(t)] for e, t in zip(environments, tasks, strict=True)]
    for turn in range(max(map(len, scripts))):
        for environment, script, transcript in zip(environments, scripts, transcripts, strict=True):
            over = isinstance(transcript[-1], StepResult) and transcript[-1].done
            if turn < len(script) and not over:
                transcript.append(environment.step(script[turn]))
    for task, script, transcript in zip(tasks, scripts, transcripts, strict=True):
        assert transcript == play(case.make(), task, script)


PROCESS = """
import hashlib, importlib.util, sys
spec = importlib.util.spec_from_file_location("conformance", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["conformance"] = module
spec.loader.exec_module(module)
print(module.fingerprint(module.named(sys.argv[2])))
"""


def fingerprint(case: Case) -> str:
    """A digest of every task's transcript, admissible actions included where the environment lists them."""
    digest = hashlib.sha256()
    for task in case.tasks:
        environment = case.make()
        digest.update(environment.reset(task).encode())
        for action in random_actions(case, task):
            digest.update(repr(getattr(environment, "admissible_actions", None)).encode())
            result = environment.step(action)
            digest.update(repr(result).encode())
            if result.done:
                break
    return digest.hexdigest()


def test_a_task_is_the_same_in_another_process(case: Case) -> None:
    for hash_seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", PROCESS, __file__, case.name],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        assert found.stdout.strip() == fingerprint(case)


anything = st.one_of(
    st.text(),
    st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")),
    st.binary().map(lambda b: b.decode("latin-1")),
    st.sampled_from(["go to ", "take ", " from ", "(", "\\", "{}", "%s", "\n", "\0", "move 1 to 1"]).map(
        lambda s: s * 50
    ),
)


@pytest.mark.parametrize("name", sorted(CASES))
@settings(derandomize=True, deadline=None)
@given(texts=st.lists(anything, min_size=1, max_size=5))
def test_any_text_is_a_step(name: str, texts: list[str]) -> None:
    environment = named(name).make()
    environment.reset(named(name).tasks[0])
    for text in texts:
        result = environment.step(text)
        assert isinstance(result.observation, str)
        assert not result.done


def test_a_very_long_text_is_a_step(case: Case) -> None:
    environment = case.make()
    environment.reset(case.tasks[0])
    for text in ("x" * 1_000_000, "go to " * 200_000, " " * 1_000_000 + "look"):
        assert isinstance(environment.step(text).observation, str)
