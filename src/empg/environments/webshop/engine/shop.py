"""The shop: catalogue, goals and search, shared by the sessions that play in it."""

from __future__ import annotations

import itertools
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from empg.environments.webshop.engine.catalogue import Product, read_products
from empg.environments.webshop.engine.goals import Goal, draw_price, human_goals, synthetic_goals, upstream_order
from empg.environments.webshop.engine.nouns import Nouns, rule_nouns, spacy_nouns
from empg.environments.webshop.engine.score import Rule, Score, score_purchase
from empg.environments.webshop.engine.search import TOP, Search, SearchIndex
from empg.environments.webshop.engine.session import Mode, Session
from empg.seeding import derive_seed


@dataclass(frozen=True, eq=False)
class Shop:
    """Everything that sessions share; read-only. ``dataclasses.replace`` makes one with another search or other prices.

    ``prices`` maps an asin to the price that counts when the product is bought; ``goals`` are in upstream's order.
    """

    products: tuple[Product, ...]
    goals: tuple[Goal, ...]
    prices: Mapping[str, float]
    search: Search
    rule: Rule = "mended"
    nouns: Nouns = rule_nouns
    show_attributes: bool = False
    seed: int = 0

    @classmethod
    def load(
        cls,
        items: str | Path,
        attributes: str | Path,
        instructions: str | Path | None = None,
        *,
        seed: int = 0,
        score: Rule = "mended",
        nouns: Nouns | None = None,
        search: Search | None = None,
        prices: Mapping[str, float] | None = None,
        show_attributes: bool = False,
        strict: bool = True,
    ) -> Shop:
        """Read upstream's files.

        Args:
            items: ``items_shuffle*.json``, the products.
            attributes: ``items_ins_v2*.json``, their attributes and the synthetic instructions.
            instructions: ``items_human_ins.json``; the goals are people's if it is given, synthetic if not.
            seed: of the prices and price limits that are drawn.
            score: "mended", or "upstream" with its defects, and with spaCy's nouns where its model is installed.
            nouns: finds the nouns of titles, in place of the rule's or spaCy's.
            search: finds products, in place of an index that is built of them.
            prices: asin → price, in place of the drawn ones.
            show_attributes: whether item pages have the button "Attributes", which upstream hides by default.
            strict: whether instructions for unknown products and products without attributes are errors; if not, the
                former are left out and the latter get "DUMMY_ATTR", as upstream does.

        Raises:
            DataError: a file or record is missing or malformed; names file, record, expected and found.
        """
        products = read_products(items, attributes, strict=strict)
        charged = {product.asin: draw_price(product, seed) for product in products} | dict(prices or {})
        if instructions is None:
            goals = synthetic_goals(products, charged, seed=seed)
        else:
            goals = human_goals(products, instructions, charged, seed=seed, strict=strict)
        if nouns is None:
            nouns = (score == "upstream" and spacy_nouns()) or rule_nouns
        return cls(
            products=products,
            goals=tuple(upstream_order(goals)),
            prices=charged,
            search=SearchIndex(products) if search is None else search,
            rule=score,
            nouns=nouns,
            show_attributes=show_attributes,
            seed=seed,
        )

    @cached_property
    def by_asin(self) -> Mapping[str, Product]:
        """The products by their ids."""
        return {product.asin: product for product in self.products}

    @cached_property
    def _cumulative_weights(self) -> list[float]:
        return list(itertools.accumulate(goal.weight for goal in self.goals))

    def draw_goal(self, rng: Random) -> Goal:
        """A goal, drawn by weight. (Upstream's is off by one: it never gives the first goal and the last too often.)"""
        cumulative = self._cumulative_weights
        return self.goals[min(bisect(cumulative, rng.random() * cumulative[-1]), len(cumulative) - 1)]

    def session(self, goal: Goal, mode: Mode = "text") -> Session:
        """A session that plays ``goal``; cheap, and independent of others.

        Raises ValueError for an unknown mode.
        """
        if mode not in ("text", "text_rich"):
            raise ValueError(f"webshop: expected mode text or text_rich, found {mode!r}")
        return Session(self, goal, mode)

    def score(self, product: Product, goal: Goal, options: Mapping[str, str]) -> Score:
        """Score buying the product for the goal with the chosen options."""
        price = self.prices[product.asin]
        return score_purchase(product, goal, price=price, options=options, rule=self.rule, nouns=self.nouns)

    def find(self, keywords: Sequence[str]) -> Sequence[Product]:
        """The products that a search finds, best first.

        A first word in angle brackets asks for something else, and the next words say what: ``<a>`` for all products
        with this attribute, ``<c>`` with this category, ``<q>`` with this query. ``<r>`` asks for 50 random products,
        the same ones for the same words.
        """
        rest = " ".join(keywords[1:]).strip()
        if keywords[0] == "<r>":
            rng = Random(derive_seed(self.seed, "random search", rest))
            return sorted(self.products, key=lambda _: rng.random())[:TOP]
        if keywords[0] == "<a>":
            return [product for product in self.products if rest in product.attributes]
        if keywords[0] == "<c>":
            category = keywords[1].strip() if len(keywords) > 1 else None
            return [product for product in self.products if product.category == category]
        if keywords[0] == "<q>":
            return [product for product in self.products if product.query == rest]
        found = list(self.search(" ".join(keywords)))[:TOP]
        return [self.by_asin[asin] for asin in found if asin in self.by_asin]
