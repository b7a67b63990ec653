"""Where games come from: drawn by task id, read from a written data set, or read from the official one."""

from __future__ import annotations

import hashlib
import json
import os
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from empg.environments.alfworld.catalogue import TASK_TYPES
from empg.environments.alfworld.engine.game import GAME_FILE, Game
from empg.environments.alfworld.generated.generator import draw_scenario
from empg.environments.alfworld.generated.problem import to_problem
from empg.environments.alfworld.generated.writer import INDEX
from empg.environments.base import Task
from empg.errors import DataError

NAME = "alfworld"
OFFICIAL_SPLITS = ("train", "valid_seen", "valid_unseen")
KEPT = 64  # games that are not read again: episodes of a group are reset one after the other
_OFFICIAL_HELP = (
    "to get the official games, `pip install alfworld`, run `alfworld-download` and set ALFWORLD_DATA to its folder "
    "(by default ~/.cache/alfworld), which then holds json_2.1.1"
)


class GameSource(Protocol):
    """Gives the game of a task."""

    def game(self, task: Task) -> Game:
        """The task's game. Raises :class:`~empg.errors.DataError` if there is none."""
        ...


class KeptGames:
    """The games of a source, of which the last ones are kept. Copies share what no action changes."""

    def __init__(self, source: GameSource) -> None:
        self._read = lru_cache(maxsize=KEPT)(source.game)

    def game(self, task: Task) -> Game:
        """The task's game. Raises what the source raises."""
        return copy(self._read(task))


class GeneratedGames:
    """Games drawn on the fly by task id: the ones that :func:`write_dataset` writes for the same profile and seed."""

    def __init__(self, profile: str, seed: int) -> None:
        self.profile = profile
        self.seed = seed

    def tasks(self, split: str, ids: range) -> list[Task]:
        """The tasks with these ids; any id >= 0 is one."""
        return [Task(NAME, split, i, TASK_TYPES[i % len(TASK_TYPES)]) for i in ids]

    def game(self, task: Task) -> Game:
        """The task's game."""
        return Game(to_problem(draw_scenario(self.profile, task.split, task.id, self.seed)))


class StoredGames:
    """The games of a folder that :func:`write_dataset` wrote, checked against its index."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._indices: dict[str, dict[int, _Entry]] = {}

    def tasks(self, split: str) -> list[Task]:
        """Every task of a split, in its order. Raises :class:`~empg.errors.DataError` if the index is not sound."""
        return [_task(split, i, entry.type, entry.path) for i, entry in self._index(split).items()]

    def game(self, task: Task) -> Game:
        """The task's game. Raises :class:`~empg.errors.DataError` if its file is not the one that was written."""
        entry = self._index(task.split).get(task.id)
        if entry is None:
            raise DataError(f"{self.root / task.split / INDEX}: expected task {task.id}, found no such id")
        path = self.root / task.split / entry.path
        try:
            content = path.read_bytes()
        except OSError as cause:
            raise DataError(f"{path}: expected an ALFWorld game file, found: {cause.strerror}") from None
        found = hashlib.sha256(content).hexdigest()
        if found != entry.sha256:
            raise DataError(f"{path}: expected sha256 {entry.sha256}, found {found} in {len(content)} bytes")
        return Game.load(path)

    def _index(self, split: str) -> dict[int, _Entry]:
        if split not in self._indices:
            path = self.root / split / INDEX
            try:
                lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
                self._indices[split] = {e["id"]: _Entry(e["type"], e["path"], e["sha256"]) for e in lines}
            except OSError as cause:
                raise DataError(f"{path}: expected the index of a split, found: {cause.strerror}") from None
            except (ValueError, KeyError, TypeError) as cause:
                raise DataError(f"{path}: expected one JSON object a line, found {cause!r}") from None
        return self._indices[split]


class OfficialGames:
    """The official games, ``$ALFWORLD_DATA/json_2.1.1/<split>/<task>/<trial>/game.tw-pddl``.

    Tasks with movable receptacles or sliced objects and games that are not marked solvable are left out, as in alfworld
    0.4.2 (``AlfredTWEnv.collect_game_files``). A task's id is its rank by path, whatever the file system's order.
    """

    def __init__(self, data: Path | str | None = None) -> None:
        folder = data if data is not None else os.environ.get("ALFWORLD_DATA")
        if folder is None:
            raise DataError(
                f"ALFWORLD_DATA: expected the folder of the official games, found it unset; {_OFFICIAL_HELP}"
            )
        self.root = Path(folder).expanduser() / "json_2.1.1"
        self._paths: dict[str, list[tuple[Path, str]]] = {}

    def tasks(self, split: str) -> list[Task]:
        """Every playable task of a split. Raises :class:`~empg.errors.DataError` that says how to get them."""
        return [
            _task(split, i, task_type, path.relative_to(self.root / split).as_posix())
            for i, (path, task_type) in enumerate(self.files(split))
        ]

    def game(self, task: Task) -> Game:
        """The task's game, in the wording of its own file. Raises :class:`~empg.errors.DataError` if there is none."""
        files = self.files(task.split)
        if not 0 <= task.id < len(files):
            raise DataError(f"{self.root / task.split}: expected a task id below {len(files)}, found {task.id}")
        return Game.load(files[task.id][0])

    def files(self, split: str) -> list[tuple[Path, str]]:
        """Each playable task's game file and type; a task's id is its place. Raises as :meth:`tasks` does."""
        if split not in self._paths:
            if split not in OFFICIAL_SPLITS:
                raise DataError(f"official alfworld split: expected one of {list(OFFICIAL_SPLITS)}, found {split!r}")
            folder = self.root / split
            paths = sorted(folder.glob(f"*/*/{GAME_FILE}"), key=lambda p: p.relative_to(folder).as_posix())
            found = [(path, path.parent.parent.name.partition("-")[0]) for path in paths if _is_playable(path)]
            if not found:
                raise DataError(f"{folder}: expected <task>/<trial>/{GAME_FILE}, found {len(paths)}; {_OFFICIAL_HELP}")
            self._paths[split] = found
        return self._paths[split]


def _task(split: str, number: int, task_type: str, path: str) -> Task:
    """A task from its game's path, which begins with goal and room as the official data set writes them:
    ``pick_clean_then_place_in_recep-Plate-None-SideTable-7``."""
    goal, _, room = path.partition("/")[0].rpartition("-")
    return Task(NAME, split, number, task_type, cluster=room, goal=goal)


class _Entry(NamedTuple):
    type: str
    path: str
    sha256: str


def _is_playable(path: Path) -> bool:
    task = path.parent.parent.name
    if task.partition("-")[0] not in TASK_TYPES or "movable" in task or "Sliced" in task:
        return False
    try:
        return json.loads(path.read_bytes()).get("solvable") is True
    except (ValueError, AttributeError) as cause:
        raise DataError(f"{path}: expected a JSON object, found {cause}") from None
