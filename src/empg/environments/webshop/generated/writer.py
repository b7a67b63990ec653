"""The embedded shop as files, in upstream's own schema, so that the public engine opens it too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from empg.environments.webshop.engine.goals import Goal
from empg.environments.webshop.generated.generator import LIMIT, Item, draw_catalogue, draw_goal
from empg.files import atomic_directory, write_text

INDEX = "tasks.jsonl"
SHOP = "shop"
ITEMS, ATTRIBUTES, INSTRUCTIONS = "items_shuffle.json", "items_ins_v2.json", "items_human_ins.json"


def write_dataset(directory: Path | str, *, seed: int, sizes: Mapping[str, int], panel_start: int = 0) -> None:
    """Write the shop under ``directory/shop`` and an index of ``sizes[split]`` goals of each split.

    The training goals are those with the ids from 0 on, the other splits' those from ``panel_start`` on.

    The shop comes as upstream's three files: products, attributes, instructions (those of all the goals written). The
    index ``directory/split/tasks.jsonl`` has one line per goal, ordered by task id: split, id, type, the SHA-256 of the
    shop (:func:`shop_digest`) and the goal. Each folder is written beside its place and moved there when complete; the
    bytes depend on the arguments alone.
    """
    root = Path(directory)
    items = draw_catalogue(seed)
    goals: dict[str, dict[int, Goal]] = {}
    for split, size in sizes.items():
        start = 0 if split == "train" else panel_start
        goals[split] = {i: draw_goal(split, i, seed) for i in range(start, start + size)}
    with atomic_directory(root / SHOP) as folder:
        write_text(folder / ITEMS, _lines([item_record(item) for item in items]))
        write_text(folder / ATTRIBUTES, _fields({i.asin: {"attributes": list(i.attributes)} for i in items}))
        write_text(folder / INSTRUCTIONS, _fields(_instructions(items, goals)))
    digest = shop_digest(root)
    for split, drawn in goals.items():
        entries = [
            {"split": split, "id": i, "type": goal.category, "sha256": digest, "goal": asdict(goal)}
            for i, goal in drawn.items()
        ]
        with atomic_directory(root / split) as folder:
            write_text(folder / INDEX, "".join(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in entries))


def shop_digest(directory: Path | str) -> str:
    """The SHA-256, in hex, of the products' and the attributes' file of a written data set, one after the other."""
    digest = hashlib.sha256()
    for name in (ITEMS, ATTRIBUTES):
        digest.update((Path(directory) / SHOP / name).read_bytes())
    return digest.hexdigest()


def item_record(item: Item) -> dict[str, Any]:
    """A product as a record of ``items_shuffle.json``."""
    return {
        "name": item.title,
        "full_description": item.description,
        "images": [""],
        "product_category": item.path,
        "average_rating": "",
        "small_description": list(item.features),
        "customization_options": {name: [{"value": value} for value in values] for name, values in item.options},
        "asin": item.asin,
        "category": item.category.name,
        "query": item.kind.name,
        "pricing": f"${item.price}.00",
    }


def _instructions(items: tuple[Item, ...], goals: Mapping[str, Mapping[int, Goal]]) -> dict[str, list[dict[str, Any]]]:
    """The records of ``items_human_ins.json``: of each product, in the catalogue's order, what was asked for it."""
    asked: dict[str, list[dict[str, Any]]] = {item.asin: [] for item in items}
    attributes = {item.asin: item.attributes for item in items}
    for split, drawn in goals.items():
        for number, goal in drawn.items():
            asked[goal.asin].append(
                {
                    "asin": goal.asin,
                    "instruction": goal.instruction.removesuffix(LIMIT.format(goal.price_upper)),
                    "attributes": list(attributes[goal.asin]),
                    "options": [f"{name}: {value}" for name, value in goal.options.items()],
                    "instruction_attributes": list(goal.attributes),
                    "instruction_options": list(goal.options.values()),
                    "assignment_id": f"{split}-{number}",
                    "worker_id": "",
                }
            )
    return {asin: records for asin, records in asked.items() if records}


def _lines(records: list[dict[str, Any]]) -> str:
    """A JSON list with one record a line."""
    return "[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n]\n"


def _fields(records: Mapping[str, Any]) -> str:
    """A JSON object with one field a line."""
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in records.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"
