"""Where questions come from: drawn by number, read from a written data set, or read from the user's own files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from empg.environments.base import Task
from empg.environments.deepsearch.generated.composer import draw_question, kind_of
from empg.environments.deepsearch.generated.writer import CORPUS, CORPUS_HASH, INDEX, QUESTIONS
from empg.environments.deepsearch.questions import Question, load_questions
from empg.environments.deepsearch.search.index import Index
from empg.errors import DataError

NAME = "deepsearch"
_OFFICIAL_HELP = (
    "set DEEPSEARCH_DATA to a folder with corpus.jsonl (in the form of wiki-18) and a file of questions for each "
    "split, such as train.jsonl and id.jsonl"
)


class GeneratedQuestions:
    """Questions drawn on the fly by number: the ones that ``write_dataset`` writes for the same seed, and more."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def tasks(self, split: str, ids: range) -> list[Task]:
        """The tasks with these ids, any of them >= 0. Raises :class:`~empg.errors.ConfigError` for an unknown split."""
        return [Task(NAME, split, i, kind_of(split, i)) for i in ids]

    def question(self, task: Task) -> Question:
        """The task's question."""
        return draw_question(task.split, task.id, self.seed)


class StoredQuestions:
    """The questions and the corpus of a folder that ``write_dataset`` wrote, checked against their hashes."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._splits: dict[str, dict[int, Question]] = {}

    def tasks(self, split: str) -> list[Task]:
        """Every task of a split, in its order. Raises :class:`~empg.errors.DataError` if its files are not sound."""
        return [_task(split, i, question) for i, question in self._split(split).items()]

    def question(self, task: Task) -> Question:
        """The task's question. Raises :class:`~empg.errors.DataError` if there is none, or its files are not sound."""
        question = self._split(task.split).get(task.id)
        if question is None:
            raise DataError(f"{self.root / task.split / INDEX}: expected task {task.id}, found no such id")
        return question

    def corpus(self) -> Path:
        """The corpus file. Raises :class:`~empg.errors.DataError` if it is not the one that was written."""
        path, listed = self.root / CORPUS, self.root / CORPUS_HASH
        expected, _, name = _read(listed).decode("utf-8", "replace").strip().partition("  ")
        found = hashlib.sha256(_read(path)).hexdigest()
        if name != CORPUS or found != expected:
            raise DataError(f"{path}: expected the sha256 in {listed}, {expected!r}, found {found}")
        return path

    def _split(self, split: str) -> dict[int, Question]:
        if split not in self._splits:
            index, questions = self.root / split / INDEX, self.root / split / QUESTIONS
            entries, lines = _entries(index), _read(questions).splitlines(keepends=True)
            if len(entries) != len(lines):
                raise DataError(f"{questions}: expected {len(entries)} lines as in {INDEX}, found {len(lines)}")
            for place, (entry, line) in enumerate(zip(entries, lines, strict=True), 1):
                found = hashlib.sha256(line).hexdigest()
                if found != entry.sha256:
                    raise DataError(f"{questions}: line {place}: expected sha256 {entry.sha256}, found {found}")
            ids = [entry.id for entry in entries]
            self._splits[split] = dict(zip(ids, load_questions(questions), strict=True)) if ids else {}
        return self._splits[split]


class OfficialQuestions:
    """The user's own data: ``$DEEPSEARCH_DATA/corpus.jsonl`` and ``$DEEPSEARCH_DATA/<split>.jsonl`` (or ``.json``).

    The question files may be in any form that :func:`~empg.environments.deepsearch.questions.load_questions` reads. A
    task's id is its place in the file.
    """

    def __init__(self, data: Path | str | None = None) -> None:
        folder = data if data is not None else os.environ.get("DEEPSEARCH_DATA")
        if folder is None:
            raise DataError(f"DEEPSEARCH_DATA: expected a folder, found it unset; {_OFFICIAL_HELP}")
        self.root = Path(folder).expanduser()
        self._splits: dict[str, list[Question]] = {}

    def tasks(self, split: str) -> list[Task]:
        """Every task of a split, in its order. Raises :class:`~empg.errors.DataError` that says what is missing."""
        return [_task(split, i, question) for i, question in enumerate(self._split(split))]

    def question(self, task: Task) -> Question:
        """The task's question. Raises :class:`~empg.errors.DataError` if there is none."""
        questions = self._split(task.split)
        if not 0 <= task.id < len(questions):
            raise DataError(f"{self.file(task.split)}: expected a task id below {len(questions)}, found {task.id}")
        return questions[task.id]

    def corpus(self) -> Path:
        """The corpus file; opening an index checks it. Raises :class:`~empg.errors.DataError` if there is none."""
        path = self.root / CORPUS
        if not path.is_file():
            raise DataError(f"{path}: expected a corpus, found none; {_OFFICIAL_HELP}")
        return path

    @property
    def files(self) -> list[Path]:
        """The corpus and every split's file of questions, by name."""
        splits = {path for end in ("jsonl", "json") for path in self.root.glob(f"*.{end}")}
        return sorted({self.corpus(), *splits})

    def file(self, split: str) -> Path:
        """The file of a split's questions. Raises :class:`~empg.errors.DataError` if there is none."""
        for path in (self.root / f"{split}.jsonl", self.root / f"{split}.json"):
            if path.is_file() and path.name != CORPUS:
                return path
        raise DataError(f"{self.root / split}.jsonl: expected a file of questions, found none; {_OFFICIAL_HELP}")

    def _split(self, split: str) -> list[Question]:
        if split not in self._splits:
            self._splits[split] = load_questions(self.file(split))
        return self._splits[split]


def open_index(corpus: Path) -> Index:
    """The index of a corpus, built at first use in the user's cache folder and reused while the corpus is the same.

    The folder is ``$XDG_CACHE_HOME/empg/deepsearch`` (``~/.cache`` if unset), with one entry per place of a corpus.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = hashlib.sha256(str(corpus.resolve()).encode()).hexdigest()[:16]
    return Index.build(corpus, cache / "empg" / NAME / place)


def _task(split: str, number: int, question: Question) -> Task:
    """A question's task. Questions that begin at one page are alike."""
    first = question.supporting_titles[0] if question.supporting_titles else ""
    return Task(NAME, split, number, question.type, cluster=first, goal=question.question)


class _Entry(NamedTuple):
    id: int
    sha256: str


def _entries(path: Path) -> list[_Entry]:
    try:
        return [_Entry(e["id"], e["sha256"]) for e in map(json.loads, _read(path).splitlines())]
    except (ValueError, KeyError, TypeError) as cause:
        raise DataError(f"{path}: expected one JSON object a line, found {cause!r}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as cause:
        raise DataError(f"{path}: expected a file that the data stage writes, found: {cause.strerror}") from None
