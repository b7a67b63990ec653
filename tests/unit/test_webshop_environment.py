"""The WebShop environment: rewards, scores, limits and modes."""

from __future__ import annotations

import pytest

from empg.environments.base import Task
from empg.environments.webshop.engine.goals import Goal
from empg.environments.webshop.engine.shop import Shop
from empg.environments.webshop.environment import WebShopEnvironment
from empg.environments.webshop.expert import Expert
from empg.environments.webshop.tasks import GeneratedGoals
from empg.errors import EnvironmentStateError

SOURCE = GeneratedGoals(0)
TASKS = SOURCE.tasks("train", range(40))
NOTHING = {"r_type": 0.0, "r_att": 0.0, "r_option": 0.0, "r_price": 0.0}


class OneGoal:
    """A source with the embedded shop and one goal of one's own."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal

    @property
    def shop(self) -> Shop:
        return SOURCE.shop

    def goal(self, task: Task) -> Goal:
        return self._goal


def buy(environment: WebShopEnvironment, goal: Goal, *, options: bool) -> float:
    """Search for the goal's own product, choose its options or none, buy it; the last step's reward."""
    environment.step(f"search[{goal.name}]")
    page = environment.step(f"click[{goal.asin}]")
    while page.invalid:
        environment.step("click[Next >]")
        page = environment.step(f"click[{goal.asin}]")
    for value in goal.options.values() if options else ():
        assert not environment.step(f"click[{value}]").invalid
    result = environment.step("click[Buy Now]")
    assert result.done
    return result.reward


def test_buying_what_is_wanted_earns_the_reward() -> None:
    for task in TASKS:
        environment = WebShopEnvironment(SOURCE, 30)
        environment.reset(task)
        assert (environment.score, environment.metrics) == (0.0, NOTHING)
        assert buy(environment, SOURCE.goal(task), options=True) == 1.0
        assert environment.score == 1.0
        assert environment.metrics == dict.fromkeys(NOTHING, 1.0)


def test_a_purchase_that_lacks_something_earns_a_score_but_no_reward() -> None:
    for task in TASKS:
        goal = SOURCE.goal(task)
        environment = WebShopEnvironment(SOURCE, 30)
        environment.reset(task)
        assert buy(environment, goal, options=False) == 0.0
        # All attributes and the price are right, no option is: (attributes + 1) / (attributes + options + 1).
        assert environment.score == (len(goal.attributes) + 1) / (len(goal.attributes) + len(goal.options) + 1)
        assert environment.metrics == {"r_type": 1.0, "r_att": 1.0, "r_option": 0.0, "r_price": 1.0}


def test_a_goal_without_options_misses_none() -> None:
    item = SOURCE.shop.products[0]
    goal = Goal(
        item.asin, item.category, item.query, item.name, item.product_category, "buy it", item.attributes[:1], 200.0, {}
    )
    environment = WebShopEnvironment(OneGoal(goal), 30)
    environment.reset(TASKS[0])
    assert buy(environment, goal, options=False) == 1.0
    assert environment.metrics["r_option"] == 1.0


def test_the_first_observation_holds_the_instruction() -> None:
    for mode in ("text", "text_rich"):
        observation = WebShopEnvironment(SOURCE, 30, mode).reset(TASKS[0])
        assert SOURCE.goal(TASKS[0]).instruction in observation
        assert observation == observation.strip()
    assert "[button] Search [button_]" in observation


def test_the_modes_show_the_same_pages_in_their_own_way() -> None:
    rich, plain, expert = WebShopEnvironment(SOURCE, 30), WebShopEnvironment(SOURCE, 30, "text"), Expert()
    observation, done = rich.reset(TASKS[0]), False
    assert " [SEP] " in plain.reset(TASKS[0])
    while not done:
        action = expert.act(observation)[1]
        result, same = rich.step(action), plain.step(action)
        observation, done = result.observation, result.done
        assert (same.reward, same.done, same.invalid) == (result.reward, done, result.invalid)
        assert " [SEP] " in same.observation
        assert "[button]" not in same.observation


def test_what_is_no_action_is_an_invalid_step_that_changes_nothing() -> None:
    environment = WebShopEnvironment(SOURCE, 30)
    first = environment.reset(TASKS[0])
    for action in (None, "", "click[Buy Now]", "click[search]", "look", "search[]"):
        result = environment.step(action)
        assert (result.observation, result.reward, result.done, result.invalid) == (first, 0.0, False, True)


def test_an_episode_ends_at_the_limit() -> None:
    environment = WebShopEnvironment(SOURCE, 2)
    environment.reset(TASKS[0])
    assert not environment.step("search[soap]").done
    result = environment.step("click[Back to Search]")
    assert (result.done, result.reward, result.invalid) == (True, 0.0, False)
    assert (environment.score, environment.metrics) == (0.0, NOTHING)
    with pytest.raises(EnvironmentStateError, match=r"webshop: expected reset\(\) before step\(\)"):
        environment.step("search[soap]")


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(EnvironmentStateError, match="found no episode in progress"):
        WebShopEnvironment(SOURCE, 2).step("search[soap]")
