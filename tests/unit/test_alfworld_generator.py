"""The generator: what it draws, where it draws it, and what it writes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from empg.environments.alfworld.catalogue import KINDS, LAMP, TASK_KINDS, TASK_TYPES, may_hold
from empg.environments.alfworld.engine.game import Game
from empg.environments.alfworld.engine.pddl import Problem
from empg.environments.alfworld.generated import writer
from empg.environments.alfworld.generated.generator import SPLITS, Scenario, draw_scenario, split_of
from empg.environments.alfworld.generated.problem import problem_text, to_problem
from empg.environments.alfworld.generated.rooms import PROFILES, rooms, scenes
from empg.environments.alfworld.generated.writer import write_dataset
from empg.environments.alfworld.tasks import GeneratedGames, OfficialGames, StoredGames
from empg.environments.base import Task
from empg.errors import ConfigError, DataError

#: The bytes of six games of each split, which no machine, process or Python version may change.
FROZEN = {
    "small": "5293b13a3917c9820aee0d5dd1e0c37659714a350cda90c6790d309812c42437",
    "official": "29a6b51a96b0ac7b2d1db17566ed383c5573e03e3f6f7a2349af19265b55ab39",
}
SAMPLE = {"small": 120, "official": 30}  # games of each split

DIGEST_SCRIPT = """
import sys
from empg.environments.alfworld.generated.generator import SPLITS
from empg.environments.alfworld.generated.writer import write_dataset
write_dataset(sys.argv[2], profile=sys.argv[1], seed=3, sizes=dict.fromkeys(SPLITS, 6))
"""


def digest(folder: Path) -> str:
    """The hash of every file's path and content below a folder."""
    result = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        result.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return result.hexdigest()


def content(scenario: Scenario) -> tuple[object, ...]:
    """What makes two games the same, names and coordinates aside: the room, what lies where and the task."""
    placement = sorted((o.type, o.receptacle) for o in scenario.objects)
    return scenario.room.scene, scenario.task_type, scenario.object_type, scenario.target_type, tuple(placement)


@pytest.fixture(scope="module", params=sorted(PROFILES))
def sample(request: pytest.FixtureRequest) -> tuple[str, dict[str, list[Scenario]]]:
    """A profile and the first games of each of its splits."""
    name: str = request.param
    return name, {split: [draw_scenario(name, split, i, 0) for i in range(SAMPLE[name])] for split in SPLITS}


# ------------------------------------------------------------------------------------------------- the same everywhere
@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_the_bytes_are_the_same_in_every_process(profile: str, hash_seed: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-c", DIGEST_SCRIPT, profile, str(tmp_path)], check=True, env=environment)
    assert digest(tmp_path) == FROZEN[profile]


def test_a_task_id_names_the_same_game_in_any_order_and_another_seed_another_one() -> None:
    forwards = [draw_scenario("small", "train", i, 0) for i in range(40)]
    backwards = [draw_scenario("small", "train", i, 0) for i in reversed(range(40))]
    assert forwards == backwards[::-1]
    assert len({content(s) for s in forwards}) == 40
    assert all(a != draw_scenario("small", "train", i, 1) for i, a in enumerate(forwards))


@pytest.mark.parametrize(
    ("arguments", "found"),
    [(("tiny", "train", 0), "'tiny'"), (("small", "test", 0), "'test'"), (("small", "train", -1), "-1")],
)
def test_what_does_not_exist_is_refused(arguments: tuple[str, str, int], found: str) -> None:
    with pytest.raises(ConfigError, match=f"expected .*, found {found}"):
        draw_scenario(*arguments, 0)


# ----------------------------------------------------------------------------------------------------- rooms and splits
@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("kind", KINDS)
def test_rooms_have_the_profiles_size_and_no_two_the_same_furniture(profile: str, kind: str) -> None:
    houses = rooms(profile, kind, 0)
    least, greatest = PROFILES[profile].receptacles[kind]
    assert sorted(houses) == sorted([*scenes(kind, held_out=True), *scenes(kind, held_out=False)])
    assert len({tuple(sorted(r.type for r in room.receptacles)) for room in houses.values()}) == 30
    for room in houses.values():
        assert least <= len(room.receptacles) <= greatest
        assert (
            len({r.id for r in room.receptacles})
            == len({r.location for r in room.receptacles})
            == len(room.receptacles)
        )
        if profile == "small":
            assert sum(r.openable for r in room.receptacles) * 2 < len(room.receptacles)


def test_unseen_rooms_are_kept_out_of_every_other_split(sample: tuple[str, dict[str, list[Scenario]]]) -> None:
    _, games = sample
    held_out = {number for kind in KINDS for number in scenes(kind, held_out=True)}
    assert {s.room.scene for s in games["valid_unseen"]} <= held_out
    for split in ("train", "valid_seen", "tune"):
        assert not {s.room.scene for s in games[split]} & held_out


def test_no_game_is_in_two_splits(sample: tuple[str, dict[str, list[Scenario]]]) -> None:
    _, games = sample
    for split in ("train", "valid_seen", "tune"):
        assert {split_of(s) for s in games[split]} == {split}
    panels = {split: {content(s) for s in games[split]} for split in SPLITS}
    assert sum(map(len, panels.values())) == len(set().union(*panels.values())) == sum(map(len, games.values()))


def test_task_types_and_kinds_of_room_are_balanced(sample: tuple[str, dict[str, list[Scenario]]]) -> None:
    _, games = sample
    for scenarios in games.values():
        assert set(Counter(s.task_type for s in scenarios).values()) == {len(scenarios) // 6}
        for task_type in TASK_TYPES:
            kinds = Counter(s.room.kind for s in scenarios if s.task_type == task_type)
            assert max(kinds.values()) - min(kinds[kind] for kind in TASK_KINDS[task_type]) <= 1


# ----------------------------------------------------------------------------------------------------------- each game
def test_games_are_sound(sample: tuple[str, dict[str, list[Scenario]]]) -> None:
    name, games = sample
    profile = PROFILES[name]
    for scenario in (s for scenarios in games.values() for s in scenarios):
        least, greatest = profile.objects[scenario.room.kind]
        assert least <= len(scenario.objects) <= greatest
        assert len({o.id for o in scenario.objects}) == len(scenario.objects)
        assert max(Counter(o.receptacle for o in scenario.objects).values()) <= profile.capacity
        types = [scenario.room.receptacles[o.receptacle].type for o in scenario.objects]
        assert all(may_hold(t, o.type) for t, o in zip(types, scenario.objects, strict=True))
        wanted = [t for t, o in zip(types, scenario.objects, strict=True) if o.type == scenario.object_type]
        assert len(wanted) >= (2 if scenario.task_type == "pick_two_obj_and_place" else 1)
        assert scenario.target_type not in wanted
        if scenario.target_type == LAMP:
            assert LAMP in {o.type for o in scenario.objects}
        else:
            assert scenario.target_type in {r.type for r in scenario.room.receptacles}
            assert may_hold(scenario.target_type, scenario.object_type)


def test_a_drawn_game_equals_its_text_and_is_not_won_at_the_start(
    sample: tuple[str, dict[str, list[Scenario]]],
) -> None:
    _, games = sample
    for scenario in (s for scenarios in games.values() for s in scenarios[:30]):
        problem = to_problem(scenario)
        assert problem == Problem.from_pddl(problem_text(scenario, "game"), scenario.sentence)
        game = Game(problem)
        first = game.reset()
        assert not game.won
        assert first.endswith(f"Your task is to: {scenario.sentence}")


# --------------------------------------------------------------------------------------------------------------- files
@pytest.fixture(scope="module", params=sorted(PROFILES))
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A profile and a small data set of it on disk."""
    folder = tmp_path_factory.mktemp(request.param)
    write_dataset(folder, profile=request.param, seed=0, sizes={"train": 12, "valid_unseen": 6})
    return request.param, folder


def test_files_have_the_official_layout(dataset: tuple[str, Path]) -> None:
    profile, folder = dataset
    scenario = draw_scenario(profile, "train", 1, 0)
    entry = json.loads((folder / "train" / "tasks.jsonl").read_text().splitlines()[1])
    task = f"look_at_obj_in_light-{scenario.object_type}-None-DeskLamp-{scenario.room.scene}"
    assert entry["path"] == f"{task}/trial_train_000001/game.tw-pddl"
    assert (entry["split"], entry["id"], entry["type"]) == ("train", 1, "look_at_obj_in_light")
    game = json.loads((folder / "train" / entry["path"]).read_bytes())
    assert list(game) == ["pddl_domain", "grammar", "pddl_problem", "solvable", "walkthrough"]
    assert game["solvable"] is True
    assert f"Your task is to: {scenario.sentence}" in game["grammar"]
    trajectory = json.loads((folder / "train" / entry["path"]).with_name("traj_data.json").read_text())
    assert trajectory["task_type"] == "look_at_obj_in_light"
    assert trajectory["pddl_params"] == {
        "object_target": scenario.object_type,
        "parent_target": "",
        "toggle_target": "DeskLamp",
        "mrecep_target": "",
        "object_sliced": False,
    }
    assert trajectory["scene"]["scene_num"] == scenario.room.scene


def test_stored_games_are_the_drawn_ones_and_their_walkthroughs_win(dataset: tuple[str, Path]) -> None:
    profile, folder = dataset
    drawn, stored = GeneratedGames(profile, 0), StoredGames(folder)
    assert stored.tasks("train") == drawn.tasks("train", range(12))
    for task, line in zip(
        stored.tasks("train"), (folder / "train" / "tasks.jsonl").read_text().splitlines(), strict=True
    ):
        game, twin = stored.game(task), drawn.game(task)
        assert game.reset() == twin.reset()
        for action in json.loads((folder / "train" / json.loads(line)["path"]).read_bytes())["walkthrough"]:
            assert not game.won
            assert game.admissible_actions == twin.admissible_actions
            assert game.step(action) == twin.step(action)
        assert game.won


def test_another_start_gives_other_panels_and_the_same_training_tasks(tmp_path: Path) -> None:
    sizes = dict.fromkeys(SPLITS, 3)
    write_dataset(tmp_path / "first", profile="small", seed=0, sizes=sizes)
    write_dataset(tmp_path / "fresh", profile="small", seed=0, sizes=sizes, panel_start=3)
    for split in SPLITS:
        first, fresh = ([t.id for t in StoredGames(tmp_path / name).tasks(split)] for name in ("first", "fresh"))
        assert (first, fresh) == ([0, 1, 2], [0, 1, 2] if split == "train" else [3, 4, 5])


def test_a_split_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path, profile="small", seed=0, sizes={"train": 4})
    before = digest(tmp_path / "train")

    def full_disk(*_: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "trajectory_text", full_disk)
        with pytest.raises(OSError, match="full disk"):
            write_dataset(tmp_path, profile="small", seed=1, sizes={"train": 4})
    assert digest(tmp_path / "train") == before
    write_dataset(tmp_path, profile="small", seed=0, sizes={"train": 2})
    assert len(StoredGames(tmp_path).tasks("train")) == len(list(tmp_path.rglob("game.tw-pddl"))) == 2


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write_dataset(tmp_path, profile="small", seed=0, sizes={"train": 2})
    first, second = StoredGames(tmp_path).tasks("train")
    paths = [json.loads(line)["path"] for line in (tmp_path / "train" / "tasks.jsonl").read_text().splitlines()]
    truncated = tmp_path / "train" / paths[0]
    truncated.write_bytes(truncated.read_bytes()[:1000])
    with pytest.raises(DataError, match=rf"{paths[0]}: expected sha256 [0-9a-f]+, found [0-9a-f]+ in 1000 bytes"):
        StoredGames(tmp_path).game(first)
    (tmp_path / "train" / paths[1]).unlink()
    with pytest.raises(DataError, match=rf"{paths[1]}: expected an ALFWorld game file, found: No such file"):
        StoredGames(tmp_path).game(second)
    with pytest.raises(DataError, match=r"train/tasks.jsonl: expected task 7"):
        StoredGames(tmp_path).game(Task("alfworld", "train", 7, TASK_TYPES[1]))
    with pytest.raises(DataError, match=r"valid_seen/tasks.jsonl: expected the index of a split"):
        StoredGames(tmp_path).tasks("valid_seen")
    (tmp_path / "train" / "tasks.jsonl").write_text('{"id": 0}\n')
    with pytest.raises(DataError, match=r"train/tasks.jsonl: expected one JSON object a line"):
        StoredGames(tmp_path).tasks("train")


# ------------------------------------------------------------------------------------------------ the official data set
def test_official_games_are_chosen_as_alfworld_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "json_2.1.1"
    write_dataset(root, profile="official", seed=0, sizes={"valid_seen": 6})
    folder = root / "valid_seen"
    games = sorted(folder.glob("*/*/game.tw-pddl"))
    unsolvable = json.loads(games[2].read_bytes())
    games[2].write_text(json.dumps({**unsolvable, "solvable": False}))
    for name in (
        "pick_and_place_with_movable_recep-Apple-Bowl-Fridge-9",
        "pick_heat_then_place_in_recep-AppleSliced-None-Fridge-9",
    ):
        shutil.copytree(games[0].parent, folder / name / "trial_1")
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    official = OfficialGames()
    kept = [path for i, path in enumerate(games) if i != 2]
    assert [(t.id, t.type) for t in official.tasks("valid_seen")] == [
        (i, path.parent.parent.name.partition("-")[0]) for i, path in enumerate(kept)
    ]
    for task, path in zip(official.tasks("valid_seen"), kept, strict=True):
        assert official.game(task).problem == Game.load(path).problem


def test_absent_official_games_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    with pytest.raises(DataError, match=r"ALFWORLD_DATA: .*found it unset.*alfworld-download"):
        OfficialGames()
    with pytest.raises(
        DataError, match=r"json_2.1.1/train: expected <task>/<trial>/game.tw-pddl, found 0.*alfworld-download"
    ):
        OfficialGames(tmp_path).tasks("train")
    with pytest.raises(DataError, match="found 'tune'"):
        OfficialGames(tmp_path).tasks("tune")
