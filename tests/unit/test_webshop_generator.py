"""The embedded shop: what it sells, what customers ask for, what is written, and where goals come from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import permutations
from pathlib import Path
from random import Random

import pytest

from empg.environments.base import Task
from empg.environments.draws import shuffled
from empg.environments.webshop.engine.goals import Goal
from empg.environments.webshop.engine.score import count_option_hits, has_attribute
from empg.environments.webshop.engine.shop import Shop
from empg.environments.webshop.generated.generator import SPLITS, Item, draw_catalogue, draw_goal
from empg.environments.webshop.generated.words import CATEGORIES, CODES, OPTION_PHRASES, REQUESTS, VALUES
from empg.environments.webshop.generated.writer import ATTRIBUTES, INSTRUCTIONS, ITEMS, write_dataset
from empg.environments.webshop.tasks import GeneratedGoals, OfficialGoals, StoredGoals
from empg.errors import ConfigError, DataError

DATA = Path(os.environ.get("EMPG_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "webshop"
#: The bytes of the shop and of six goals of each split, which no machine, process or Python version may change.
FROZEN = "ac87db63d4e41aeb74891cacfbc80af1a1e3b263f61ee8fe2d7d539ac6ec224c"
PANEL = 500
GOALS = {split: [draw_goal(split, i, 0) for i in range(PANEL)] for split in SPLITS}

DIGEST_SCRIPT = """
import sys
from empg.environments.webshop.generated.generator import SPLITS
from empg.environments.webshop.generated.writer import write_dataset
write_dataset(sys.argv[1], seed=3, sizes=dict.fromkeys(SPLITS, 6))
"""


def digest(folder: Path) -> str:
    """The hash of every file's path and content below a folder."""
    result = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        result.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return result.hexdigest()


@pytest.fixture(scope="module")
def shop() -> Shop:
    return GeneratedGoals(0).shop


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("webshop")
    write_dataset(folder, seed=0, sizes={"train": 20, "test": 10}, panel_start=5)
    return folder


def families(items: tuple[Item, ...]) -> list[list[Item]]:
    result: dict[int, list[Item]] = {}
    for item in items:
        result.setdefault(item.family, []).append(item)
    return list(result.values())


# ------------------------------------------------------------------------------------------------- the same everywhere
def test_the_bytes_are_the_same_in_every_process(tmp_path: Path) -> None:
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", DIGEST_SCRIPT, str(folder)], check=True, env=environment)
        assert digest(folder) == FROZEN


def test_a_goal_depends_on_its_coordinates_alone() -> None:
    assert [draw_goal("valid", i, 0) for i in reversed(range(20))] == GOALS["valid"][19::-1]
    assert draw_goal("valid", 0, 1) != GOALS["valid"][0]
    assert draw_catalogue(1) != draw_catalogue(0)


def test_unknown_coordinates_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"webshop split: expected one of \['train', 'valid', 'test', 'tune'\]"):
        draw_goal("valid_seen", 0, 0)
    with pytest.raises(ConfigError, match="task id: expected a number >= 0, found -1"):
        draw_goal("train", -1, 0)


# ------------------------------------------------------------------------------------------------------- the catalogue
@pytest.mark.parametrize("seed", [0, 1])
def test_the_catalogue_has_the_promised_size_and_short_names(seed: int) -> None:
    items = draw_catalogue(seed)
    assert len(items) >= 1000
    assert len({item.category.name for item in items}) == 5
    assert len({item.kind.name for item in items}) == 50
    assert len({item.asin for item in items}) == len(items)
    for item in items:
        assert re.fullmatch(r"B0[A-Z]{6}\d\d", item.asin)
        assert item.asin[2:8] == CODES[item.kind.name] + CODES[item.attributes[0]]
        assert 3 <= len(item.title.split()) <= 7
        assert 1 <= len(item.options) <= 2


def test_no_two_names_have_the_same_code() -> None:
    assert len(set(CODES.values())) == len(CODES)
    assert (CODES["body lotion"], CODES["body scrub"], CODES["slim"]) == ("BOD", "BOY", "SLI")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_family_is_of_one_split_and_its_products_differ_from_the_first_in_one_way(seed: int) -> None:
    ways: Counter[str] = Counter()
    for family in families(draw_catalogue(seed)):
        assert len({(item.split, item.title, item.description, item.kind.name) for item in family}) == 1
        looks = [(item.attributes, item.options, item.price) for item in family]
        assert len(set(looks)) == len(family) >= 3
        differing = [[a != b for a, b in zip(look, first, strict=True)] for first in looks for look in looks]
        # Around one of them, the family's first, the others lie at one difference each.
        around = [differing[i * len(looks) : (i + 1) * len(looks)] for i in range(len(looks))]
        centre = min(around, key=lambda rows: sum(map(sum, rows)))
        assert sorted(map(sum, centre)) == [0] + [1] * (len(family) - 1)
        ways.update(("feature", "option", "price")[row.index(True)] for row in centre if any(row))
    assert all(ways[way] > 100 for way in ("feature", "option", "price"))


def test_every_split_has_every_kind() -> None:
    kinds = {split: {item.kind.name for item in draw_catalogue(0) if item.split == split} for split in SPLITS}
    assert all(len(found) == 50 for found in kinds.values())


def test_the_score_tells_attributes_apart(shop: Shop) -> None:
    for item in draw_catalogue(0)[::3]:
        product = shop.by_asin[item.asin]
        vocabulary = (*item.category.title_attributes, *item.category.feature_attributes)
        assert {a for a in vocabulary if has_attribute(product, a)} == set(item.attributes)


@pytest.mark.parametrize("name", sorted(VALUES))
def test_the_score_tells_the_values_of_an_option_apart(name: str) -> None:
    for wanted, chosen in permutations(VALUES[name], 2):
        goal = Goal("", "", "", "", "", "", ("a",), 10.0, {name: wanted})
        assert count_option_hits(goal, [wanted], "mended") == 1
        assert count_option_hits(goal, [chosen], "mended") == 0


# ----------------------------------------------------------------------------------------------------------- the goals
@pytest.mark.parametrize("split", SPLITS)
def test_a_panel_asks_for_its_own_products_and_never_twice_for_the_same(split: str) -> None:
    own = {item.asin for item in draw_catalogue(0) if item.split == split}
    assert {goal.asin for goal in GOALS[split]} <= own
    wishes = {(goal.asin, goal.attributes, tuple(goal.options.items())) for goal in GOALS[split]}
    assert len(wishes) == PANEL
    assert Counter(goal.category for goal in GOALS[split]) == {category.name: PANEL // 5 for category in CATEGORIES}


@pytest.mark.parametrize(("split", "products", "late"), [("valid", 160, 115), ("test", 163, 88)])
def test_early_goals_are_of_all_products_and_late_ones_are_not(split: str, products: int, late: int) -> None:
    """Why panels start at 0 (config/data.yaml). Later a category with less to ask for begins again."""
    goals = [draw_goal(split, i, 0) for i in range(3000)]
    panels = goals[:500], goals[2500:]
    assert [len({goal.asin for goal in panel}) for panel in panels] == [products, late]
    assert len({goal.query for goal in panels[0]}) == 50 > len({goal.query for goal in panels[1]})
    wishes = [(goal.asin, goal.attributes, tuple(goal.options.items())) for goal in goals]
    assert len(set(wishes[:2000])) == 2000


def test_fresh_panels_repeat_nothing() -> None:
    goals = [draw_goal("test", i, 0) for i in range(3 * PANEL)]
    assert len({(goal.asin, goal.attributes, tuple(goal.options.items())) for goal in goals}) == 3 * PANEL


@pytest.mark.parametrize("split", SPLITS)
def test_the_goal_itself_scores_1_and_a_near_duplicate_does_not(split: str, shop: Shop) -> None:
    near = {item.asin: family for family in families(draw_catalogue(0)) for item in family}
    for goal in GOALS[split][:200]:
        assert shop.score(shop.by_asin[goal.asin], goal, goal.options).total == 1.0
        assert goal.price_upper % 10 == 0
        scores = []
        for item in near[goal.asin]:
            offered = dict(item.options)
            possible = {name: value for name, value in goal.options.items() if value in offered[name]}
            scores.append(shop.score(shop.by_asin[item.asin], goal, possible).total)
        assert min(scores) < 1.0


def test_search_alone_does_not_decide(shop: Shop) -> None:
    """For 35 to 65 % of the goals, the first product that a search for the title finds is good enough."""
    served = 0
    for goal in GOALS["test"]:
        product = shop.by_asin[shop.search(f"{goal.attributes[0]} {goal.query}")[0]]
        possible = {n: v for n, v in goal.options.items() if v in product.options.get(n, ())}
        served += shop.score(product, goal, possible).total == 1.0
    assert 0.35 * PANEL < served < 0.65 * PANEL


def test_requests_are_worded_in_all_ways_and_name_all_that_is_wanted() -> None:
    openings = Counter()
    for goal in GOALS["train"]:
        for words in (*goal.attributes, *goal.options.values(), goal.query):
            assert words in goal.instruction
        assert goal.instruction.endswith(f", and price lower than {goal.price_upper:.2f} dollars")
        openings[" ".join(goal.instruction.split()[:2])] += 1
    assert len(REQUESTS) >= 12
    assert len(OPTION_PHRASES) == 4
    assert sum(count >= 10 for count in openings.values()) >= 12


def test_shuffling_keeps_the_items() -> None:
    assert sorted(shuffled(Random(0), range(50))) == list(range(50)) != shuffled(Random(0), range(50))


# ----------------------------------------------------------------------------------------------------------- the files
def test_the_written_shop_is_the_drawn_one(dataset: Path, shop: Shop) -> None:
    stored = StoredGoals(dataset).shop
    fields = (
        "asin",
        "name",
        "description",
        "bullets",
        "category",
        "query",
        "product_category",
        "options",
        "attributes",
        "pricing",
        "price_tag",
    )
    assert [[getattr(p, f) for f in fields] for p in stored.products] == [
        [getattr(p, f) for f in fields] for p in shop.products
    ]
    assert stored.prices == shop.prices
    assert stored.search("waterproof boots") == shop.search("waterproof boots")


def test_the_written_goals_are_the_drawn_ones(dataset: Path) -> None:
    stored, generated = StoredGoals(dataset), GeneratedGoals(0)
    for split, ids in (("train", range(20)), ("test", range(5, 15))):
        assert stored.tasks(split) == generated.tasks(split, ids)
        assert [stored.goal(t) for t in stored.tasks(split)] == [draw_goal(split, i, 0) for i in ids]


def test_upstreams_engine_finds_the_instructions_in_its_own_file(dataset: Path) -> None:
    folder = dataset / "shop"
    shop = Shop.load(folder / ITEMS, folder / ATTRIBUTES, folder / INSTRUCTIONS)

    def content(goals: list[Goal]) -> list[tuple[object, ...]]:
        cut = ", and price lower than"
        return sorted((g.asin, g.instruction.partition(cut)[0], g.attributes, tuple(g.options.items())) for g in goals)

    stored = StoredGoals(dataset)
    assert content(list(shop.goals)) == content([stored.goal(t) for s in ("train", "test") for t in stored.tasks(s)])


def test_a_folder_is_read_once_and_read_anew_when_it_was_written_anew(tmp_path: Path) -> None:
    write_dataset(tmp_path, seed=0, sizes={"train": 1})
    first = StoredGoals(tmp_path).shop
    assert StoredGoals(tmp_path).shop is first
    write_dataset(tmp_path, seed=1, sizes={"train": 1})
    assert StoredGoals(tmp_path).shop.products[0].asin == draw_catalogue(1)[0].asin != first.products[0].asin


def test_what_is_not_as_it_was_written_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, seed=0, sizes={"train": 2})
    with pytest.raises(DataError, match=r"train/tasks.jsonl: expected task 2, found no such id"):
        StoredGoals(tmp_path).goal(Task("webshop", "train", 2, "beauty"))
    with pytest.raises(DataError, match=r"valid/tasks.jsonl: expected the index of a split, found: No such file"):
        StoredGoals(tmp_path).tasks("valid")
    index = tmp_path / "train" / "tasks.jsonl"
    lines = index.read_text().splitlines()
    record = json.loads(lines[1])
    del record["goal"]["attributes"]
    for broken in (lines[0][:50], json.dumps(record), "[]"):
        index.write_text(f"{broken}\n")
        with pytest.raises(DataError, match=r"train/tasks.jsonl: expected one JSON object a line"):
            StoredGoals(tmp_path).tasks("train")
    index.write_text("\n".join(lines))
    items = tmp_path / "shop" / ITEMS
    items.write_text(items.read_text().replace("$12.00", "$13.00"))
    with pytest.raises(DataError, match=r"task 0: expected a shop of sha256 \w{64}, found one of \w{64}"):
        StoredGoals(tmp_path).tasks("train")
    items.unlink()
    with pytest.raises(DataError, match=r"items_shuffle.json: expected a file of the shop, found: No such file"):
        assert StoredGoals(tmp_path).shop


# ----------------------------------------------------------------------------------------------------- upstream's files
@pytest.fixture
def official(tmp_path: Path) -> Path:
    """The thousand real products under upstream's names, without people's instructions."""
    if not DATA.is_dir():
        pytest.skip(f"needs the test data: {DATA} is absent and EMPG_TEST_DATA does not name another place")
    (tmp_path / "items_shuffle_1000.json").symlink_to(DATA / "items_shuffle_1000.rebuilt.json")
    (tmp_path / "items_ins_v2_1000.json").symlink_to(DATA / "items_ins_v2_1000.json")
    return tmp_path


def test_official_goals_are_divided_as_upstream_does(official: Path) -> None:
    goals = OfficialGoals(official)
    tasks = {split: goals.tasks(split) for split in ("train", "valid", "test")}
    assert {split: len(found) for split, found in tasks.items()} == {"train": 5410, "valid": 1000, "test": 500}
    assert goals.goal(tasks["test"][0]) is goals.shop.goals[0]
    assert goals.goal(tasks["valid"][0]) is goals.shop.goals[500]
    assert goals.goal(tasks["train"][-1]) is goals.shop.goals[-1]
    assert tasks["test"][0].type == goals.shop.goals[0].category
    with pytest.raises(DataError, match="test: expected a task id below 500, found 500"):
        goals.goal(Task("webshop", "test", 500, "fashion"))
    with pytest.raises(DataError, match=r"expected one of \['test', 'valid', 'train'\], found 'tune'"):
        goals.tasks("tune")
    products = {split: {goals.goal(task).asin for task in found} for split, found in tasks.items()}
    assert products["test"] & products["train"], "upstream divides goals, not products"


def test_official_files_that_do_not_suffice_are_refused(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    with pytest.raises(DataError, match="WEBSHOP_DATA: expected the folder of upstream's files, found it unset"):
        OfficialGoals()
    monkeypatch.setenv("WEBSHOP_DATA", str(official / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere: expected items_shuffle.json, found no such file; download"):
        OfficialGoals().tasks("test")
    (official / "items_human_ins.json").symlink_to(DATA / "items_human_ins.in_1000.json")
    goals = OfficialGoals(official)
    assert len(goals.tasks("test")) == 13
    with pytest.raises(DataError, match="valid: expected more than 500 goals, found 13"):
        goals.tasks("valid")
