"""A session takes any text for any number of steps, and the reading of actions is upstream's regular expression."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empg.environments.webshop.engine.session import parse_action
from empg.environments.webshop.engine.shop import Shop

VALUES = ["s", "s", 'x"l"', "é", "", "< prev", "description", "buy now", "next >", "search", "back to search", "\u3000"]
NAMES = ["Lamp", " ", "", "\n", "<b>&amp;</b>", "[SEP] [button] x [button_]", "\xa0", "lamp \u20ac"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Products whose texts are the worst that files can hold."""
    folder = tmp_path_factory.mktemp("shop")
    items = [
        {
            "asin": f"B00000000{number}",
            "name": name,
            "full_description": name,
            "small_description": [name, "lamp"],
            "category": "home",
            "query": "lamps",
            "product_category": "Home",
            "customization_options": {"size": [{"value": v} for v in VALUES], "": [{"value": "s"}], "color": []},
            "pricing": "$1 - $2",
        }
        for number, name in enumerate(NAMES)
    ]
    described = {"attributes": ["soft"], "instruction": "Find <it>", "instruction_attributes": ["soft"]}
    (folder / "items.json").write_text(json.dumps(items))
    (folder / "attributes.json").write_text(json.dumps({item["asin"]: described for item in items}))
    Path(folder / "people.json").write_text(
        json.dumps(
            {
                "B000000000": [
                    {"instruction": "a lamp", "instruction_attributes": ["soft"], "instruction_options": ["s"]}
                ]
            }
        )
    )
    return Shop.load(folder / "items.json", folder / "attributes.json", folder / "people.json", show_attributes=True)


WORDS = st.sampled_from(["lamp", "<r>", "<a>", "<c>", "<q>", "item_page", "search_results", '"s"', "item_sub_page"])
SEARCHES = st.lists(WORDS, min_size=1, max_size=4).map(lambda words: f"search[{' '.join(words)}]")
ACTIONS = st.one_of(st.integers(0, 40), SEARCHES, st.text(), st.text().map(lambda t: f"search[{t}]"), st.none())


@given(actions=st.lists(ACTIONS, max_size=25))
@settings(max_examples=60, deadline=None)
def test_any_text_is_answered(shop: Shop, actions: list[int | str | None]) -> None:
    """A number stands for the click on that one of the things on the page."""
    plain, rich = shop.session(shop.goals[0], "text"), shop.session(shop.goals[0], "text_rich")
    before = (plain.reset(), rich.reset())
    for action in actions:
        if isinstance(action, int):
            clickables = plain.available_actions["clickables"]
            action = f"click[{clickables[action % len(clickables)]}]"  # noqa: PLW2901
        result, other = plain.step(action), rich.step(action)
        assert (result.reward, result.done, result.invalid) == (other.reward, other.done, other.invalid)
        assert plain.available_actions == rich.available_actions
        assert not result.invalid or (result.observation, other.observation) == before
        assert (plain.asin, plain.options) == (rich.asin, rich.options)
        assert 0.0 <= result.reward <= 1.0
        before = (result.observation, other.observation)
        if result.done:
            break
        assert result.reward == 0.0


@given(st.text(alphabet="ab[]\n \u0130", max_size=14))
@settings(max_examples=150, deadline=None)
def test_actions_are_read_by_upstreams_regular_expression(text: str) -> None:
    match = re.match(r"(.+)\[(.+)\]", text)
    assert parse_action(text) == ((match[1], match[2].lower()) if match else (text, ""))


@pytest.mark.parametrize("hostile", ["[" * 300_000, "search[" + "lamp a" * 200_000 + "]", "search[" + "]" * 300_000])
def test_long_text_costs_little(shop: Shop, hostile: str) -> None:
    session = shop.session(shop.goals[0], "text_rich")
    session.reset()
    start = time.process_time()
    session.step(hostile)
    session.step("search[" + "".join(f"w{number} " for number in range(100_000)) + "lamp]")
    assert time.process_time() - start < 5.0
    assert session.step("search[\ud800 lamp]").observation.count("B00") > 1


def test_every_goal_of_a_person_is_reachable(shop: Shop) -> None:
    session = shop.session(shop.goals[0])
    session.reset()
    session.step("search[lamp]")
    session.step("click[b000000000]")
    session.step("click[s]")
    assert session.step("click[buy now]").reward == 1.0
