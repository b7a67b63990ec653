"""Drawing the embedded shop: a catalogue, and what customers ask for in it.

Both are pure functions of the seed. Products come in families of near-duplicates with one title. The others differ
from a family's first product in a feature, in the values of the first option or in the price. Which of them fits
depends on the request, and search alone cannot tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product as combinations
from random import Random
from typing import TypeVar

from empg.environments.draws import pick, shuffled
from empg.environments.webshop.engine.goals import Goal, draw_price_limit
from empg.environments.webshop.generated.words import (
    BRANDS,
    CATEGORIES,
    CODES,
    DESCRIPTIONS,
    FIRST_FEATURES,
    OPTION_PHRASES,
    REQUESTS,
    TITLE_ENDS,
    VALUES,
    Category,
    Kind,
)
from empg.errors import ConfigError
from empg.seeding import derive_seed

T = TypeVar("T")
#: Attributes, and options with their values.
Wish = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]

SPLITS = ("train", "valid", "test", "tune")
#: Which split each of a kind's eight families belongs to, before they are shuffled.
_FAMILY_SPLITS = ("train",) * 5 + ("valid", "test", "tune")
#: How the products of a family differ from its first one. A family has one of these tuples.
_VARIANTS = (("feature", "option"), ("feature", "price"), ("option", "price"), ("feature", "option", "price"))
_PRICES = (12, 15, 18, 24, 28, 32, 35, 38, 45, 48)
#: More than any price limit that a customer sets lies above the price (at most 40 dollars, as upstream).
_DEARER = 50
#: How the shop adds the price limit to an instruction, as upstream does.
LIMIT = ", and price lower than {:.2f} dollars"


@dataclass(frozen=True, slots=True)
class Item:
    """A product: its page's text, its attributes (the title's first), its options in order, its price in dollars."""

    asin: str
    kind: Kind
    category: Category
    family: int
    split: str
    title: str
    description: str
    features: tuple[str, ...]
    attributes: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...]], ...]
    price: int

    @property
    def code(self) -> str:
        """What its id says of it: the kind's and the title attribute's three letters."""
        return CODES[self.kind.name] + CODES[self.attributes[0]]

    @property
    def path(self) -> str:
        """Its place among the shop's departments, in upstream's form."""
        return f"{self.category.label} › {self.kind.group} › {self.kind.name.capitalize()}"


@cache
def draw_catalogue(seed: int) -> tuple[Item, ...]:
    """Every product of the shop, shuffled: 50 kinds with eight families each, of three or four products."""
    kinds = [(category, kind) for category in CATEGORIES for kind in category.kinds]
    products: list[Item] = []
    for number, (category, kind) in enumerate(kinds):
        rng = Random(derive_seed(seed, "webshop", "kind", number))
        families = len(_FAMILY_SPLITS)
        splits = shuffled(rng, _FAMILY_SPLITS)
        attributes = shuffled(rng, category.title_attributes)
        drawn = [
            product
            for i in range(families)
            for product in _draw_family(rng, category, kind, attributes[i], (number * families + i, splits[i]))
        ]
        products += drawn
    return tuple(_number(shuffled(Random(derive_seed(seed, "webshop", "order")), products)))


def draw_goal(split: str, task_id: int, seed: int) -> Goal:
    """The goal that (split, task id, seed) names, the same on every machine, in every process, in any order.

    Categories follow each other by task id, and so do the products of a split within a category. No two tasks of a
    split ask for the same things of one product until everything has been asked of every product of its category. Late
    numbers have only the products that offer most to ask for. Raises
    :class:`~empg.errors.ConfigError` for an unknown split or a negative id.
    """
    if split not in SPLITS:
        raise ConfigError(f"webshop split: expected one of {list(SPLITS)}, found {split!r}")
    if task_id < 0:
        raise ConfigError(f"webshop task id: expected a number >= 0, found {task_id}")
    number, category = divmod(task_id, len(CATEGORIES))
    asked = _wishes_of_all(split, CATEGORIES[category].name, seed)
    product, (attributes, options) = asked[number % len(asked)]
    rng = Random(derive_seed(seed, "webshop", "goal", split, task_id))
    limit = draw_price_limit(product.price, rng)
    request = _word(rng, product.kind, attributes, options).strip(".")
    return Goal(
        asin=product.asin,
        category=product.category.name,
        query=product.kind.name,
        name=product.title,
        product_category=product.path,
        instruction=f"{request}{LIMIT.format(limit)}",
        attributes=attributes,
        price_upper=limit,
        options=dict(options),
        is_human=True,
    )


def _number(products: Iterable[Item]) -> Iterator[Item]:
    """Give each product its id: the code, and a number that counts the products with that code."""
    counts: Counter[str] = Counter()
    for product in products:
        counts[product.code] += 1
        yield replace(product, asin=f"B0{product.code}{counts[product.code]:02}")


def _draw_family(rng: Random, category: Category, kind: Kind, attribute: str, place: tuple[int, str]) -> list[Item]:
    """The products of one family; ``place`` is its number and its split."""
    family, split = place
    features = shuffled(rng, category.feature_attributes)
    options = [(kind.options[0], tuple(shuffled(rng, VALUES[kind.options[0]])[:4]))]
    if rng.random() < 0.5:
        options.append((kind.options[1], VALUES[kind.options[1]]))
    title = " ".join(filter(None, (pick(rng, BRANDS), attribute, kind.name, pick(rng, TITLE_ENDS))))
    opening = pick(rng, FIRST_FEATURES)
    first = Item(
        asin="",
        kind=kind,
        category=category,
        family=family,
        split=split,
        title=title,
        description=pick(rng, DESCRIPTIONS),
        features=(opening, *features[:2]),
        attributes=(attribute, *features[:2]),
        options=tuple(options),
        price=pick(rng, _PRICES),
    )
    return [first, *(_vary(rng, first, variant, features[2]) for variant in pick(rng, _VARIANTS))]


def _vary(rng: Random, first: Item, variant: str, other_feature: str) -> Item:
    """A near-duplicate of a family's first product that differs from it in one way."""
    if variant == "price":
        return replace(first, price=first.price + _DEARER)
    if variant == "option":
        (name, values), *rest = first.options
        others = [value for value in VALUES[name] if value not in values]
        changed = shuffled(rng, [*shuffled(rng, others)[:2], *shuffled(rng, values)[:2]])
        return replace(first, options=((name, tuple(changed)), *rest))
    place = 1 if rng.random() < 0.5 else 2
    features = [other_feature if i == place else feature for i, feature in enumerate(first.features)]
    return replace(first, features=tuple(features), attributes=(first.attributes[0], *features[1:]))


@cache
def _families(seed: int) -> dict[int, list[Item]]:
    result: dict[int, list[Item]] = {}
    for product in draw_catalogue(seed):
        result.setdefault(product.family, []).append(product)
    return result


@cache
def _by_id(seed: int) -> dict[str, Item]:
    return {product.asin: product for product in draw_catalogue(seed)}


@cache
def _wishes_of_all(split: str, category: str, seed: int) -> list[tuple[Item, Wish]]:
    """What can be asked for in a category of a split: one wish for each product, then a second one for each, …"""
    items = [item for item in draw_catalogue(seed) if (item.split, item.category.name) == (split, category)]
    # The catalogue's order breaks ties in a search: a range of ids must not hold its first products alone.
    items = shuffled(Random(derive_seed(seed, "webshop", split, category)), items)
    wishes = [(item, _wishes(item.asin, seed)) for item in items]
    most = max(len(own) for _, own in wishes)
    return [(item, own[turn]) for turn in range(most) for item, own in wishes if turn < len(own)]


@cache
def _wishes(asin: str, seed: int) -> list[Wish]:
    """The attributes and options that a customer who wants this product may ask for, shuffled.

    No other product of its family meets all of them at this price.
    """
    product = _by_id(seed)[asin]
    title, *features = product.attributes
    others = [p for p in _families(seed)[product.family] if p.asin != asin]
    pairs = [[(name, value) for value in values] for name, values in product.options]
    chosen = [tuple(c) for c in combinations(*pairs)]
    if len(pairs) > 1:
        chosen += [(pair,) for pair in pairs[0]]
    wishes: list[Wish] = [
        (attributes, options)
        for attributes in ((title,), *((title, feature) for feature in features))
        for options in chosen
        if not all(meets(other, product.price, attributes, options) for other in others)
    ]
    return shuffled(Random(derive_seed(seed, "webshop", "wishes", asin)), wishes)


def meets(product: Item, price: int, attributes: tuple[str, ...], options: tuple[tuple[str, str], ...]) -> bool:
    """Whether a product of the right kind has these attributes and options and costs at most ``price`` dollars."""
    offered = dict(product.options)
    return (
        product.price <= price
        and all(attribute in product.attributes for attribute in attributes)
        and all(value in offered.get(name, ()) for name, value in options)
    )


def _word(rng: Random, kind: Kind, attributes: tuple[str, ...], options: tuple[tuple[str, str], ...]) -> str:
    """The request in a customer's words, without the price limit."""
    title, *others = attributes
    verb = "are" if kind.name.endswith("s") and kind.article != "a" else "is"
    other = "".join(others)
    phrases = pick(rng, OPTION_PHRASES)
    named = "".join(phrases[name].format(name=name, value=value) for name, value in options)
    return pick(rng, REQUESTS).format(
        what=_with_article(kind.article, f"{title} {kind.name}"),
        plain=_with_article(kind.article, kind.name),
        that=f" that {verb} {other}" if other else "",
        that_too=f" and it should be {other}" if other else "",
        being=f" that {verb} {' and '.join(attributes)}",
        listed=", ".join((f"{title} {kind.name}", *others)),
        options=named,
    )


def _with_article(article: str, words: str) -> str:
    if article == "a" and words[0] in "aeiou":
        article = "an"
    return f"{article} {words}".strip()
