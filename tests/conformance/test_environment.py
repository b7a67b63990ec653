"""Every environment passes the checks of :mod:`empg.environments.conformance`; that of the example package too."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empg.environments.alfworld import expert as alfworld_expert
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.generated.rooms import PROFILES
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.base import Environment, Expert, Task
from empg.environments.conformance import CHECKS, Case, fingerprint
from empg.environments.deepsearch import expert as deepsearch_expert
from empg.environments.deepsearch.environment import DeepSearchEnvironment
from empg.environments.deepsearch.generated.writer import corpus_text
from empg.environments.deepsearch.search.index import Index
from empg.environments.deepsearch.search.retrieval import LocalRetriever
from empg.environments.deepsearch.tasks import GeneratedQuestions
from empg.environments.webshop import expert as webshop_expert
from empg.environments.webshop.environment import WebShopEnvironment
from empg.environments.webshop.tasks import GeneratedGoals
from empg.files import write_text


def _solver(make: Callable[[], Environment], expert: Callable[[], Expert]) -> Callable[[Task], list[str]]:
    """The actions of an expert that reads the observations."""

    @cache
    def solve(task: Task) -> list[str]:
        environment, agent, actions = make(), expert(), []
        observation, done = environment.reset(task), False
        while not done:
            actions.append(agent.act(observation)[1])
            result = environment.step(actions[-1])
            observation, done = result.observation, result.done
        return actions

    return solve


def _case(make: Callable[[], Environment], tasks: list[Task], expert: Callable[[], Expert]) -> Case:
    return Case(make, tasks, _solver(make, expert))


def _alfworld(profile: str) -> Case:
    games = GeneratedGames(profile, 0)
    return _case(
        lambda: AlfworldEnvironment(games, PROFILES[profile].max_steps),
        games.tasks("train", range(12)),
        alfworld_expert.Expert,
    )


def _webshop() -> Case:
    goals = GeneratedGoals(0)
    tasks = goals.tasks("train", range(6, 18))
    return _case(lambda: WebShopEnvironment(goals, 30), tasks, webshop_expert.Expert)


def _deepsearch() -> Case:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    write_text(folder / "corpus.jsonl", corpus_text(0))
    retriever = LocalRetriever(Index.build(folder / "corpus.jsonl", folder / "index"))
    questions = GeneratedQuestions(0)
    return _case(
        lambda: DeepSearchEnvironment(questions, retriever, max_steps=12),
        questions.tasks("train", range(12)),
        deepsearch_expert.Expert,
    )


def _example() -> Case:
    """The environment of the example package, which is not installed here."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples/environment"))
    try:
        from empg_example_environment import DoorsData, DoorsDataset, DoorsInterface
    finally:
        del sys.path[0]
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    dataset = DoorsDataset(DoorsData(type="doors"), folder, DoorsInterface())
    dataset.write(folder)
    return Case.of(dataset, max_steps=12)


CASES = {
    "alfworld-small": lambda: _alfworld("small"),
    "alfworld-official": lambda: _alfworld("official"),
    "webshop": _webshop,
    "deepsearch": _deepsearch,
    "example": _example,
}


@cache
def named(name: str) -> Case:
    return CASES[name]()


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_conforms(name: str, check: Callable[[Case], None]) -> None:
    check(named(name))


PROCESS = """
import hashlib, importlib.util, sys
spec = importlib.util.spec_from_file_location("conformance", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["conformance"] = module
spec.loader.exec_module(module)
print(module.fingerprint(module.named(sys.argv[2])))
"""


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_task_is_the_same_in_another_process(name: str) -> None:
    for hash_seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", PROCESS, __file__, name],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        assert found.stdout.strip() == fingerprint(named(name))


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
