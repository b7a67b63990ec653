"""Questions with their gold answers, read from the data sets' own files.

FlashRAG's lines (``golden_answers``, arXiv 2405.13576), the JSON of HotpotQA (arXiv 1809.09600) and 2WikiMultiHopQA
(arXiv 2011.01060), and MuSiQue's lines (arXiv 2108.00573) are told apart by their fields, record by record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from empg.environments.base import Task
from empg.environments.deepsearch.search.corpus import is_text, join_contents, json_lines, parse_json
from empg.errors import DataError
from empg.files import write_text


@dataclass(frozen=True, slots=True)
class Question:
    """A question. ``golden_answers``: any of them is right; ``supporting_titles``: the evidence, where it is known."""

    id: str
    question: str
    golden_answers: tuple[str, ...]
    type: str = "question"
    supporting_titles: tuple[str, ...] = ()


class QuestionSource(Protocol):
    """Gives the question of a task."""

    def question(self, task: Task) -> Question:
        """The task's question. Raises :class:`~empg.errors.DataError` if there is none."""
        ...


def load_questions(path: Path | str, aliases: Mapping[str, Sequence[str]] | None = None) -> list[Question]:
    """The questions of a file, JSON or JSON lines, in its order.

    ``aliases`` holds further right answers by ``answer_id``, see :func:`load_aliases`. The type is the data set's own,
    MuSiQue's the shape of its reasoning, as "3hop1". Raises :class:`~empg.errors.DataError` that names file and record.
    """
    questions: list[Question] = []
    seen: set[str] = set()
    for where, record in _records(Path(path)):
        question = _question(where, record, aliases or {})
        if question.id in seen:
            raise DataError(f"{where}: expected every id once, found id {question.id!r} again")
        seen.add(question.id)
        questions.append(question)
    if not questions:
        raise DataError(f"{path}: expected at least one question, found none")
    return questions


def load_aliases(path: Path | str) -> dict[str, list[str]]:
    """Further right answers by ``answer_id``, from 2WikiMultiHopQA's ``id_aliases.json``.

    Its lines are ``{"Q_id": …, "aliases": […], "demonyms": […]}``. Raises :class:`~empg.errors.DataError` for others.
    """
    aliases: dict[str, list[str]] = {}
    for where, value in json_lines(Path(path)):
        found = value if isinstance(value, dict) else {}
        names = [*_list(found.get("aliases")), *_list(found.get("demonyms"))]
        if not is_text(found.get("Q_id")) or not all(map(is_text, names)):
            raise DataError(f"{where}: expected Q_id, aliases and demonyms, found {str(value)[:80]}")
        aliases[found["Q_id"]] = names
    return aliases


def write_context_corpus(question_files: Sequence[Path | str], out: Path | str) -> int:
    """Write the paragraphs that come with the questions as a corpus, each (title, text) once; returns how many.

    A paragraph's id is its number from 0 on. Raises :class:`~empg.errors.DataError` for a record without paragraphs.
    """
    paragraphs: dict[tuple[str, str], None] = {}
    for path in question_files:
        for where, record in _records(Path(path)):
            paragraphs.update(dict.fromkeys(_paragraphs(where, record)))
    lines = [
        json.dumps({"id": str(i), "contents": join_contents(title, text)}) for i, (title, text) in enumerate(paragraphs)
    ]
    write_text(Path(out), "".join(f"{line}\n" for line in lines))
    return len(lines)


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, record in _values(path):
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected a question as a JSON object, found {str(record)[:80]}")
        name = record.get("id", record.get("_id"))
        yield f"{where} (id {name!r})", record


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with path.open("rb") as file:
            is_array = file.read(64).lstrip().startswith(b"[")
        if is_array:
            values = enumerate(parse_json(path.read_bytes(), str(path)), 1)
            yield from ((f"{path}: record {number}", value) for number, value in values)
        else:
            yield from json_lines(path)
    except OSError as cause:
        raise DataError(f"{path}: expected a file of questions, found: {cause.strerror}") from None


def _question(where: str, record: dict[str, Any], aliases: Mapping[str, Sequence[str]]) -> Question:
    number, question = record.get("id", record.get("_id")), record.get("question")
    if not is_text(number) or not is_text(question):
        raise DataError(f"{where}: expected an id and a question, found the fields {sorted(record)}")
    answers = _answers(record, aliases)
    if not answers or not all(map(is_text, answers)):
        raise DataError(f"{where}: expected golden_answers or an answer, found {str(answers)[:80]}")
    if record.get("answerable") is False:
        raise DataError(f"{where}: expected an answerable question, found one marked as not answerable")
    unique = tuple(dict.fromkeys(answer.strip() for answer in answers))
    return Question(number, question.strip(), unique, _type(record), _supporting_titles(where, record))


def _answers(record: dict[str, Any], aliases: Mapping[str, Sequence[str]]) -> list[Any]:
    if "golden_answers" in record:
        return _list(record["golden_answers"])
    own = [record["answer"]] if record.get("answer") is not None else []
    return [*own, *_list(record.get("answer_aliases")), *(aliases.get(str(record.get("answer_id")), ()) if own else ())]


def _type(record: dict[str, Any]) -> str:
    found = record.get("type", _metadata(record).get("type"))
    if not found and "paragraphs" in record:
        found = str(record["id"]).partition("__")[0]
    return found if is_text(found) else "question"


def _supporting_titles(where: str, record: dict[str, Any]) -> tuple[str, ...]:
    """The titles of HotpotQA's ``supporting_facts``, of MuSiQue's supporting paragraphs, or ``supporting_titles``."""
    source = {**_metadata(record), **record}
    facts = source.get("supporting_facts")
    if "supporting_titles" in source:
        titles = _list(source["supporting_titles"])
    elif isinstance(facts, dict):
        titles = _list(facts.get("title"))
    elif facts is not None:
        titles = [fact[0] if isinstance(fact, list) and fact else None for fact in _list(facts)]
    else:
        paragraphs = [p for p in _list(source.get("paragraphs")) if isinstance(p, dict)]
        titles = [p.get("title") for p in paragraphs if p.get("is_supporting")]
    if not all(map(is_text, titles)):
        raise DataError(f"{where}: expected the titles of supporting pages, found {str(titles)[:80]}")
    return tuple(dict.fromkeys(titles))


def _paragraphs(where: str, record: dict[str, Any]) -> list[tuple[str, str]]:
    source = {**_metadata(record), **record}
    context = source.get("context", source.get("paragraphs"))
    try:
        if isinstance(context, dict):  # as Hugging Face's tables hold HotpotQA
            found = list(zip(context["title"], context["sentences"], strict=True))
        else:
            found = [(p["title"], p["paragraph_text"]) if isinstance(p, dict) else tuple(p) for p in context or ()]
        paragraphs = [(title, text if isinstance(text, str) else _joined(text)) for title, text in found]
    except (TypeError, ValueError, KeyError, AttributeError) as cause:
        raise DataError(f"{where}: expected paragraphs with titles and texts, found {cause!r}") from None
    if not paragraphs or not all(is_text(title) and isinstance(text, str) for title, text in paragraphs):
        raise DataError(f"{where}: expected paragraphs with titles and texts, found {str(context)[:80]}")
    return paragraphs


def _joined(sentences: list[str]) -> str:
    """Sentences as one text: HotpotQA's have blanks around them, 2WikiMultiHopQA's have none."""
    return " ".join(sentence.strip() for sentence in sentences if sentence.strip())


def _metadata(record: dict[str, Any]) -> dict[str, Any]:
    found = record.get("metadata")
    return found if isinstance(found, dict) else {}


def _list(value: Any) -> list[Any]:
    """A list as it is, an absent value as an empty one, and anything else as a list of itself."""
    return value if isinstance(value, list) else [] if value is None else [value]
