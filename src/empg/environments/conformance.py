"""What every environment must do, as checks that a test of any package can call. No stage imports this.

::

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_environment(check, tmp_path):
        dataset = MyDataset(MyData(type="mine"), tmp_path, MyInterface())
        dataset.write(tmp_path)
        check(Case.of(dataset, max_steps=30))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from empg.environments.base import Dataset, Environment, StepResult, Task
from empg.errors import EnvironmentStateError

NONSENSE = "wave at the camera"


@dataclass(frozen=True)
class Case:
    """An environment under test: how to make one, some of its tasks, and actions that solve each of them."""

    make: Callable[[], Environment]
    tasks: list[Task]
    solve: Callable[[Task], list[str]]

    @classmethod
    def of(cls, dataset: Dataset, max_steps: int, count: int = 12) -> Case:
        """The first training tasks of a data set, solved by its own demonstrations."""
        tasks = [dataset.training_task(number) for number in range(count)]
        actions = {}
        for number, task in enumerate(tasks):
            steps = dataset.demonstrate(number, Random(number), max_steps=max_steps)
            actions[task] = [step.action for step in steps]
        return cls(dataset.arena(max_steps).make, tasks, actions.__getitem__)


def mixed_actions(case: Case, task: Task) -> Iterator[str]:
    """The same actions every time: those that solve the task, with nonsense between them, so that the episode lasts."""
    rng = Random(task.id)
    for action in case.solve(task):
        yield action
        if rng.random() < 0.5:
            yield NONSENSE


def play(environment: Environment, task: Task, actions: list[str]) -> list[str | StepResult]:
    """Everything that an episode says, until it ends or the actions do."""
    transcript: list[str | StepResult] = [environment.reset(task)]
    for action in actions:
        result = environment.step(action)
        transcript.append(result)
        if result.done:
            break
    return transcript


def _refuses_to_step(environment: Environment) -> bool:
    try:
        environment.step("look")
    except EnvironmentStateError as error:
        return "reset" in str(error)
    return False


def results_have_their_types_and_reward_comes_only_at_the_end(case: Case) -> None:
    for task in case.tasks:
        first, *results = play(case.make(), task, list(mixed_actions(case, task)))
        assert isinstance(first, str)
        assert first == first.strip() != ""
        for result in results:
            assert isinstance(result, StepResult)
            assert isinstance(result.observation, str)
            assert isinstance(result.reward, float)
            assert isinstance(result.done, bool)
            assert isinstance(result.invalid, bool)
            assert result.reward in (0.0, 1.0)
            assert result.done or result.reward == 0.0


def the_expert_earns_the_reward(case: Case) -> None:
    for task in case.tasks:
        environment = case.make()
        last = play(environment, task, case.solve(task))[-1]
        assert isinstance(last, StepResult)
        assert (last.reward, last.done) == (1.0, True)
        assert environment.score == 1.0
        assert environment.limit is None
        assert all(isinstance(value, float) for value in environment.metrics.values())
        assert _refuses_to_step(environment)


def an_episode_ends_at_the_limit_without_reward_and_cannot_be_stepped_on(case: Case) -> None:
    environment = case.make()
    assert _refuses_to_step(environment)
    for task in case.tasks[:2]:
        environment.reset(task)
        for step in range(environment.max_steps):
            result = environment.step("")
            assert (result.done, result.reward, result.invalid) == (step == environment.max_steps - 1, 0.0, True)
        assert environment.limit == "step_limit"
        assert _refuses_to_step(environment)


def an_invalid_step_leaves_the_episode_as_it_was(case: Case) -> None:
    invalid = 0
    for task in case.tasks:
        actions = [NONSENSE, *mixed_actions(case, task)]
        sensible = [action for action in actions if action != NONSENSE]
        with_nonsense, without = play(case.make(), task, actions), play(case.make(), task, sensible)
        kept = [entry for entry in with_nonsense if isinstance(entry, str) or not entry.invalid]
        assert [e if isinstance(e, str) else e.observation for e in kept] == [
            e if isinstance(e, str) else e.observation for e in without[: len(kept)]
        ]
        invalid += len(with_nonsense) - len(kept)
    assert invalid >= len(case.tasks), f"{NONSENSE!r} is nonsense in every environment"


def a_task_is_the_same_in_any_order_and_instance(case: Case) -> None:
    scripts = {task: list(mixed_actions(case, task)) for task in case.tasks}
    fresh = {task: play(case.make(), task, actions) for task, actions in scripts.items()}
    reused = case.make()
    for task in reversed(case.tasks):
        assert play(reused, task, scripts[task]) == fresh[task]
        reused.reset(task)  # left in the middle of an episode


def interleaved_instances_do_not_disturb_each_other(case: Case) -> None:
    scripts = [list(mixed_actions(case, task)) for task in case.tasks] * 10
    tasks = case.tasks * 10
    environments = [case.make() for _ in tasks]
    transcripts: list[list[str | StepResult]] = [[e.reset(t)] for e, t in zip(environments, tasks, strict=True)]
    for turn in range(max(map(len, scripts))):
        for environment, script, transcript in zip(environments, scripts, transcripts, strict=True):
            last = transcript[-1]
            if turn < len(script) and not (isinstance(last, StepResult) and last.done):
                transcript.append(environment.step(script[turn]))
    for task, script, transcript in zip(tasks, scripts, transcripts, strict=True):
        assert transcript == play(case.make(), task, script)


def a_very_long_text_is_a_step(case: Case) -> None:
    environment = case.make()
    environment.reset(case.tasks[0])
    for text in ("x" * 1_000_000, "go to " * 200_000, " " * 1_000_000 + "look"):
        assert isinstance(environment.step(text).observation, str)


CHECKS: tuple[Callable[[Case], None], ...] = (
    results_have_their_types_and_reward_comes_only_at_the_end,
    the_expert_earns_the_reward,
    an_episode_ends_at_the_limit_without_reward_and_cannot_be_stepped_on,
    an_invalid_step_leaves_the_episode_as_it_was,
    a_task_is_the_same_in_any_order_and_instance,
    interleaved_instances_do_not_disturb_each_other,
    a_very_long_text_is_a_step,
)


def fingerprint(case: Case) -> str:
    """A digest of every task's transcript, admissible actions included where the environment lists them.

    It must be the same in every process: compare it between two that start with different PYTHONHASHSEED.
    """
    digest = hashlib.sha256()
    for task in case.tasks:
        environment = case.make()
        digest.update(environment.reset(task).encode())
        for action in mixed_actions(case, task):
            digest.update(repr(getattr(environment, "admissible_actions", None)).encode())
            result = environment.step(action)
            digest.update(repr(result).encode())
            if result.done:
                break
    return digest.hexdigest()
