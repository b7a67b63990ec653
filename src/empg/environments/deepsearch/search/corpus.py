"""A corpus as lines ``{"id": …, "contents": "\\"Title\\"\\ntext"}``: the form of the field's wiki-18 passages.

The form is that of FlashRAG (arXiv 2405.13576) and Search-R1 (arXiv 2503.09516): the first line of ``contents`` is the
title, in quotation marks or not, the rest is the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from empg.errors import DataError


class Passage(NamedTuple):
    """One entry of a corpus. Passages with one title are, in the order of the corpus, one page."""

    id: str
    title: str
    text: str


def split_contents(contents: str) -> tuple[str, str]:
    """The title, without the quotation marks around it, and the text."""
    first, _, text = contents.partition("\n")
    title = first.strip()
    if len(title) > 1 and title[0] == title[-1] == '"':
        title = title[1:-1]
    return title.strip(), text.strip()


def join_contents(title: str, text: str) -> str:
    """The inverse of :func:`split_contents`."""
    return f'"{title}"\n{text}'


def title_key(title: str) -> str:
    """What two spellings of one title have in common: neither case nor spacing counts."""
    return " ".join(title.split()).casefold()


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Each line's JSON value and its place, "file: line 3". Blank lines are passed over.

    Raises :class:`~empg.errors.DataError` for a missing file and for a line that is not JSON in UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}: line {number}", parse_json(line, f"{path}: line {number}")
    except OSError as cause:
        raise DataError(f"{path}: expected a file of JSON lines, found: {cause.strerror}") from None


def parse_json(text: bytes, where: str) -> Any:
    """The value of a JSON text in UTF-8; raises :class:`~empg.errors.DataError` that begins with ``where``."""
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as cause:
        raise DataError(f"{where}: expected JSON, found {type(cause).__name__}: {cause}") from None


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is a string that holds more than blanks and can be written as UTF-8."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)


def read_corpus(path: Path) -> Iterator[Passage]:
    """The passages of a corpus file, in its order. Every id is kept in memory, to find duplicates.

    Raises :class:`~empg.errors.DataError` that names file and line for a broken line, a missing or empty field and an
    id seen before, and one that names the file when it holds no passage.
    """
    seen: set[str] = set()
    for where, value in json_lines(path):
        found = value if isinstance(value, dict) else {}
        number, contents = found.get("id"), found.get("contents")
        if isinstance(number, bool) or not (isinstance(number, int) or is_text(number)) or not is_text(contents):
            raise DataError(f'{where}: expected {{"id": …, "contents": "\\"Title\\"\\ntext"}}, found {str(value)[:80]}')
        passage = Passage(str(number), *split_contents(contents))
        if not passage.title:
            raise DataError(f"{where}: expected a title as the first line of contents, found {contents[:80]!r}")
        if passage.id in seen:
            raise DataError(f"{where}: expected every id once, found id {passage.id!r} again")
        seen.add(passage.id)
        yield passage
    if not seen:
        raise DataError(f"{path}: expected at least one passage, found an empty corpus")
