"""Speed and memory of the WebShop engine on upstream's files, one thread.

    python benchmarks/webshop_engine.py FOLDER [--repeats 20]

FOLDER holds ``items_shuffle*.json``, ``items_ins_v2*.json`` and sessions recorded from upstream's engine
(``upstream_sessions.jsonl``), whose actions are played in the mode text_rich. Every search asks the index, then shows
the recorded ranking, so that the clicks that follow are possible. Times are CPU seconds; the start, after the imports,
is in wall seconds too.

For comparison: princeton-nlp/WebShop at 64fa2a5, with its own web stack, needs 18 to 24 ms of CPU a step.
"""

import argparse
import dataclasses
import gc
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

from empg.environments.webshop.engine.goals import Goal
from empg.environments.webshop.engine.shop import Shop

EXTRA_SESSIONS = 1000


def file_like(folder: Path, pattern: str) -> Path:
    """The first file of the folder that fits the pattern."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise SystemExit(f"{folder}: expected a file {pattern}, found none")
    return found[0]


def play(shop: Shop, recorded: dict[str, Any]) -> tuple[float, float, int]:
    """(CPU seconds of resets, of steps, number of steps) in which a recorded session is played once."""
    ranking: list[str] = []

    def search(query: str) -> list[str]:
        shop.search(query)
        return ranking

    playing = dataclasses.replace(shop, search=search)
    session = playing.session(Goal.from_upstream(recorded["goal"]), "text_rich")
    playing.by_asin  # noqa: B018
    start = time.process_time()
    session.reset()
    of_reset = time.process_time() - start
    start = time.process_time()
    for event in recorded["steps"][1:]:
        ranking = event.get("ranking", [])
        session.step(event["action"])
    return of_reset, time.process_time() - start, len(recorded["steps"]) - 1


def memory_of_sessions(shop: Shop, recorded: list[dict[str, Any]]) -> float:
    """Bytes that Python counts for one more session that stands on a page of results."""
    gc.collect()
    tracemalloc.start()
    sessions = []
    for i in range(EXTRA_SESSIONS):
        session = shop.session(shop.goals[i % len(shop.goals)], "text_rich")
        session.reset()
        steps = recorded[i % len(recorded)]["steps"]
        session.step(next(event["action"] for event in steps if "ranking" in event))
        sessions.append(session)
    gc.collect()
    counted, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return counted / EXTRA_SESSIONS


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=20, help="times that each session is played")
    options = parser.parse_args()
    items, attributes = (file_like(options.folder, f"{name}*.json") for name in ("items_shuffle", "items_ins_v2"))
    recorded = [json.loads(line) for line in (options.folder / "upstream_sessions.jsonl").open(encoding="utf-8")]
    starts = []
    for _ in range(5):
        start = (time.perf_counter(), time.process_time())
        shop = Shop.load(items, attributes)
        starts.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    for session in recorded:
        play(shop, session)
    plays = [play(shop, session) for _ in range(options.repeats) for session in recorded]
    resets, steps, count = (sum(column) for column in zip(*plays, strict=True))
    print(f"{len(shop.products)} products, {len(shop.goals)} goals, {len(recorded)} sessions, {count} steps")
    for name, (wall, cpu) in (("first", starts[0]), (f"best of {len(starts)}", min(starts))):
        print(f"shop ready, {name}: {wall:.2f} s, {cpu:.2f} s of CPU")
    print(f"reset, mean: {1e3 * resets / len(plays):.4f} ms")
    print(f"step with its search, mean: {1e3 * steps / count:.3f} ms")
    print(f"one more session: {memory_of_sessions(shop, recorded) / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
