"""The score of a purchase, as one pure function.

    score = r_type · (attribute hits + option hits + [price ≤ limit]) / (attributes + options + 1)

(WebShop, arXiv 2207.01206, equation 1; princeton-nlp/WebShop, web_agent_site/engine/goal.py.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from empg.environments.webshop.engine.catalogue import Product, category_path
from empg.environments.webshop.engine.goals import Goal
from empg.environments.webshop.engine.normalise import COLOURS, normalise_colour, token_set_ratio
from empg.environments.webshop.engine.nouns import Nouns, rule_nouns

Rule = Literal["mended", "upstream"]

SIMILAR = 85  # a token-set ratio above this is a hit
RELATED_TITLE = 0.2  # a title score above this makes the type right
DISTANT_TITLE = 0.1  # one below this makes it wrong


@dataclass(frozen=True, slots=True)
class Score:
    """A purchase's score in [0, 1] and its parts, named as upstream names them.

    ``r_att`` and ``r_option`` are the shares of the goal's attributes and options that were hit, ``r_option`` None for
    a goal without options; ``w_att``, ``w_option`` and ``w_price`` are the weights of the parts.
    """

    total: float
    r_type: float
    r_att: float
    r_option: float | None
    r_price: bool
    w_att: float
    w_option: float
    w_price: float
    query_match: bool
    category_match: bool
    title_score: float

    def as_upstream(self) -> dict[str, float | bool]:
        """The parts in upstream's form: no total, and no ``r_option`` and ``w_option`` for a goal without options."""
        names = ("r_type", "r_att", "w_att", "query_match", "category_match", "title_score")
        options = () if self.r_option is None else ("r_option", "w_option")
        return {name: getattr(self, name) for name in (*names, *options, "r_price", "w_price")}


def score_purchase(
    product: Product,
    goal: Goal,
    *,
    price: float,
    options: Mapping[str, str],
    rule: Rule = "mended",
    nouns: Nouns = rule_nouns,
) -> Score:
    """Score buying ``product`` at ``price`` with the chosen ``options`` (name → value).

    Args:
        product: what was bought.
        goal: what was wanted; has at least one attribute.
        price: in dollars.
        options: the chosen options.
        rule: "upstream" compares the chosen values with the pairs (name, value) of the goal's options, as upstream does
            by mistake; "mended" with the values.
        nouns: finds the nouns of a title.
    """
    r_type, query_match, category_match, title_score = type_reward(product, goal, nouns)
    attribute_hits = sum(has_attribute(product, attribute) for attribute in goal.attributes)
    option_hits = count_option_hits(goal, list(options.values()), rule)
    r_price = price <= goal.price_upper
    parts = len(goal.attributes) + len(goal.options) + 1
    return Score(
        total=(attribute_hits + option_hits + r_price) / parts * r_type,
        r_type=r_type,
        r_att=attribute_hits / len(goal.attributes),
        r_option=option_hits / len(goal.options) if goal.options else None,
        r_price=r_price,
        w_att=len(goal.attributes) / parts,
        w_option=len(goal.options) / parts,
        w_price=1 / parts,
        query_match=query_match,
        category_match=category_match,
        title_score=title_score,
    )


def type_reward(product: Product, goal: Goal, nouns: Nouns) -> tuple[float, bool, bool, float]:
    """(r_type, query_match, category_match, title_score).

    The title score is the number of different nouns that both titles have, over the number of nouns, repeated ones
    included, of the goal's title; 0.2 where that has none. r_type is 0 where no noun is shared, 0.1 for a title score
    below 0.1; otherwise 1 if the queries are equal, two category names are shared or the title score is above 0.2; else
    0.5.
    """
    query_match = product.query == goal.query
    category_match = len(product.category_path & category_path(goal.product_category)) >= 2
    wanted = nouns(goal.name)
    shared = len(set(nouns(product.name)) & set(wanted))
    title_score = shared / len(wanted) if wanted else RELATED_TITLE
    if title_score == 0.0:
        r_type = 0.0
    elif title_score < DISTANT_TITLE:
        r_type = 0.1
    elif query_match or category_match or title_score > RELATED_TITLE:
        r_type = 1.0
    else:
        r_type = 0.5
    return r_type, query_match, category_match, title_score


def has_attribute(product: Product, attribute: str) -> bool:
    """Whether an attribute of the product is similar, or its title, bullets or description contain this one."""
    return (
        attribute in product.attributes
        or any(token_set_ratio(own, attribute) > SIMILAR for own in product.attributes)
        or any(attribute in text for text in product.texts)
    )


def count_option_hits(goal: Goal, chosen: list[str], rule: Rule) -> int:
    """The number of the goal's options that are similar to a chosen value once colours are normalised."""
    chosen = [normalise_colour(value) for value in chosen]
    if rule == "upstream" and not goal.is_human:
        wanted = [_normalised_pair(name, value) for name, value in goal.options.items()]
        return sum(any(token_set_ratio(own, pair) > SIMILAR for own in chosen) for pair in wanted)
    values = [normalise_colour(value) for value in goal.options.values()]
    exact = rule == "mended"  # upstream misses a value without a letter or digit even where both are equal
    return sum(
        any((exact and own == value) or token_set_ratio(own, value) > SIMILAR for own in chosen) for value in values
    )


def _normalised_pair(name: str, value: str) -> str:
    """What upstream compares of a pair: the colour if one of the two is the name of one, else the pair's repr."""
    pair = (name, value)
    return next((colour for colour in COLOURS if colour in pair), repr(pair))
