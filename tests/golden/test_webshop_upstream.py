"""The engine answers, scores and numbers its goals as upstream's (princeton-nlp/WebShop at 64fa2a5) did.

The sessions and scores were recorded from upstream's own engine on a thousand real products. Its search was replaced
there, so a session carries its rankings and prices. A rule replaced its spaCy model, and the tests give our engine the
same rule.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from empg.environments.webshop.engine.goals import Goal
from empg.environments.webshop.engine.nouns import rule_nouns
from empg.environments.webshop.engine.score import score_purchase
from empg.environments.webshop.engine.shop import Shop

DATA = Path(os.environ.get("EMPG_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data")) / "webshop"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no EMPG_TEST_DATA and no ../shared/data")


def every_word(title: str) -> list[str]:
    """The rule that stood in for spaCy when the data were recorded."""
    return [word.lower() for word in re.findall(r"[A-Za-z0-9']+", title)]


def lines(name: str) -> list[dict[str, Any]]:
    with (DATA / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop.load(
        DATA / "items_shuffle_1000.rebuilt.json", DATA / "items_ins_v2_1000.json", score="upstream", nouns=every_word
    )


@pytest.fixture(scope="module")
def sessions() -> list[dict[str, Any]]:
    return lines("upstream_sessions.jsonl")


def replay(shop: Shop, recorded: dict[str, Any], mode: Any) -> int:
    """Play a recorded session, compare every answer and say how many steps were refused."""
    ranking: list[str] = []
    playing = dataclasses.replace(shop, search=lambda query: ranking, prices=shop.prices | recorded["prices"])
    session = playing.session(Goal.from_upstream(recorded["goal"]), mode)
    refused = 0
    for number, step in enumerate(recorded["steps"]):
        before = session.observation
        ranking = step.get("ranking", [])
        if step["action"] is None:
            observation = session.reset()
        else:
            result = session.step(step["action"])
            observation = result.observation
            assert (number, result.reward, result.done) == (number, step["reward"], step["done"])
            refused += result.invalid
            assert not result.invalid or observation == before
        assert (number, observation) == (number, step[mode])
        assert session.available_actions == {name: step[name] for name in ("has_search_bar", "clickables")}
    assert {"asin": session.asin, "options": session.options} == recorded["bought"]
    assert (session.score and session.score.as_upstream()) == recorded["verbose"]
    return refused


@pytest.mark.parametrize("mode", ["text", "text_rich"])
def test_every_recorded_session_is_reproduced(shop: Shop, sessions: list[dict[str, Any]], mode: str) -> None:
    refused = [replay(shop, recorded, mode) for recorded in sessions]
    assert len(refused) == 40
    assert 10 < sum(refused) < 100  # the sessions hold invalid and malformed actions too


def test_every_recorded_score_is_reproduced(shop: Shop) -> None:
    recorded = lines("upstream_scores.jsonl")
    assert len(recorded) == 2000
    for record in recorded:
        score = score_purchase(
            shop.by_asin[record["asin"]],
            Goal.from_upstream(record["goal"]),
            price=record["price"],
            options=record["options"],
            rule="upstream",
            nouns=every_word,
        )
        assert (score.total, score.as_upstream()) == (record["reward"], record["info"])


def test_goals_are_upstreams_in_its_order(shop: Shop, sessions: list[dict[str, Any]]) -> None:
    assert len(shop.goals) == 6910
    for recorded in sessions:
        ours, theirs = shop.goals[recorded["goal_index"]], Goal.from_upstream(recorded["goal"])
        text, limit = ", and price lower than ", {"price_upper": 0.0}  # upstream draws the limit without a seed
        assert ours.instruction.partition(text)[0] == theirs.instruction.partition(text)[0]
        assert dataclasses.replace(ours, instruction="", **limit) == dataclasses.replace(
            theirs, instruction="", **limit
        )


def exact_purchases(shop: Shop, goals: tuple[Goal, ...]) -> int:
    """Goals for which buying exactly what they ask for scores 1.0."""
    return sum(shop.score(shop.by_asin[goal.asin], goal, goal.options).total == 1.0 for goal in goals)


def test_buying_exactly_the_goal_scores_one(shop: Shop) -> None:
    mended = dataclasses.replace(shop, rule="mended", nouns=rule_nouns)
    assert exact_purchases(mended, mended.goals) == 6910
    assert exact_purchases(shop, shop.goals[:500]) == 480  # upstream hands the goal's options over as pairs


def test_human_goals(shop: Shop) -> None:
    people = Shop.load(
        DATA / "items_shuffle_1000.rebuilt.json",
        DATA / "items_ins_v2_1000.json",
        DATA / "items_human_ins.in_1000.json",
        search=shop.search,
    )
    assert len(people.goals) == 13
    assert all(goal.is_human and goal.weight == 1 for goal in people.goals)
    assert exact_purchases(people, people.goals) == 13
    loafers = next(goal for goal in people.goals if "loafers" in goal.instruction)
    assert loafers.options == {"color": "black1901", "size": "10.5"}
    assert re.fullmatch(r"i am looking .* soles, and price lower than \d+\.00 dollars", loafers.instruction)
