"""Goals: what an instruction asks for (princeton-nlp/WebShop, web_agent_site/engine/goal.py)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from empg.environments.webshop.engine.catalogue import Fields, Product, read_records
from empg.errors import DataError
from empg.seeding import derive_seed

NO_LIMIT = 1_000_000.0  # dollars: the limit of a product that is dearer than every price step
_PRICE_STEPS = tuple(10.0 * i for i in range(1, 100))
_SHUFFLE_SEED = 233  # upstream's


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing to buy.

    ``options`` maps an option's name to the wanted value; ``price_upper`` is in dollars; ``weight`` is how often
    upstream draws the goal, relative to others; ``is_human`` tells a person's instruction from a synthetic one.
    """

    asin: str
    category: str
    query: str
    name: str
    product_category: str
    instruction: str
    attributes: tuple[str, ...]
    price_upper: float
    options: Mapping[str, str]
    weight: float = 1.0
    is_human: bool = False

    @classmethod
    def from_upstream(cls, record: Mapping[str, Any]) -> Goal:
        """A goal in upstream's form, where a person's goal has a list of options without their names."""
        options = record["goal_options"]
        is_human = not isinstance(options, Mapping)
        return cls(
            asin=record["asin"],
            category=record["category"],
            query=record["query"],
            name=record["name"],
            product_category=record["product_category"],
            instruction=record["instruction_text"],
            attributes=tuple(record["attributes"]),
            price_upper=record["price_upper"],
            options=_named(options, ()) if is_human else dict(options),
            weight=record["weight"],
            is_human=is_human,
        )


def draw_price(product: Product, seed: int) -> float:
    """The price in dollars that counts when the product is bought: its own, or a uniform draw from its range.

    Upstream draws without a seed, so its instances disagree; here the draw depends on (seed, asin).
    """
    if len(product.pricing) == 1:
        return product.pricing[0]
    low, high = product.pricing
    return low + (high - low) * Random(derive_seed(seed, "price", product.asin)).random()


def draw_price_limit(price: float, rng: Random) -> float:
    """A price limit in dollars: the greater of two different draws from the next four multiples of 10 below 1,000.

    :data:`NO_LIMIT` where fewer than two of these are above the price.
    """
    steps = [step for step in _PRICE_STEPS if step > price][:4]
    if len(steps) < 2:
        return NO_LIMIT
    first = int(rng.random() * len(steps))
    second = int(rng.random() * (len(steps) - 1))
    return steps[max(first, second + (second >= first))]


def _limit_text(limit: float) -> str:
    return "" if limit == NO_LIMIT else f", and price lower than {limit:.2f} dollars"


def synthetic_goals(products: Sequence[Product], prices: Mapping[str, float], *, seed: int) -> list[Goal]:
    """For each product with an instruction, one goal for each combination of its options; all with one price limit.

    A goal weighs the mean, over its attributes, of 1 / (number of goals with that attribute).
    """
    goals = []
    for product in products:
        if product.instruction is None:
            continue
        limit = draw_price_limit(prices[product.asin], Random(derive_seed(seed, "price limit", product.asin)))
        names = sorted(product.options)
        for values in itertools.product(*(product.options[name] for name in names)):
            options = dict(zip(names, values, strict=True))
            wanted = ", and ".join(f"{name}: {value}" for name, value in options.items())
            text = product.instruction + (f" with {wanted}" if wanted else "") + _limit_text(limit)
            goals.append(_goal(product, text, product.instruction_attributes, limit, options))
    counts = Counter(attribute for goal in goals for attribute in goal.attributes)
    return [
        replace(goal, weight=sum(1.0 / counts[name] for name in goal.attributes) / len(goal.attributes))
        for goal in goals
    ]


def human_goals(
    products: Sequence[Product], path: str | Path, prices: Mapping[str, float], *, seed: int, strict: bool = True
) -> list[Goal]:
    """Read ``items_human_ins.json``: one goal for each instruction that names an attribute; all weigh the same.

    Args:
        products: the catalogue.
        path: the file.
        prices: asin → the price that counts.
        seed: of the price limits.
        strict: whether an instruction for an unknown product is an error; if not, it is left out, as upstream does.

    Raises:
        DataError: the file or a record is malformed; names file, record, expected and found.
    """
    path = Path(path)
    records: dict[str, Any] = read_records(path, dict)
    known = {product.asin for product in products}
    for asin in records:
        if strict and asin not in known:
            raise DataError(f"{path}: record {asin}: expected the asin of a product in the items file, found none such")
    goals = []
    for product in products:
        instructions = records.get(product.asin, [])
        if not isinstance(instructions, list):
            raise DataError(f"{path}: record {product.asin}: expected a list, found {instructions!r:.100}")
        for number, record in enumerate(instructions):
            field = Fields(record, f"{path}: record {product.asin}, instruction {number}")
            rng = Random(derive_seed(seed, "price limit", product.asin, number))
            limit = draw_price_limit(prices[product.asin], rng)
            text = field.text("instruction").strip(".") + _limit_text(limit)
            attributes = field.texts("instruction_attributes")
            descriptions = field.texts("options") if "options" in field.record else ()
            options = _named(field.texts("instruction_options"), descriptions)
            if attributes:
                goals.append(replace(_goal(product, text, attributes, limit, options), is_human=True))
    return goals


def _goal(
    product: Product, instruction: str, attributes: tuple[str, ...], limit: float, options: dict[str, str]
) -> Goal:
    return Goal(
        asin=product.asin,
        category=product.category,
        query=product.query,
        name=product.name,
        product_category=product.product_category,
        instruction=instruction,
        attributes=attributes,
        price_upper=limit,
        options=options,
    )


def _named(values: Sequence[str], descriptions: Sequence[str]) -> dict[str, str]:
    """Values with the names that descriptions such as "color: red" give them, or else "option 1", "option 2", …"""
    names = {value: name for name, _, value in (text.partition(": ") for text in descriptions)}
    named: dict[str, str] = {}
    for number, value in enumerate(values, start=1):
        name = names.get(value, "")
        named[f"option {number}" if not name or name in named else name] = value
    return named


def upstream_order(goals: Sequence[Goal]) -> list[Goal]:
    """The goals as upstream numbers them: after ``random.seed(233); random.shuffle(goals)``.

    The shuffle is written out: every version of Python draws the same bits, but ``shuffle`` may use them otherwise.
    """
    shuffled, rng = list(goals), Random(_SHUFFLE_SEED)
    for i in range(len(shuffled) - 1, 0, -1):
        bits = (i + 1).bit_length()
        j = rng.getrandbits(bits)
        while j > i:
            j = rng.getrandbits(bits)
        shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
    return shuffled
