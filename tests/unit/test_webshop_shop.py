"""Catalogue, goals, search, pages and sessions of a small made-up shop, with answers derived by hand."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from empg.environments.webshop.engine.catalogue import parse_pricing
from empg.environments.webshop.engine.goals import NO_LIMIT, Goal, draw_price, draw_price_limit, upstream_order
from empg.environments.webshop.engine.search import SearchIndex, searchable_text
from empg.environments.webshop.engine.shop import Shop
from empg.errors import EnvironmentStateError


def item(asin: str, name: str, **fields: Any) -> dict[str, Any]:
    defaults = {
        "full_description": "",
        "small_description": [],
        "category": "fashion",
        "query": " Shirts ",
        "product_category": "Clothing › Shirts",
        "customization_options": "",
        "pricing": "$9.99",
    }
    return {"asin": asin, "name": name, **defaults, **fields}


SHIRT = item(
    "B000000001",
    "Red Cotton Shirt",
    full_description="Soft & light.",
    small_description=["Machine wash", ""],
    pricing="$1,019.99 - $5.5",
    customization_options={
        "Size": [{"value": " S/M "}, {"value": 'XL 16"'}],
        "Fit": None,
        "Color": [{"value": "Red"}, {"value": "search"}, {"value": "s | m"}],
    },
)
ITEMS = [
    SHIRT,
    item("B000000002", "Blue Shirt", pricing=None),
    item("B000000002", "left out: the asin was there before"),
    item("nan", "left out"),
    item("B0000000003", "left out: the asin is too long"),
    item("B000000003", "Green Lamp", query="lamps", category="home", small_description="one bullet", pricing=""),
]
ATTRIBUTES = {
    "B000000001": {
        "attributes": ["machine wash", "long sleeve"],
        "instruction": "Find me shirts",
        "instruction_attributes": ["machine wash", "long sleeve"],
    },
    "B000000002": {
        "attributes": ["machine wash"],
        "instruction": "Find me a blue shirt",
        "instruction_attributes": ["machine wash"],
    },
    "B000000003": {"attributes": []},
}


def load(folder: Path, **options: Any) -> Shop:
    (folder / "items.json").write_text(json.dumps(ITEMS))
    (folder / "attributes.json").write_text(json.dumps(ATTRIBUTES))
    return Shop.load(folder / "items.json", folder / "attributes.json", **options)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return load(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def goal(shop: Shop) -> Goal:
    return dataclasses.replace(next(g for g in shop.goals if g.asin == "B000000002"), instruction="Buy.")


def test_products(shop: Shop) -> None:
    assert list(shop.by_asin) == ["B000000001", "B000000002", "B000000003"]
    shirt, blue, lamp = shop.products
    assert shirt.options == {"size": ("s | m", 'xl 16"'), "color": ("red", "search", "s | m")}
    assert (shirt.pricing, shirt.price_tag) == ((1019.99, 5.5), "$1019.99 to $5.5")
    assert (blue.name, blue.pricing, blue.price_tag, blue.query) == ("Blue Shirt", (100.0,), "$100.0", "shirts")
    assert (lamp.bullets, lamp.pricing) == (("one bullet",), (100.0,))


@pytest.mark.parametrize(
    ("text", "prices"),
    [
        ("$9.99", (9.99,)),
        ("$9", (9.0,)),
        ("9.99 $ 5", (5.0,)),
        ("$1,299.00 - $2", (1299.0, 2.0)),
        ("$1$2$3", (1.0, 2.0)),
    ],
)
def test_pricing(text: str, prices: tuple[float, ...]) -> None:
    assert parse_pricing(text) == prices


@pytest.mark.parametrize("text", ["9.99", "$", "$ - $5", "$1.2.3", "free", "$" + "9" * 400])
def test_pricing_that_does_not_parse(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected prices such as \$9\.99"):
        parse_pricing(text)


def test_synthetic_goals(shop: Shop) -> None:
    goals = sorted(shop.goals, key=lambda goal: (goal.asin, list(goal.options.values())))
    assert len(goals) == 7  # 3 colours × 2 sizes, and a product without options
    assert [goal.options for goal in goals[:2]] == [
        {"color": "red", "size": "s | m"},
        {"color": "red", "size": 'xl 16"'},
    ]  # options are named in alphabetical order
    assert goals[0].instruction.startswith("Find me shirts with color: red, and size: s | m")
    assert len({goal.price_upper for goal in goals[:6]}) == 1
    assert goals[0].weight == (1 / 7 + 1 / 6) / 2
    assert goals[6].weight == 1 / 7
    assert goals[6].instruction == f"Find me a blue shirt, and price lower than {goals[6].price_upper:.2f} dollars"
    assert goals[6].price_upper in (120.0, 130.0, 140.0)  # the greater of two of 110 to 140


def test_prices_and_limits_belong_to_the_seed(tmp_path: Path, shop: Shop) -> None:
    shirt = shop.products[0]
    prices = [draw_price(shirt, seed) for seed in range(20)]
    assert len(set(prices)) == 20
    assert all(5.5 <= price <= 1019.99 for price in prices)
    assert shop.prices[shirt.asin] == prices[0]
    assert load(tmp_path).goals == shop.goals
    others = [load(tmp_path, seed=seed, search=shop.search) for seed in range(1, 9)]
    assert len({other.prices["B000000001"] for other in others}) == 8
    assert len({goal.price_upper for other in others for goal in other.goals if goal.asin == "B000000002"}) > 1
    assert load(tmp_path, prices={"B000000001": 7.0}).prices["B000000001"] == 7.0


def test_price_limits() -> None:
    rng = Random(1)
    drawn = Counter(draw_price_limit(9.99, rng) for _ in range(3000))
    assert set(drawn) == {20.0, 30.0, 40.0}
    assert drawn[20.0] == pytest.approx(500, abs=75)  # one of the six pairs of 10 to 40, by its greater number
    assert drawn[40.0] == pytest.approx(1500, abs=100)
    assert {draw_price_limit(10.0, rng) for _ in range(100)} == {30.0, 40.0, 50.0}  # above the price, not at it
    assert {draw_price_limit(965.0, rng) for _ in range(100)} == {980.0, 990.0}
    assert {draw_price_limit(price, rng) for price in (980.0, 985.0, 5000.0)} == {NO_LIMIT}


def test_human_goals(tmp_path: Path) -> None:
    records = {
        "B000000001": [
            {
                "instruction": "i want a red shirt.",
                "instruction_attributes": ["machine wash"],
                "instruction_options": ["red", "xl", "red"],
                "options": ["color: red", "size: xl"],
            },
            {"instruction": "left out", "instruction_attributes": [], "instruction_options": []},
        ],
        "B00UNKNOWN": [],
    }
    path = tmp_path / "people.json"
    path.write_text(json.dumps(records))
    shop = load(tmp_path, instructions=path, strict=False, prices={"B000000001": 2000.0})
    (goal,) = shop.goals
    assert goal.options == {"color": "red", "size": "xl", "option 3": "red"}
    assert (goal.instruction, goal.price_upper) == ("i want a red shirt", NO_LIMIT)
    assert (goal.is_human, goal.weight, goal.attributes) == (True, 1.0, ("machine wash",))


def test_a_goal_in_upstreams_form() -> None:
    record = {
        "asin": "B000000001",
        "category": "fashion",
        "query": "shirts",
        "name": "Red Cotton Shirt",
        "product_category": "Clothing",
        "instruction_text": "Buy.",
        "attributes": ["soft"],
        "price_upper": 20.0,
        "goal_options": {"color": "red"},
        "weight": 0.5,
    }
    goal = Goal.from_upstream(record)
    assert (goal.options, goal.is_human, goal.attributes) == ({"color": "red"}, False, ("soft",))
    person = Goal.from_upstream(record | {"goal_options": ["red"]})
    assert (person.options, person.is_human) == ({"option 1": "red"}, True)


def test_upstreams_order_is_pythons_shuffle() -> None:
    numbers = list(range(1000))
    Random(233).shuffle(numbers)
    assert upstream_order(range(1000)) == numbers
    assert upstream_order([]) == []


def test_goals_are_drawn_by_weight(shop: Shop) -> None:
    rng = Random(7)
    drawn = Counter(shop.goals.index(shop.draw_goal(rng)) for _ in range(7000))
    total = sum(goal.weight for goal in shop.goals)
    for number, goal in enumerate(shop.goals):
        assert drawn[number] / 7000 == pytest.approx(goal.weight / total, abs=0.02)


def test_search_finds_by_words(shop: Shop) -> None:
    assert searchable_text(shop.products[0]) == (
        'red cotton shirt soft & light. machine wash size: s | m, xl 16", and color: red, search, s | m'
    )
    assert shop.search("lamp") == ["B000000003"]
    assert shop.search("LAMPS") == ["B000000003"]  # the words' stems count, in any case
    assert shop.search("red shirts") == ["B000000001", "B000000002"]
    assert shop.search("the of and") == shop.search("") == shop.search(" ") == shop.search("zebra") == []
    assert shop.search('lamp AND NOT (name:"x" OR [a TO') == ["B000000003"]  # there is no syntax


def test_equal_products_are_found_in_the_catalogues_order(shop: Shop) -> None:
    products = [dataclasses.replace(shop.products[2], asin=f"B{number:09}") for number in range(120)]
    found = SearchIndex(products)("green lamp")
    assert found == [product.asin for product in products[:50]]


def test_special_searches(shop: Shop) -> None:
    def found(query: str) -> list[str]:
        return [product.asin[-1] for product in shop.find(query.split(" "))]

    assert found("<a> machine wash") == ["1", "2"]
    assert found("<c> home") == ["3"]
    assert found("<c>") == found("<a>") == found("<q> nothing") == []
    assert found("<q> shirts") == ["1", "2"]
    assert sorted(found("<r>")) == ["1", "2", "3"]
    assert found("<r>") == found("<r>")
    many = dataclasses.replace(
        shop, products=tuple(dataclasses.replace(shop.products[2], asin=str(n)) for n in range(90))
    )
    first, second = (many.find(["<r>", word]) for word in ("a", "b"))
    assert len(set(first)) == len(set(second)) == 50
    assert first != second


def test_what_a_search_returns_is_cut_and_cleaned(shop: Shop, goal: Goal) -> None:
    known = [*shop.by_asin, "B00UNKNOWN"] * 30
    session = dataclasses.replace(shop, search=lambda query: known).session(goal)
    session.reset()
    assert "Page 1 (Total results: 38)" in session.step("search[x]").observation  # of the first 50


def test_pages_in_mode_text(shop: Shop, goal: Goal) -> None:
    session = shop.session(goal, "text")
    head = "Instruction: [SEP] Buy. [SEP] Back to Search"
    assert session.reset() == "WebShop [SEP] Instruction: [SEP] Buy. [SEP] Search"
    assert session.available_actions == {"has_search_bar": True, "clickables": ["search"]}
    results = session.step("search[Red Shirts]").observation
    assert results == (
        f"{head} [SEP] Page 1 (Total results: 2) [SEP] Next > [SEP] B000000001 [SEP] Red Cotton Shirt [SEP] "
        "$1019.99 to $5.5 [SEP] B000000002 [SEP] Blue Shirt [SEP] $100.0"
    )
    assert session.available_actions["clickables"] == ["back to search", "next >", "b000000001", "b000000002"]
    assert session.step("click[next >]").observation == (
        f"{head} [SEP] Page 2 (Total results: 2) [SEP] < Prev [SEP] Next >"
    )
    assert session.step("click[< prev]").observation == results
    page = session.step("click[B000000001]").observation
    assert page == (
        f'{head} [SEP] < Prev [SEP] size [SEP] s | m [SEP] xl 16" [SEP] color [SEP] red [SEP] search [SEP] s | m [SEP] '
        "Red Cotton Shirt [SEP] Price: $1019.99 to $5.5 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] "
        "Reviews [SEP] Buy Now"
    )
    assert session.available_actions["clickables"] == [
        *("back to search", "< prev", "description", "features", "reviews", "buy now"),
        *("s | m", 'xl 16"', "red", "search"),
    ]
    assert session.step("click[description]").observation == f"{head} [SEP] < Prev [SEP] Soft & light."
    assert session.available_actions["clickables"] == ["back to search", "< prev"]
    assert session.step("click[< prev]").observation == page
    assert session.step("click[features]").observation == f"{head} [SEP] < Prev [SEP] Machine wash [SEP] "
    session.step("click[< prev]")
    assert session.step("click[reviews]").observation == f"{head} [SEP] < Prev"


def test_options_in_mode_text_rich(shop: Shop, goal: Goal) -> None:
    session = shop.session(goal, "text_rich")
    session.reset()
    session.step("search[red]")
    session.step("click[b000000001]")
    page = session.step("click[red]").observation
    assert page.startswith("You have clicked red.\nInstruction:\nBuy.\n[button] Back to Search [button_]\n")
    assert "\ncolor\n  [clicked button] red [clicked button_]\n  [button] search [button_]\n" in page
    assert session.step("click[search]").invalid  # upstream refuses this word everywhere
    page = session.step("click[s | m]").observation
    assert page.startswith(
        "You have clicked s | m.\nYou have clicked s | m.\nInstruction:"
    )  # marked wherever it stands
    assert session.options == {"color": "s | m"}  # of two options with the same value the last is meant
    chosen = session.step('click[xl 16"]')
    assert session.options == {"color": "s | m", "size": 'xl 16"'}
    assert '  [button] xl 16" [button_]\n' in chosen.observation  # a quote hides the choice from the page's address
    session.step("click[features]")
    assert session.step("click[< prev]").observation == chosen.observation
    results = session.step("click[< prev]").observation
    assert session.options == {}
    assert "\n\n[clicked button] B000000001 [clicked button_]\nRed Cotton Shirt\n" in results
    session.step("click[back to search]")
    assert "[clicked button]" not in session.step("search[red]").observation


def test_words_in_quotes_look_chosen_as_upstream_shows_them(shop: Shop, goal: Goal) -> None:
    session = shop.session(goal, "text_rich")
    session.reset()
    session.step('search["red" shirt]')
    assert session.step("click[b000000001]").observation.startswith("You have clicked red.\n")
    assert session.options == {}


def test_the_names_of_pages_in_a_query_mislead_as_upstream(shop: Shop, goal: Goal) -> None:
    session = shop.session(goal)
    session.reset()
    session.step("search[search_results red]")
    session.step("click[b000000001]")
    assert "Page 0 (Total results: 1)" in session.step("click[< prev]").observation
    session.step("search[item_page red]")
    session.step("click[b000000001]")
    session.step("click[features]")
    assert "Page 1 (Total results: 1)" in session.step("click[< prev]").observation


def test_attributes_are_shown_where_asked_for(shop: Shop, goal: Goal) -> None:
    session = dataclasses.replace(shop, show_attributes=True).session(goal, "text_rich")
    session.reset()
    session.step("search[red]")
    assert "[button] Reviews [button_]\n[button] Attributes [button_]" in session.step("click[b000000001]").observation
    assert session.step("click[attributes]").observation.endswith(
        "[button] < Prev [button_]\n machine wash\n long sleeve\nfashion\nshirts\nClothing › Shirts\n"
    )


def test_buying(shop: Shop, goal: Goal) -> None:
    session = shop.session(goal, "text")
    with pytest.raises(EnvironmentStateError, match="expected reset"):
        session.step("search[red]")
    session.reset()
    session.step("search[red]")
    session.step("click[b000000001]")
    session.step("click[s | m]")
    session.step('click[xl 16"]')
    assert session.score is None
    result = session.step("click[Buy Now]")
    assert session.score is not None
    assert (result.reward, result.done, result.invalid) == (session.score.total, True, False)
    assert result.observation.startswith(
        "Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] (Paste it in your MTurk interface.) [SEP] "
        'Purchased [SEP] asin [SEP] B000000001 [SEP] options [SEP] {"color": "s | m", "size": "xl 16\\""} [SEP] attrs'
    )
    assert f"Your score (min 0.0, max 1.0) [SEP] {session.score.total} [SEP] Reward Details" in result.observation
    assert session.available_actions == {"has_search_bar": False, "clickables": []}
    assert (session.asin, session.options) == ("B000000001", {"color": "s | m", "size": 'xl 16"'})
    with pytest.raises(EnvironmentStateError, match="expected reset"):
        session.step("search[red]")
    session.reset()
    assert (session.score, session.asin, session.options) == (None, None, {})


@pytest.mark.parametrize(
    "action",
    [
        *(None, "", "search", "search[]", "search red", "Search[red]", " search[red]", "search[a[b]", "search[re\nd]"),
        *("click[search]", "click[nothing]", "click[]", "click[B000000001]", "click[ search ]", "buy[red]"),
    ],
)
def test_invalid_actions_change_nothing(shop: Shop, goal: Goal, action: str | None) -> None:
    session = shop.session(goal, "text_rich")
    first = session.reset()
    result = session.step(action)
    assert (result.observation, result.reward, result.done, result.invalid) == (first, 0.0, False, True)


@pytest.mark.parametrize("action", ["search[RED]", "search[red] and more", "search[red]\nclick[x]", "search[red]]"])
def test_upstreams_lenient_reading_of_actions(shop: Shop, goal: Goal, action: str) -> None:
    session = shop.session(goal)
    session.reset()
    assert "B000000001" in session.step(action).observation


def test_modes(shop: Shop, goal: Goal) -> None:
    with pytest.raises(ValueError, match="html"):
        shop.session(goal, "html")  # type: ignore[arg-type]
