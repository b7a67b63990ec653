"""The expert and its demonstrations in the embedded shop."""

from __future__ import annotations

from random import Random

import pytest

from empg.environments.base import Rates, StepResult, Task
from empg.environments.text import format_step, parse_action
from empg.environments.webshop.demonstrations import demonstrate
from empg.environments.webshop.environment import WebShopEnvironment
from empg.environments.webshop.expert import Expert, Need, page_of, parse_need
from empg.environments.webshop.generated.generator import SPLITS
from empg.environments.webshop.generated.words import VALUES
from empg.environments.webshop.tasks import GeneratedGoals
from empg.errors import DataError

SOURCE = GeneratedGoals(0)
MOST_STEPS = 15


def finish(environment: WebShopEnvironment, expert: Expert, observation: str) -> StepResult:
    """Let the expert play on to the end."""
    while True:
        result = environment.step(expert.act(observation)[1])
        if result.done:
            return result
        observation = result.observation


def task_with(*, features: bool, least_options: int = 1) -> Task:
    """A training task whose request goes beyond the title, or does not."""
    for task in SOURCE.tasks("train", range(200)):
        goal = SOURCE.goal(task)
        if (len(goal.attributes) > 1) == features and len(goal.options) >= least_options:
            return task
    raise AssertionError


def start(task: Task, max_steps: int = 30) -> tuple[WebShopEnvironment, Expert, str]:
    environment = WebShopEnvironment(SOURCE, max_steps)
    return environment, Expert(), environment.reset(task)


# ---------------------------------------------------------------------------------------------------------- the request
@pytest.mark.parametrize(
    ("instruction", "need"),
    [
        (
            "i need an organic body scrub that is cruelty free with cedar scent, and price lower than 40.00 dollars",
            Need("body scrub", ("organic",), ("cruelty free",), ("cedar",), "40.00"),
        ),
        (
            "vintage table, heavy duty, color: red, size: large, and price lower than 120.00 dollars",
            Need("table", ("vintage",), ("heavy duty",), ("red", "large"), "120.00"),
        ),
        ("find me a slim tablet in gold", Need("tablet", ("slim",), (), ("gold",), "")),
        ("get me vegan tea, vanilla", Need("tea", ("vegan",), (), ("vanilla",), "")),
    ],
)
def test_the_request_is_read(instruction: str, need: Need) -> None:
    assert parse_need(f"WebShop\nInstruction: \n{instruction}\n[button] Search [button_]") == need


@pytest.mark.parametrize("split", SPLITS)
def test_every_request_is_read_as_it_was_meant(split: str) -> None:
    for task in SOURCE.tasks(split, range(300)):
        goal, need = SOURCE.goal(task), parse_need(WebShopEnvironment(SOURCE, 1).reset(task))
        assert (need.kind, need.title_attributes + need.features) == (goal.query, goal.attributes)
        assert (need.options, need.limit) == (tuple(goal.options.values()), f"{goal.price_upper:.2f}")


def test_a_request_for_nothing_known_is_refused() -> None:
    with pytest.raises(DataError, match="expected one that names a kind of product, found 'i want a spaceship'"):
        Expert().act("WebShop\nInstruction: \ni want a spaceship\n[button] Search [button_]")


# ------------------------------------------------------------------------------------------------------------- success
@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_solves_nearly_every_task_in_few_steps(split: str) -> None:
    solved, steps = 0, 0
    for task in SOURCE.tasks(split, range(150)):
        environment = WebShopEnvironment(SOURCE, MOST_STEPS)
        steps += len(demonstrate(environment, task, Random(0)))
        solved += environment.score == 1.0
    assert solved >= 0.97 * 150
    assert steps <= 8 * 150


def test_thoughts_are_short_and_the_first_says_all_that_is_needed() -> None:
    for task in SOURCE.tasks("train", range(50)):
        goal = SOURCE.goal(task)
        steps = demonstrate(WebShopEnvironment(SOURCE, MOST_STEPS), task, Random(0))
        assert all(words in steps[0].thought for words in (goal.query, *goal.attributes, *goal.options.values()))
        for step in steps:
            assert len(step.thought.split()) <= 26
            assert parse_action(format_step(step.thought, step.action)) == step.action


# ------------------------------------------------------------------------------------------------------------ recovery
def test_a_wrong_product_is_left() -> None:
    task = task_with(features=False)
    environment, expert, observation = start(task)
    kind = SOURCE.goal(task).query
    wrong = next(p for p in SOURCE.shop.products if p.query == kind and SOURCE.goal(task).attributes[0] not in p.name)
    expert.act(observation)
    expert.played(f"search[{wrong.name}]")
    observation = environment.step(f"search[{wrong.name}]").observation
    expert.act(observation)
    expert.played(f"click[{wrong.asin}]")
    observation = environment.step(f"click[{wrong.asin}]").observation
    assert page_of(observation) == "item"
    thought, action = expert.act(observation)
    assert (thought, action) == (
        f"{SOURCE.goal(task).attributes[0]} {kind}: no. Go back.",
        "click[< Prev]",
    )
    assert finish(environment, expert, environment.step(action).observation).reward == 1.0


def test_a_wrong_value_is_replaced() -> None:
    task = task_with(features=False)
    environment, expert, observation = start(task)
    wanted = next(iter(SOURCE.goal(task).options.values()))
    while (action := expert.act(observation)[1]) != f"click[{wanted}]":
        observation = environment.step(action).observation
    values = next(v for v in VALUES.values() if wanted in v)
    wrong = next(v for v in values if v != wanted and f"[button] {v} [button_]" in observation)
    expert.played(f"click[{wrong}]")
    observation = environment.step(f"click[{wrong}]").observation
    assert f"[clicked button] {wrong} [clicked button_]" in observation
    assert expert.act(observation)[1] == f"click[{wanted}]"
    assert finish(environment, expert, environment.step(f"click[{wanted}]").observation).reward == 1.0


def test_another_page_than_the_features_is_not_taken_for_them() -> None:
    environment, expert, observation = start(task_with(features=True))
    while (action := expert.act(observation)[1]) != "click[Features]":
        observation = environment.step(action).observation
    expert.played("click[Description]")
    observation = environment.step("click[Description]").observation
    expert.act(observation)
    expert.played("click[Features]")  # refused: a sub-page has no such button
    result = environment.step("click[Features]")
    assert result.invalid
    assert expert.act(result.observation) == ("I have read this. Go back.", "click[< Prev]")
    observation = environment.step("click[< Prev]").observation
    assert expert.act(observation)[1] == "click[Features]"
    assert finish(environment, expert, environment.step("click[Features]").observation).reward == 1.0


def test_a_search_gone_astray_is_repeated() -> None:
    task = task_with(features=False)
    environment, expert, observation = start(task)
    _, search = expert.act(observation)
    expert.played("search[zzz]")
    observation = environment.step("search[zzz]").observation
    assert expert.act(observation)[1] == "click[Back to Search]"
    observation = environment.step("click[Back to Search]").observation
    assert expert.act(observation)[1] == search
    assert finish(environment, expert, environment.step(search).observation).reward == 1.0


# ------------------------------------------------------------------------------------------------------ demonstrations
def test_demonstrations_with_mistakes_recover_and_say_which_steps_are_mistakes() -> None:
    solved, steps, mistakes, refused = 0, 0, 0, 0
    for task in SOURCE.tasks("train", range(100)):
        environment, replay = WebShopEnvironment(SOURCE, 40), WebShopEnvironment(SOURCE, 40)
        episode = demonstrate(environment, task, Random(task.id), Rates(mistake=0.3, detour=0.2))
        assert demonstrate(WebShopEnvironment(SOURCE, 40), task, Random(task.id), Rates(mistake=0.3, detour=0.2)) == (
            episode
        )
        solved += environment.score == 1.0
        steps, mistakes = steps + len(episode), mistakes + sum(step.is_mistake for step in episode)
        replay.reset(task)
        for step in episode:
            assert not (step.is_mistake and "Buy Now" in step.action)
            refused += replay.step(step.action).invalid
    assert solved >= 85  # a mistake may close the right product, which is then taken for a rejected one
    assert 0.25 * steps < mistakes < 0.35 * steps
    assert 0 < refused < mistakes


def test_detours_take_time_and_do_no_harm() -> None:
    solved, steps = 0, {0.0: 0, 0.3: 0}
    for task in SOURCE.tasks("train", range(100)):
        for rate in steps:
            environment = WebShopEnvironment(SOURCE, 30)
            episode = demonstrate(environment, task, Random(task.id), Rates(detour=rate))
            assert not any(step.is_mistake for step in episode)
            steps[rate] += len(episode)
            solved += environment.score == 1.0
    assert solved >= 0.97 * 200
    assert steps[0.3] > 1.2 * steps[0.0]


def test_a_demonstration_with_a_gap_buys_without_options() -> None:
    for task in SOURCE.tasks("train", range(40)):
        environment = WebShopEnvironment(SOURCE, 30)
        whole = demonstrate(environment, task, Random(1))
        gap = demonstrate(environment, task, Random(0), Rates(gap=1.0))
        options = len(SOURCE.goal(task).options)
        assert gap[-1] == whole[-1] if not options else gap[-1].action == "click[Buy Now]"
        assert (environment.score == 1.0) == (options == 0)
        assert [step.action for step in gap[:-1]] == [step.action for step in whole[: len(gap) - 1]]
