"""Search: BM25 over one lower-cased text per product, in memory, one index for all sessions of a process.

The text is that of upstream's index (princeton-nlp/WebShop, search_engine/convert_product_file_format.py): title,
description, first bullet, options. Words are prepared as by Lucene's analyser for English, but for a newer stemmer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import tantivy

from empg.environments.webshop.engine.catalogue import Product

Search = Callable[[str], Sequence[str]]
"""Query → asins, best first. The query is in lower case and of any length; a search never raises."""

TOP = 50
_FIELD, _NUMBER = "contents", "number"
_ANALYSER = "english"
# The stop words of Lucene's analyser for English.
_STOP_WORDS = (
    *("a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not"),
    *("of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will"),
    "with",
)
_POSSESSIVE = re.compile(r"['’]s\b")
_MOST_TERMS = 1024  # different words of a query that count, as in Lucene
_LONGEST_QUERY = 20_000  # characters of a query that count
_HEAP = 256_000_000  # bytes: above what one segment needs, for document numbers in the catalogue's order


def searchable_text(product: Product) -> str:
    """What is searched of a product."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    return " ".join((product.name, product.description, *product.bullets[:1], options)).lower()


class SearchIndex:
    """Finds the ``TOP`` products that fit a query best; equal ones in the catalogue's order. Read-only."""

    def __init__(self, products: Sequence[Product]) -> None:
        self._asins = [product.asin for product in products]
        builder = tantivy.SchemaBuilder()
        builder.add_text_field(_FIELD, tokenizer_name=_ANALYSER, index_option="freq")
        builder.add_integer_field(_NUMBER, fast=True)
        self._schema = builder.build()
        self._analyser = _analyser()
        self._index = tantivy.Index(self._schema)
        self._index.register_tokenizer(_ANALYSER, self._analyser)
        self._index.config_reader(reload_policy="Manual")
        writer = self._index.writer(heap_size=_HEAP, num_threads=1)
        for number, product in enumerate(products):
            text = _POSSESSIVE.sub("", searchable_text(product))
            writer.add_document(tantivy.Document(**{_FIELD: [text], _NUMBER: [number]}))
        writer.commit()
        writer.wait_merging_threads()
        self._index.reload()
        self._searcher = self._index.searcher()

    def __call__(self, query: str) -> list[str]:
        """Asins, best first. The query is a bag of words: it has no syntax, and no text is wrong."""
        text = query[:_LONGEST_QUERY].encode("utf-8", "replace").decode()
        counts = Counter(self._analyser.analyze(_POSSESSIVE.sub("", text.lower())))
        terms = [(tantivy.Occur.Should, self._term(word, count)) for word, count in list(counts.items())[:_MOST_TERMS]]
        if not terms:
            return []
        hits = self._searcher.search(tantivy.Query.boolean_query(terms), limit=TOP, count=False).hits
        numbers = self._searcher.fast_field_values(_NUMBER, [address for _, address in hits])
        ranked = sorted((-score, int(number or 0)) for (score, _), number in zip(hits, numbers, strict=True))
        return [self._asins[number] for _, number in ranked]

    def _term(self, word: str, count: int) -> tantivy.Query:
        query = tantivy.Query.term_query(self._schema, _FIELD, word, index_option="freq")
        return query if count == 1 else tantivy.Query.boost_query(query, float(count))


def _analyser() -> tantivy.TextAnalyzer:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in (tantivy.Filter.custom_stopword(list(_STOP_WORDS)), tantivy.Filter.stemmer("english")):
        builder = builder.filter(step)
    return builder.build()
