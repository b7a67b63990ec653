"""A BM25 index of a corpus on disk: built once, memory-mapped, the same answers from every build of it."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import tantivy
from filelock import FileLock

from empg.environments.bm25 import BODY, ROW, Ranking, encodable, make_analyser, make_index, write
from empg.environments.deepsearch.search.corpus import Passage, read_corpus, title_key
from empg.errors import DataError
from empg.files import atomic_directory, read_json, write_json

_FINGERPRINT = "fingerprint.json"
_SETTINGS = {"analyzer": "simple, 40 letters at most, lower case, English stems", "fields": 1, "format": 1}
_MAX_QUERY_TERMS = 128  # different words of a query that count
_MAX_PAGE_PASSAGES = 100
_SCORE_DIGITS = 4
_KEPT_SEARCHES = 4096  # episodes of a group often ask the same


class Hit(NamedTuple):
    """A passage that a query found. ``score``: BM25, greater is better, at least 0.

    Of another server's passages ``score`` is whatever that gives, and ``id`` and ``score`` may be unknown: None.
    """

    id: str | None
    title: str
    text: str
    score: float | None


class Page(NamedTuple):
    """All the text under one title."""

    title: str
    text: str


class Index:
    """BM25 over one stemmed field of title and text. Several threads and processes may read at once.

    Ties are broken by the order of the corpus. Scores are rounded to four decimals: their last bits depend on how the
    index is cut into segments, and results must not depend on it.
    """

    def __init__(self, index: tantivy.Index) -> None:
        self._ranking = Ranking(index, _analyser(), most_terms=_MAX_QUERY_TERMS)
        self._searcher = self._ranking.searcher
        self._kept = lru_cache(maxsize=_KEPT_SEARCHES)(self._find)

    @classmethod
    def build(cls, corpus_jsonl: Path | str, directory: Path | str) -> Index:
        """Index a corpus file into a directory, or open what is there if it was built from the same bytes and settings.

        The directory appears when it is complete and replaces an older one. Processes that build the same one wait for
        the first. Raises :class:`~empg.errors.DataError` for a corpus that
        :func:`~empg.environments.deepsearch.search.corpus.read_corpus` refuses.
        """
        corpus, target = Path(corpus_jsonl), Path(directory)
        wanted = {**_settings(), "corpus_sha256": _sha256(corpus)}
        index = cls._reusable(target, wanted)
        if index is None:
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(target.with_name(f".{target.name}.lock")):
                index = cls._reusable(target, wanted)
                if index is None:
                    _build(corpus, target, wanted)
                    index = cls.open(target)
        return index

    @classmethod
    def open(cls, directory: Path | str) -> Index:
        """Open a built index. Raises :class:`~empg.errors.DataError` if it is absent, broken or of another version."""
        folder = Path(directory)
        found = read_json(folder / _FINGERPRINT)
        wanted = _settings()
        if not isinstance(found, dict) or any(found.get(key) != value for key, value in wanted.items()):
            raise DataError(f"{folder / _FINGERPRINT}: expected an index with {wanted}, found {str(found)[:300]}")
        try:
            index = cls(tantivy.Index.open(str(folder)))
            index.search("the", 1)  # some missing files come to light only now
        except (ValueError, OSError) as cause:
            raise DataError(f"{folder}: expected an index, found one that does not open: {cause}") from None
        if len(index) != found.get("passages"):
            raise DataError(f"{folder}: expected {found.get('passages')} passages, found {len(index)}")
        return index

    @classmethod
    def _reusable(cls, target: Path, wanted: dict[str, Any]) -> Index | None:
        try:
            index, found = cls.open(target), read_json(target / _FINGERPRINT)
        except DataError:
            return None
        return index if all(found.get(key) == value for key, value in wanted.items()) else None

    def __len__(self) -> int:
        """The number of passages."""
        return int(self._searcher.num_docs)

    def search(self, query: str, k: int) -> list[Hit]:
        """The at most ``k`` best passages that share a term with the query, best first.

        A query is a bag of words without operators, and no text is a wrong query. Its first 128 different terms count,
        each once. Raises ValueError if ``k`` is below 1.
        """
        if k < 1:
            raise ValueError(f"k: expected at least 1, found {k}")
        return list(self._kept(query, k))

    def _find(self, query: str, k: int) -> tuple[Hit, ...]:
        words = dict.fromkeys(self._ranking.terms(query), 1)
        ranked = self._ranking.rank(words, k, digits=_SCORE_DIGITS)
        return tuple(Hit(*self._passage(address), score) for score, _, address in ranked)

    def page(self, title: str) -> Page | None:
        """The passages with this title, whatever its case and spacing, as one text; None if there are none.

        Only the first hundred passages of a page are read.
        """
        key = title_key(encodable(title))
        query = tantivy.Query.term_query(self._ranking.schema, "key", key, "basic")
        order = tantivy.Order.Asc
        found = self._searcher.search(query, _MAX_PAGE_PASSAGES, count=False, order_by_field=ROW, order=order).hits
        passages = [self._passage(address) for _, address in found]
        return Page(passages[0].title, " ".join(p.text for p in passages)) if passages else None

    def _passage(self, address: tantivy.DocAddress) -> Passage:
        document = self._searcher.doc(address)
        title, _, text = str(document.get_first(BODY)).partition("\n")
        return Passage(str(document.get_first("id")), title, text)


def _build(corpus: Path, target: Path, wanted: dict[str, Any]) -> None:
    with atomic_directory(target) as folder:
        passages = write(_empty(folder), map(_document, read_corpus(corpus)))
        write_json(folder / _FINGERPRINT, {**wanted, "passages": passages})


def _document(passage: Passage) -> dict[str, str]:
    return {"id": passage.id, "key": title_key(passage.title), BODY: f"{passage.title}\n{passage.text}"}


def _empty(folder: Path) -> tantivy.Index:
    return make_index(_analyser(), folder, stored=True, exact={"id": True, "key": False})


def _analyser() -> tantivy.TextAnalyzer:
    return make_analyser(tantivy.Filter.remove_long(40), tantivy.Filter.lowercase())


def _settings() -> dict[str, Any]:
    return {**_SETTINGS, "tantivy": version("tantivy")}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as cause:
        raise DataError(f"{path}: expected a corpus file, found: {cause.strerror}") from None
