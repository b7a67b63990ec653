"""The generated encyclopaedia and its questions as files, in the forms of the field's corpora and question files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from empg.environments.deepsearch.generated.composer import draw_question
from empg.environments.deepsearch.generated.generator import draw_world
from empg.environments.deepsearch.generated.prose import write_pages
from empg.environments.deepsearch.questions import Question
from empg.environments.deepsearch.search.corpus import join_contents
from empg.files import atomic_directory, write_text

CORPUS = "corpus.jsonl"
CORPUS_HASH = "corpus.sha256"
QUESTIONS = "questions.jsonl"
INDEX = "tasks.jsonl"


def write_dataset(directory: Path | str, *, seed: int, sizes: Mapping[str, int], panel_start: int = 0) -> None:
    """Write the corpus and ``sizes[split]`` questions of each split under ``directory``.

    The training questions are those with the numbers from 0 on, the other splits' those from ``panel_start`` on.
    ``corpus.jsonl`` has the form of wiki-18, and ``corpus.sha256`` its hash in the form of ``sha256sum``. A split's
    folder has ``questions.jsonl``, in FlashRAG's form with type and supporting titles as metadata, and an index
    ``tasks.jsonl`` with one line per question, ordered by number: split, id, type, sha256 of the question's line. A
    file or a split appears when it is complete and replaces what was there. The bytes depend on the arguments alone.
    """
    root = Path(directory)
    corpus = corpus_text(seed)
    # The hash is removed first and written last: a corpus beside an older hash would look damaged.
    (root / CORPUS_HASH).unlink(missing_ok=True)
    write_text(root / CORPUS, corpus)
    for split, size in sizes.items():
        start = 0 if split == "train" else panel_start
        questions = [draw_question(split, number, seed) for number in range(start, start + size)]
        with atomic_directory(root / split) as folder:
            lines = [question_line(question) for question in questions]
            index = [
                {"split": split, "id": i, "type": question.type, "sha256": _sha256(line)}
                for i, question, line in zip(range(start, start + size), questions, lines, strict=True)
            ]
            write_text(folder / QUESTIONS, "".join(lines))
            write_text(folder / INDEX, _lines(index))
    write_text(root / CORPUS_HASH, f"{_sha256(corpus)}  {CORPUS}\n")


def corpus_text(seed: int) -> str:
    """The encyclopaedia that a seed names, one page a line."""
    pages = write_pages(draw_world(seed), seed)
    return _lines({"id": str(i), "contents": join_contents(title, text)} for i, (title, text) in enumerate(pages))


def question_line(question: Question) -> str:
    """A question as a line of a FlashRAG file."""
    metadata = {"type": question.type, "supporting_titles": list(question.supporting_titles)}
    record = {"id": question.id, "question": question.question, "golden_answers": list(question.golden_answers)}
    return _lines([{**record, "metadata": metadata}])


def _lines(records: Iterable[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
