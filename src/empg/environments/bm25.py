"""BM25 with tantivy: what the searches of WebShop and Deep Search have in common.

An index has one searched field and numbers its documents in the order in which they are written. A query is a bag of
words without operators, so no text is a wrong query. Equal scores keep the order of the documents, so the same
documents give the same ranking on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import neg
from pathlib import Path
from typing import cast

import tantivy

BODY = "body"
"""The searched field."""
ROW = "row"
"""The field that holds a document's number, from 0 on."""
_ANALYSER = "stemmed"
_HEAP_BYTES = 256_000_000  # enough for one segment of some 300,000 passages of 150 words

Ranked = tuple[float, int, tantivy.DocAddress]
"""A document that a query found: its BM25 score (greater is better, at least 0), its number and its address."""


def make_analyser(*filters: tantivy.Filter) -> tantivy.TextAnalyzer:
    """Splits a text at everything that is no letter or digit, then applies the filters, then stems English words."""
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in (*filters, tantivy.Filter.stemmer("english")):
        builder = builder.filter(step)
    return builder.build()


def make_index(
    analyser: tantivy.TextAnalyzer,
    folder: Path | None = None,
    *,
    stored: bool = False,
    exact: Mapping[str, bool] | None = None,
) -> tantivy.Index:
    """An empty index.

    Args:
        analyser: makes words of the searched field.
        folder: where the index lies; None keeps it in memory.
        stored: whether the text of the searched field can be read back.
        exact: further fields, each matched as a whole; the value says whether its text can be read back.
    """
    builder = tantivy.SchemaBuilder()
    builder.add_text_field(BODY, stored=stored, tokenizer_name=_ANALYSER, index_option="freq")
    for name, is_stored in (exact or {}).items():
        builder.add_text_field(name, stored=is_stored, tokenizer_name="raw", index_option="basic")
    builder.add_integer_field(ROW, fast=True)
    index = tantivy.Index(builder.build(), None if folder is None else str(folder), reuse=False)
    index.register_tokenizer(_ANALYSER, analyser)
    return index


def write(index: tantivy.Index, documents: Iterable[Mapping[str, str]]) -> int:
    """Add documents, each the texts of its fields by name, and return how many there are.

    One thread writes: several would number the documents in a random order. No thread writes after this returns, even
    if ``documents`` raises.
    """
    writer = index.writer(_HEAP_BYTES, num_threads=1)
    written = 0
    try:
        for fields in documents:
            document = tantivy.Document()
            for name, text in fields.items():
                document.add_text(name, text)
            document.add_integer(ROW, written)
            writer.add_document(document)
            written += 1
        writer.commit()
    finally:
        writer.wait_merging_threads()
    return written


def encodable(text: str) -> str:
    """The text with a question mark for each lone surrogate, which tantivy cannot read."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Ranking:
    """Ranks an index's documents. Read-only and safe from several threads. Sees what is committed when it is made.

    Args:
        index: an index of :func:`make_index`, new or opened again.
        analyser: makes words of queries; the one that the index was written with.
        most_terms: how many different words of a query count, the first ones.
    """

    def __init__(self, index: tantivy.Index, analyser: tantivy.TextAnalyzer, *, most_terms: int) -> None:
        index.config_reader(reload_policy="manual")
        index.reload()
        self.searcher = index.searcher()
        self.schema = index.schema
        self._analyser, self._most_terms = analyser, most_terms

    def terms(self, text: str) -> list[str]:
        """The words of a text in its order, repetitions included."""
        return self._analyser.analyze(encodable(text))

    def rank(self, weights: Mapping[str, int], limit: int, *, digits: int | None = None) -> list[Ranked]:
        """The at most ``limit`` best documents that hold one of the words, best first.

        Args:
            weights: word → how many times it counts.
            limit: at least 1.
            digits: decimals that scores are rounded to before they are compared, None for all. The last bits of a score
                depend on how an index is cut into segments.
        """
        terms = [(tantivy.Occur.Should, self._term(*weight)) for weight in list(weights.items())[: self._most_terms]]
        if not terms:
            return []
        query = tantivy.Query.boolean_query(terms)
        # In an index of one segment tantivy itself prefers the earlier of equal documents.
        is_ordered = digits is None and self.searcher.num_segments == 1
        fetched = limit if is_ordered else limit + 1
        while True:
            hits = self.searcher.search(query, fetched, count=False).hits
            scores, addresses = zip(*hits, strict=True) if hits else ((), ())
            if digits is not None:
                scores = tuple(round(score, digits) for score in scores)
            if is_ordered or len(hits) < fetched or scores[-1] < scores[limit - 1]:
                break
            fetched *= 4  # documents that share the last place were left out
        rows = cast(list[int], self.searcher.fast_field_values(ROW, list(addresses)))
        ranked = sorted(zip(map(neg, scores), rows, range(len(hits)), strict=True))[:limit]
        return [(scores[i], row, addresses[i]) for _, row, i in ranked]

    def _term(self, word: str, weight: int) -> tantivy.Query:
        query = tantivy.Query.term_query(self.schema, BODY, word, index_option="freq")
        return query if weight == 1 else tantivy.Query.boost_query(query, float(weight))
