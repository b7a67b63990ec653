"""Where goals come from: drawn by task id, read from a written data set, or made from upstream's own files."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from empg.environments.base import Task
from empg.environments.webshop.engine.catalogue import Product
from empg.environments.webshop.engine.goals import Goal
from empg.environments.webshop.engine.search import SearchIndex
from empg.environments.webshop.engine.shop import Shop
from empg.environments.webshop.generated.generator import draw_catalogue, draw_goal
from empg.environments.webshop.generated.writer import ATTRIBUTES, INDEX, ITEMS, SHOP, shop_digest
from empg.errors import DataError

NAME = "webshop"
#: Upstream's division of its goals (princeton-nlp/WebShop, baseline_models/env.py), which calls ``valid`` "eval".
OFFICIAL_SPLITS = {"test": (0, 500), "valid": (500, 1500), "train": (1500, None)}
_OFFICIAL_HELP = (
    "download items_shuffle.json, items_ins_v2.json and items_human_ins.json as the WebShop repository's setup.sh does "
    "and set WEBSHOP_DATA to their folder"
)


class GoalSource(Protocol):
    """Gives the goal of a task, and the shop to reach it in."""

    @property
    def shop(self) -> Shop:
        """The shop, shared and read-only."""
        ...

    def goal(self, task: Task) -> Goal:
        """The task's goal. Raises :class:`~empg.errors.DataError` if there is none."""
        ...


class GeneratedGoals:
    """Goals drawn on the fly by task id, in the shop that :func:`write_dataset` writes for the same seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @property
    def shop(self) -> Shop:
        """The embedded shop, made once per process and seed."""
        return _generated_shop(self.seed)

    def tasks(self, split: str, ids: range) -> list[Task]:
        """The tasks with these ids; any id >= 0 is one."""
        return [_task(split, i, self._goal(split, i)) for i in ids]

    def goal(self, task: Task) -> Goal:
        """The task's goal."""
        return self._goal(task.split, task.id)

    def _goal(self, split: str, task_id: int) -> Goal:
        return draw_goal(split, task_id, self.seed)


class StoredGoals:
    """The shop and the goals of a folder that :func:`write_dataset` wrote, checked against its indices."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._indices: dict[str, dict[int, _Entry]] = {}

    @cached_property
    def shop(self) -> Shop:
        """The shop, read once per process and folder. Raises :class:`~empg.errors.DataError` if a file is not sound."""
        return _stored_shop(self.root.resolve(), self._digest)

    def tasks(self, split: str) -> list[Task]:
        """Every task of a split, in its order. Raises :class:`~empg.errors.DataError` if the index is not sound."""
        return [_task(split, i, entry.goal) for i, entry in self._index(split).items()]

    def goal(self, task: Task) -> Goal:
        """The task's goal. Raises :class:`~empg.errors.DataError` if there is none."""
        entry = self._index(task.split).get(task.id)
        if entry is None:
            raise DataError(f"{self.root / task.split / INDEX}: expected task {task.id}, found no such id")
        return entry.goal

    def _index(self, split: str) -> dict[int, _Entry]:
        if split not in self._indices:
            path = self.root / split / INDEX
            try:
                lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
                entries = {e["id"]: _Entry(e["type"], e["sha256"], _to_goal(e["goal"])) for e in lines}
            except OSError as cause:
                raise DataError(f"{path}: expected the index of a split, found: {cause.strerror}") from None
            except (ValueError, KeyError, TypeError) as cause:
                raise DataError(f"{path}: expected one JSON object a line, found {cause!r}") from None
            for i, entry in entries.items():
                if entry.sha256 != self._digest:
                    raise DataError(
                        f"{path}: task {i}: expected a shop of sha256 {entry.sha256}, found one of {self._digest}"
                    )
            self._indices[split] = entries
        return self._indices[split]

    @cached_property
    def _digest(self) -> str:
        try:
            return shop_digest(self.root)
        except OSError as cause:
            raise DataError(f"{cause.filename}: expected a file of the shop, found: {cause.strerror}") from None


class OfficialGoals:
    """Upstream's own files, in the folder ``$WEBSHOP_DATA``, with its order and division of the goals.

    Goals are people's if the folder holds their instructions, else synthetic. Upstream divides goals, not products: a
    product of a test goal may have training goals too.
    """

    def __init__(self, data: Path | str | None = None) -> None:
        folder = data if data is not None else os.environ.get("WEBSHOP_DATA")
        if folder is None:
            raise DataError(f"WEBSHOP_DATA: expected the folder of upstream's files, found it unset; {_OFFICIAL_HELP}")
        self.root = Path(folder).expanduser()

    @property
    def files(self) -> list[Path]:
        """The files that the shop is read from: products, attributes and, if there are any, people's instructions.

        Raises :class:`~empg.errors.DataError` that says how to get them.
        """
        instructions = sorted(self.root.glob("items_human_ins*.json"))[:1]
        return [_find(self.root, "items_shuffle"), _find(self.root, "items_ins_v2"), *instructions]

    @cached_property
    def shop(self) -> Shop:
        """The shop, read once per process and set of files."""
        return _official_shop(*(path.resolve() for path in self.files))

    def tasks(self, split: str) -> list[Task]:
        """Every task of a split. Raises :class:`~empg.errors.DataError` for an unknown split or one without goals."""
        return [_task(split, i, goal) for i, goal in enumerate(self._goals(split))]

    def goal(self, task: Task) -> Goal:
        """The task's goal. Raises :class:`~empg.errors.DataError` if there is none."""
        goals = self._goals(task.split)
        if not 0 <= task.id < len(goals):
            raise DataError(f"{self.root}: {task.split}: expected a task id below {len(goals)}, found {task.id}")
        return goals[task.id]

    def _goals(self, split: str) -> tuple[Goal, ...]:
        if split not in OFFICIAL_SPLITS:
            raise DataError(f"official webshop split: expected one of {list(OFFICIAL_SPLITS)}, found {split!r}")
        first, end = OFFICIAL_SPLITS[split]
        goals = self.shop.goals[first:end]
        if not goals:
            found = len(self.shop.goals)
            raise DataError(f"{self.root}: {split}: expected more than {first} goals, found {found}; {_OFFICIAL_HELP}")
        return goals


def _task(split: str, number: int, goal: Goal) -> Task:
    """A goal's task. Goals of products with one title are alike: near-duplicates share it."""
    return Task(NAME, split, number, goal.category, cluster=goal.name, goal=goal.instruction)


class _Entry(NamedTuple):
    type: str
    sha256: str
    goal: Goal


def _to_goal(record: dict[str, object]) -> Goal:
    """A goal from its fields; raises TypeError if they are others."""
    goal = Goal(**record)  # type: ignore[arg-type]
    return replace(goal, attributes=tuple(goal.attributes))


@cache
def _generated_shop(seed: int) -> Shop:
    products = tuple(
        Product(
            asin=item.asin,
            name=item.title,
            description=item.description,
            bullets=item.features,
            category=item.category.name,
            query=item.kind.name,
            product_category=item.path,
            options=dict(item.options),
            attributes=item.attributes,
            pricing=(float(item.price),),
        )
        for item in draw_catalogue(seed)
    )
    prices = {product.asin: product.pricing[0] for product in products}
    return Shop(products, goals=(), prices=prices, search=SearchIndex(products))


@cache
def _stored_shop(root: Path, digest: str) -> Shop:
    """The shop of a folder; the digest is there so that files written anew are read anew."""
    return Shop.load(root / SHOP / ITEMS, root / SHOP / ATTRIBUTES)


@cache
def _official_shop(*files: Path) -> Shop:
    return Shop.load(*files, strict=False)


def _find(root: Path, name: str) -> Path:
    """The file of this name, or the one whose name starts so: upstream also offers the first 1,000 products."""
    found = sorted(root.glob(f"{name}*.json"), key=lambda path: (path.name != f"{name}.json", path.name))
    if not found:
        raise DataError(f"{root}: expected {name}.json, found no such file; {_OFFICIAL_HELP}")
    return found[0]
