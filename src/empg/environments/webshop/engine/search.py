"""Search: BM25 over one lower-cased text per product, in memory, one index for all sessions of a process.

The text is that of upstream's index (princeton-nlp/WebShop, search_engine/convert_product_file_format.py): title,
description, first bullet, options. Words are prepared as Lucene's analyser for English prepares them, but with a newer
stemmer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import tantivy

from empg.environments.bm25 import BODY, Ranking, encodable, make_analyser, make_index, write
from empg.environments.webshop.engine.catalogue import Product

Search = Callable[[str], Sequence[str]]
"""Query → asins, best first. The query is in lower case and of any length; a search never raises."""

TOP = 50
"""The number of products that a search finds at most."""

# The stop words of Lucene's analyser for English.
_STOP_WORDS = (
    *("a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not"),
    *("of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will"),
    "with",
)
_POSSESSIVE = re.compile(r"['’]s\b")
_MOST_TERMS = 1024  # different words of a query that count, as in Lucene
_LONGEST_QUERY = 20_000  # characters of a query that count
_KEPT_SEARCHES = 4096  # episodes of a group often ask the same


def searchable_text(product: Product) -> str:
    """The text of a product that is searched."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    return " ".join((product.name, product.description, *product.bullets[:1], options)).lower()


class SearchIndex:
    """Finds the ``TOP`` products that fit a query best; equal ones in the catalogue's order. Read-only."""

    def __init__(self, products: Sequence[Product]) -> None:
        self._asins = [product.asin for product in products]
        analyser = make_analyser(tantivy.Filter.custom_stopword(list(_STOP_WORDS)))
        index = make_index(analyser)
        write(index, ({BODY: _POSSESSIVE.sub("", searchable_text(product))} for product in products))
        self._ranking = Ranking(index, analyser, most_terms=_MOST_TERMS)
        self._kept = lru_cache(maxsize=_KEPT_SEARCHES)(self._find)

    def __call__(self, query: str) -> list[str]:
        """Asins, best first. A word counts as often as the query has it."""
        return list(self._kept(query[:_LONGEST_QUERY]))

    def _find(self, query: str) -> tuple[str, ...]:
        text = encodable(query).lower()
        words = Counter(self._ranking.terms(_POSSESSIVE.sub("", text)))
        return tuple(self._asins[row] for _, row, _ in self._ranking.rank(words, TOP))
