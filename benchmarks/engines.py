"""Speed of the environments' engines beside the public ones, and of the passage index.

ALFWorld: alfworld 0.4.2 plays generated games in an environment of its own (``parity/``), with their solutions and
random actions; ours plays the same actions. It lists the admissible actions at every step, so ours is timed with them
and without. WebShop: upstream's engine is not on a package index and needs Java, so a figure that was recorded once
stands beside ours, which replays what the default study's agents did. The index holds made-up passages as long as
wiki-18's.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from bisect import bisect
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.measure import DefaultStudy, Line
from benchmarks.parity.run import play_public, walkthrough
from empg.config import rollouts_run
from empg.environments.alfworld.engine.game import Game
from empg.environments.alfworld.generated.writer import write_dataset
from empg.environments.datasets import open_dataset
from empg.environments.deepsearch.search.index import Index

PROFILES = ("small", "official")
GAMES, RANDOM_ACTIONS = 6, 50
REPEATS = 30
UPSTREAM_WEBSHOP = 18.0  # ms of CPU a step with its web stack, the fastest of its 18 to 24; 64fa2a5, recorded once
PASSAGES, QUERIES, VOCABULARY = 20_000, 2_000, 50_000
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


def alfworld(profile: str) -> list[Line]:
    """Steps per CPU second, and milliseconds of a reset with reading the file."""
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(folder, profile=profile, seed=0, sizes={"valid_seen": GAMES})
        paths = sorted(Path(folder).rglob("game.tw-pddl"))
        solutions = [walkthrough(path) for path in paths]
        public = play_public(paths, RANDOM_ACTIONS, 1, solutions=solutions, quiet=True)
        games = [(t["path"], [event[0] for event in t["events"]]) for t in public]
        Game.load(paths[0]).reset()  # compiles the rules, once per process
        gc.collect()
        resets = np.mean([_seconds(lambda path=path: Game.load(path).reset()) for path in paths * REPEATS])  # type: ignore[misc]
        listed, unlisted = (_alfworld_steps(games, is_listed) for is_listed in (True, False))
    steps = sum(action is not None for _, actions in games for action in actions)
    theirs = steps / sum(t["step_seconds"] for t in public)
    their_reset = np.mean([seconds for t in public for seconds in t["load_and_reset_seconds"]])
    name = f"ALFWorld engine, {profile} rooms"
    return [
        Line(
            f"{name}, with the admissible actions of every step (steps per CPU second)",
            f"{listed:,.0f}",
            f"alfworld 0.4.2 {theirs:,.0f}",
            listed / theirs,
            target=1000,
        ),
        Line(
            f"{name}, actions unlisted (alike)", f"{unlisted:,.0f}", f"alfworld 0.4.2 {theirs:,.0f}", unlisted / theirs
        ),
        Line(
            f"{name}, load and reset (ms)",
            f"{1e3 * resets:.2f}",
            f"alfworld 0.4.2 {1e3 * their_reset:,.0f}",
            float(their_reset / resets),
        ),
    ]


def _seconds(call: Callable[[], Any]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def _alfworld_steps(games: list[tuple[str, list[str | None]]], is_listed: bool) -> float:
    """Steps per CPU second of our engine."""
    steps, seconds = 0, 0.0
    for path, actions in games * REPEATS:
        game = Game.load(path)
        for action in actions:
            if action is None:
                game.reset()
                continue
            start = time.thread_time()
            game.step(action)
            if is_listed:
                game.admissible_actions  # noqa: B018
            seconds += time.thread_time() - start
            steps += 1
    return steps / seconds


def webshop(study: DefaultStudy) -> Line:
    """Milliseconds of a step with its search, in the episodes of three recorded iterations."""
    config = rollouts_run(study.study, dict(study.data_sets), "webshop")
    played = [t for batch in study.batches("webshop").values() for t in batch]
    steps, seconds = 0, 0.0
    for turn in range(4):
        # Opened anew: what is kept of earlier searches is what these episodes asked before.
        dataset = open_dataset(config.data, study.data / study.study.data_set("webshop"), config.interface)
        arena = dataset.arena(config.max_steps)
        for trajectory in played:
            environment = arena.make()
            environment.reset(trajectory.episode.task)
            start = time.thread_time()
            for step in trajectory.steps:
                environment.step(step.action)
            if turn:  # the first one warms up
                seconds += time.thread_time() - start
                steps += len(trajectory.steps)
    ours = 1e3 * seconds / steps
    return Line(
        "WebShop engine, a step with its search, agents of the default study (ms of CPU)",
        f"{ours:.3f}",
        f"upstream {UPSTREAM_WEBSHOP:g}, recorded once on its thousand products",
        UPSTREAM_WEBSHOP / ours,
        target=100,
    )


def _word(rank: int) -> str:
    """A number as syllables, at least two."""
    rank, syllable = divmod(rank, len(SYLLABLES))
    return SYLLABLES[syllable] + (_word(rank) if rank else "s")


def index() -> str:
    """A sentence about the passage index; no public one is beside it. Words are drawn by Zipf's law."""
    random, cumulated = Random(0), list(accumulate(1 / (rank + 2) for rank in range(VOCABULARY)))

    def text(words: int) -> str:
        return " ".join(_word(bisect(cumulated, random.random() * cumulated[-1])) for _ in range(words))

    with tempfile.TemporaryDirectory() as name:
        corpus, folder = Path(name) / "corpus.jsonl", Path(name) / "index"
        with corpus.open("w", encoding="utf-8") as file:
            for i in range(PASSAGES):
                file.write(json.dumps({"id": str(i), "contents": f'"{text(3)}"\n{text(100)}'}) + "\n")
        queries = [text(6) for _ in range(QUERIES)]
        start = time.process_time()
        built = Index.build(corpus, folder)
        building = time.process_time() - start
        size = sum(path.stat().st_size for path in folder.iterdir())
        searching = _seconds(lambda: [built.search(query, 3) for query in queries]) / QUERIES
    return (
        f"Deep Search's index of {PASSAGES:,} passages of a hundred words is built in {building:.1f} CPU s "
        f"({size / 1e6:.1f} MB); a query of six words, top 3, takes {1e3 * searching:.2f} ms of CPU."
    )
