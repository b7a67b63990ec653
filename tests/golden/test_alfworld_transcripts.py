"""The engine answers as the public engine (alfworld 0.4.2) did, string by string, in transcripts recorded from it.

``benchmarks/parity/record.py`` records them. The games cover the six task types in both generator profiles, and the
rules that ordinary games hardly reach, in both wordings.
"""

from __future__ import annotations

import json
import lzma
import os
from pathlib import Path
from typing import Any

import pytest

from empg.environments.alfworld.engine.game import DOMAIN, GRAMMAR, Game
from empg.environments.alfworld.engine.grammar import UNKNOWN_TASK

HERE = Path(__file__).parent
TRANSCRIPTS = [
    json.loads(line) for line in lzma.decompress((HERE / "alfworld_transcripts.jsonl.xz").read_bytes()).splitlines()
]
EXAMPLES = Path(os.environ.get("EMPG_TEST_DATA", HERE.parents[2] / "shared" / "data")) / "alfworld" / "synth_example"
TYPES = {
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
}


def write_game(folder: Path, game: dict[str, Any]) -> Path:
    """Put a recorded game back into the form of a game file."""
    grammar = game.get("grammar", GRAMMAR)
    task = json.dumps(game["task"])[1:-1]
    content = {"pddl_domain": DOMAIN, **game, "grammar": grammar.replace(UNKNOWN_TASK, task)}
    path = folder / "game.tw-pddl"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def replay(game: Game, events: list[list[Any]]) -> None:
    """Play a transcript and compare every answer."""
    for action, observation, admissible, won, reward, done in events:
        if action is None:
            assert game.reset() == observation
        else:
            allowed = game.admissible_actions
            result = game.step(action)
            assert (action, result.observation) == (action, observation)
            assert (action, result.reward, result.done) == (action, reward, done)
            assert (action, result.invalid) == (action, action.strip() not in allowed)
        assert (action, game.admissible_actions) == (action, admissible)
        assert (action, game.won) == (action, won)


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript["name"])
def test_answers_equal_the_public_engines(transcript: dict[str, Any], tmp_path: Path) -> None:
    if "game" in transcript:
        path = write_game(tmp_path, transcript["game"])
    else:
        path = EXAMPLES / transcript["name"].removeprefix("examples/")
        if not path.is_dir():
            pytest.skip(f"no example game at {path} (set EMPG_TEST_DATA to the test data)")
    replay(Game.load(path), transcript["events"])


def test_the_transcripts_cover_what_they_should() -> None:
    names = [transcript["name"] for transcript in TRANSCRIPTS]
    for source in ("small", "official", "examples"):
        kinds = [name.split("/")[-2].split("-")[0] for name in names if name.startswith(f"{source}/")]
        assert sorted(kinds) == sorted(TYPES)
    assert sum(name.startswith("quirks/") for name in names) == 14
    events = [event for transcript in TRANSCRIPTS for event in transcript["events"]]
    refused = sum(event[1] == "Nothing happens." for event in events)
    assert 0.15 < refused / len(events) < 0.5
    verbs = {event[0].split(" ")[0] for event in events if event[0] and event[1] != "Nothing happens."}
    assert verbs >= {
        "look",
        "inventory",
        "help",
        "go",
        "open",
        "close",
        "take",
        "move",
        "put",
        "examine",
        "use",
        "slice",
    }
    assert verbs >= {"heat", "cool", "clean"}
    for transcript in TRANSCRIPTS:
        if not transcript["name"].startswith("quirks/"):  # the solution comes first, up to the next reset
            actions = [event[0] for event in transcript["events"][1:]]
            solution = transcript["events"][: actions.index(None) + 1]
            assert [event[3] for event in solution] == [False] * (len(solution) - 1) + [True]
