"""What the searches of WebShop and Deep Search share: numbering, weights, ties and the bound on terms."""

from __future__ import annotations

from pathlib import Path

import pytest
import tantivy

from empg.environments.bm25 import BODY, ROW, Ranking, make_analyser, make_index, write

TEXTS = ["red cup", "blue cup", "red plate", "blue cup", "lamp"]


def ranking(texts: list[str], most_terms: int = 10) -> Ranking:
    analyser = make_analyser()
    index = make_index(analyser)
    assert write(index, ({BODY: text} for text in texts)) == len(texts)
    return Ranking(index, analyser, most_terms=most_terms)


def rows(found: Ranking, weights: dict[str, int], limit: int = 10, digits: int | None = None) -> list[int]:
    return [row for _, row, _ in found.rank(weights, limit, digits=digits)]


@pytest.mark.parametrize("digits", [None, 4])
def test_equal_scores_keep_the_order_of_the_documents(digits: int | None) -> None:
    many = ranking(["same words"] * 300)
    for limit in (1, 7, 299, 300, 1000):
        assert rows(many, {"word": 1, "same": 1}, limit, digits) == list(range(min(limit, 300)))


@pytest.mark.parametrize("digits", [None, 4])
def test_equal_scores_keep_the_order_of_the_documents_in_any_segments(digits: int | None) -> None:
    analyser = make_analyser()
    index = make_index(analyser)
    writer = index.writer(15_000_000, num_threads=1)
    for part in (2, 0, 1):
        for row in reversed(range(part, 90, 3)):
            writer.add_document(tantivy.Document(**{BODY: "same words", ROW: row}))
        writer.commit()
    writer.wait_merging_threads()
    cut = Ranking(index, analyser, most_terms=10)
    assert cut.searcher.num_segments == 3
    for limit in (1, 7, 89, 90, 100):
        assert rows(cut, {"word": 1, "same": 1}, limit, digits) == list(range(min(limit, 90)))


def test_a_words_weight_multiplies_its_score() -> None:
    found = ranking(TEXTS)
    (once, row, _), *_ = found.rank({"lamp": 1}, 1)
    (thrice, _, _), *_ = found.rank({"lamp": 3}, 1)
    assert row == 4
    assert thrice == pytest.approx(3 * once, rel=1e-6)
    assert rows(found, {"red": 1, "blue": 3}) == [1, 3, 0, 2]
    assert rows(found, {"red": 3, "blue": 1}) == [0, 2, 1, 3]


def test_words_after_the_bound_do_not_count() -> None:
    assert rows(ranking(TEXTS, most_terms=1), {"lamp": 1, "red": 1}) == [4]
    assert rows(ranking(TEXTS, most_terms=2), {"lamp": 1, "red": 1}) == [4, 0, 2]


def test_scores_that_differ_beyond_the_digits_are_equal() -> None:
    found = ranking(["a b", "a b", "a a a b"])  # both words are everywhere, so scores differ by less than a half
    words = {"a": 1, "b": 1}
    assert rows(found, words) == [2, 0, 1]
    assert rows(found, words, digits=0) == [0, 1, 2]
    assert rows(found, words, limit=1, digits=0) == [0], "whatever shares the last place is fetched"


def test_no_words_find_nothing() -> None:
    found = ranking(TEXTS)
    assert found.rank({}, 5) == []
    assert found.rank({"absent": 1}, 5) == []
    assert found.terms("Red-cups \ud800!") == ["Red", "cup"], "nothing lowers the case unless a filter does"


def test_documents_that_break_off_are_not_searched(tmp_path: Path) -> None:
    def documents():
        yield {BODY: "cup"}
        raise ValueError("the second document")

    index = make_index(make_analyser(), tmp_path)
    with pytest.raises(ValueError, match="the second"):
        write(index, documents())
    assert Ranking(index, make_analyser(), most_terms=10).searcher.num_docs == 0
