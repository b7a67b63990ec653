"""Generated games as files, in the layout of the official data set, so that the public engine plays them too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from empg.environments.alfworld.catalogue import LAMP
from empg.environments.alfworld.engine.game import DOMAIN, GRAMMAR, Game
from empg.environments.alfworld.engine.grammar import UNKNOWN_TASK
from empg.environments.alfworld.expert import Expert
from empg.environments.alfworld.generated.generator import Scenario, draw_scenario
from empg.environments.alfworld.generated.problem import problem_text, to_problem
from empg.files import atomic_directory

INDEX = "tasks.jsonl"


def write_dataset(
    directory: Path | str, *, profile: str, seed: int, sizes: Mapping[str, int], panel_start: int = 0
) -> None:
    """Write ``sizes[split]`` games of each split, and an index of them, under ``directory/split``.

    The training games are those with the ids from 0 on, the other splits' those from ``panel_start`` on. A split
    appears when it is complete and replaces an older one. The bytes depend on the arguments alone. The index
    ``tasks.jsonl`` has one line per game, ordered by task id: split, id, type, path relative to the split's folder,
    sha256 of the game file.
    """
    for split, size in sizes.items():
        start = 0 if split == "train" else panel_start
        with atomic_directory(Path(directory) / split) as folder:
            index = [_write_game(folder, profile, split, task_id, seed) for task_id in range(start, start + size)]
            (folder / INDEX).write_text("".join(f"{json.dumps(entry)}\n" for entry in index), encoding="utf-8")


def game_text(scenario: Scenario, name: str) -> str:
    """The content of ``game.tw-pddl``: domain, grammar, problem and the expert's solution."""
    domain, before, after = _logic()
    problem, solution = json.dumps(problem_text(scenario, name)), json.dumps(walkthrough(scenario))
    return (
        f'{{"pddl_domain": {domain}, "grammar": {before}{scenario.sentence}{after}, "pddl_problem": {problem}, '
        f'"solvable": true, "walkthrough": {solution}}}'
    )


def trajectory_text(scenario: Scenario, name: str) -> str:
    """The content of ``traj_data.json``: the part that the public engine and its readers use."""
    looking = scenario.target_type == LAMP
    data = {
        "task_id": name,
        "task_type": scenario.task_type,
        "pddl_params": {
            "object_target": scenario.object_type,
            "parent_target": "" if looking else scenario.target_type,
            "toggle_target": LAMP if looking else "",
            "mrecep_target": "",
            "object_sliced": False,
        },
        "scene": {"scene_num": scenario.room.scene, "floor_plan": f"FloorPlan{scenario.room.scene}"},
    }
    return json.dumps(data)


def _write_game(split_folder: Path, profile: str, split: str, task_id: int, seed: int) -> dict[str, str | int]:
    scenario = draw_scenario(profile, split, task_id, seed)
    name = f"trial_{split}_{task_id:06d}"
    task = f"{scenario.task_type}-{scenario.object_type}-None-{scenario.target_type}-{scenario.room.scene}"
    folder = split_folder / task / name
    folder.mkdir(parents=True)
    game = game_text(scenario, name).encode()
    (folder / "game.tw-pddl").write_bytes(game)
    (folder / "traj_data.json").write_text(trajectory_text(scenario, name), encoding="utf-8")
    return {
        "split": split,
        "id": task_id,
        "type": scenario.task_type,
        "path": f"{task}/{name}/game.tw-pddl",
        "sha256": hashlib.sha256(game).hexdigest(),
    }


def walkthrough(scenario: Scenario) -> list[str] | None:
    """The expert's solution of a game, or None if a hundred steps are not enough."""
    game, expert = Game(to_problem(scenario)), Expert()
    observation = game.reset()
    actions: list[str] = []
    while not game.won:
        if len(actions) == 100:
            return None
        actions.append(expert.act(observation)[1])
        observation = game.step(actions[-1]).observation
    return actions


@cache
def _logic() -> tuple[str, str, str]:
    """The domain and the grammar as JSON strings, the grammar in two parts, around the task's sentence."""
    before, mark, after = json.dumps(GRAMMAR).partition(UNKNOWN_TASK)
    assert mark, "the grammar has no place for the task"
    return json.dumps(DOMAIN), before, after
