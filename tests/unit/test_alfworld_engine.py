"""The ALFWorld engine's rules, one by one, on a small room written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.environments.alfworld.engine.game import DOMAIN, GRAMMAR, Game, display_names
from empg.environments.alfworld.engine.grammar import reword, split_task, wording_of
from empg.environments.alfworld.engine.pddl import PddlError, Problem, parse_formula
from empg.errors import EnvironmentStateError

# Kind of receptacle -> its places; a place's name ends with its location.
ROOM = {
    "cabinet": ["1_bar_a", "2_bar_b"],
    "countertop": ["1_bar_c"],
    "desk": ["1_bar_d"],
    "fridge": ["1_bar_e"],
    "microwave": ["1_bar_f"],
}
OPENABLE = ("cabinet", "fridge", "microwave")
THINGS = {
    "mug_bar_1": "countertop_bar_1_bar_c",
    "mug_bar_2": "cabinet_bar_1_bar_a",
    "desklamp_bar_1": "desk_bar_1_bar_d",
    "apple_bar_1": "fridge_bar_1_bar_e",
}
PLACE = """(exists (?r - receptacle ?o - object) (and (inReceptacle ?o ?r) (objectType ?o MugType)
(receptacleType ?r {}Type) {}))"""
TWO = """(exists (?r - receptacle) (exists (?o1 - object) (and (objectType ?o1 MugType)
(receptacleType ?r DeskType) (inReceptacle ?o1 ?r) (exists (?o2 - object) (and (not (= ?o1 ?o2))
(objectType ?o2 MugType) (inReceptacle ?o2 ?r))))))"""
LOOK = """(and (exists (?t - object ?r - receptacle ?a - agent ?l - location) (and (objectType ?t DeskLampType)
(toggleable ?t) (isToggled ?t) (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?t ?r)))
(exists (?o - object ?a - agent) (and (objectType ?o MugType) (holds ?a ?o))))"""
NEVER = "(exists (?o - object) (and (isHot ?o) (isCool ?o)))"


def room(goal: str = NEVER) -> Problem:
    """The room, as a problem built in memory."""
    entities = [("agent1", "agent"), ("loc_start", "location")]
    facts = [("atLocation", "agent1", "loc_start")]
    kinds = [*ROOM, "sinkbasin"]
    receptacles = [(f"{kind}_bar_{place}", kind) for kind, places in ROOM.items() for place in places]
    receptacles.append(("sink_bar_1_bar_sinkbasin", "sinkbasin"))
    for name, kind in receptacles:
        location = f"loc_bar_{name.rpartition('_')[2]}"
        entities += [(name, "receptacle"), (location, "location")]
        facts += [("receptacleType", name, f"{kind}Type"), ("receptacleAtLocation", name, location)]
        facts += [("openable", name)] * (kind in OPENABLE)
    for kind in kinds:
        entities.append((f"{kind}Type", "rtype"))
        facts += [("canContain", f"{kind}Type", f"{thing}Type") for thing in ("mug", "apple", "desklamp")]
    entities += [(f"{kind}Type", "otype") for kind in ("mug", "apple", "desklamp", "knife", "butterknife")]
    for name, place in THINGS.items():
        kind = name.partition("_")[0]
        entities.append((name, "object"))
        facts += [("objectType", name, f"{kind}Type"), ("inReceptacle", name, place)]
        facts.append(("objectAtLocation", name, f"loc_bar_{place.rpartition('_')[2]}"))
        properties = ("toggleable",) if kind == "desklamp" else ("pickupable", "cleanable", "heatable", "coolable")
        facts += [(each, name) for each in properties]
    return Problem.build("do as told.", entities, facts, goal)


def started(goal: str = NEVER, wording: str = "0.4.2") -> Game:
    game = Game(room(goal), wording=wording)
    game.reset()
    return game


def play(game: Game, *actions: str) -> str:
    """Play admissible actions; the last observation."""
    for action in actions:
        assert action in game.admissible_actions
        result = game.step(action)
        assert not result.invalid, action
    return result.observation


def refuses(game: Game, action: str) -> bool:
    """Whether the action is not admissible, changes nothing and is flagged."""
    before = game.admissible_actions
    result = game.step(action)
    assert result.invalid == (result.observation == "Nothing happens.")
    assert result.invalid == (action.strip() not in before)
    if result.invalid:
        assert game.admissible_actions == before
    return result.invalid


def test_first_observation_lists_the_room_with_numbers_descending() -> None:
    assert Game(room()).reset() == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see "
        "a cabinet 2, a cabinet 1, a countertop 1, a desk 1, a fridge 1, a microwave 1, and a sinkbasin 1.\n\n"
        "Your task is to: do as told."
    )


def test_names_count_down_in_order_of_identifier() -> None:
    identifiers = [
        "agent1",
        "apple_bar_1",
        "mug_bar__minus_1",
        "mug_bar__plus_1",
        "sink_bar_1",
        "sink_bar_2_bar_sinkbasin",
    ]
    assert display_names(identifiers) == ["agent1 ", "apple 1", "mug 2", "mug 1", "sink 1", "sinkbasin 1"]
    assert display_names(["a_minus_b_dot_c"]) == ["a-b.c "]


def test_look_at_the_start_sees_nothing() -> None:
    assert play(started(), "look") == ("You are in the middle of a room. Looking quickly around you, you see nothing.")


def test_look_elsewhere() -> None:
    assert play(started(), "go to desk 1", "look") == "You are facing the desk 1. Next to it, you see nothing."


def test_going_opening_and_closing() -> None:
    game = started()
    assert play(game, "go to countertop 1") == "You arrive at countertop 1. On the countertop 1, you see a mug 2."
    assert play(game, "go to cabinet 2") == "You arrive at cabinet 2. The cabinet 2 is closed."
    assert refuses(game, "go to cabinet 2")
    assert refuses(game, "close cabinet 2")
    assert refuses(game, "take mug 1 from cabinet 2")
    assert play(game, "open cabinet 2") == "You open the cabinet 2. The cabinet 2 is open. In it, you see a mug 1."
    assert refuses(game, "open cabinet 2")
    assert play(game, "examine cabinet 2") == "The cabinet 2 is open. In it, you see a mug 1."
    assert play(game, "close cabinet 2") == "You close the cabinet 2."
    assert refuses(game, "open desk 1")


def test_taking_and_moving() -> None:
    game = started()
    assert play(game, "inventory") == "You are not carrying anything."
    assert (
        play(game, "go to countertop 1", "take mug 2 from countertop 1")
        == "You pick up the mug 2 from the countertop 1."
    )
    assert play(game, "inventory") == "You are carrying: a mug 2."
    assert play(game, "go to fridge 1", "open fridge 1") == (
        "You open the fridge 1. The fridge 1 is open. In it, you see a apple 1."
    )
    assert refuses(game, "take apple 1 from fridge 1")  # one thing at a time
    assert play(game, "move mug 2 to fridge 1") == "You move the mug 2 to the fridge 1."
    assert play(game, "examine fridge 1") == "The fridge 1 is open. In it, you see a apple 1, and a mug 2."
    assert refuses(game, "put mug 2 in/on fridge 1")


def test_only_the_held_object_can_be_examined() -> None:
    game = started()
    play(game, "go to countertop 1")
    assert refuses(game, "examine mug 2")
    assert play(game, "take mug 2 from countertop 1", "examine mug 2") == "There's nothing special about mug 2."


def test_heating_and_cooling_work_through_a_closed_door() -> None:
    game = started()
    play(game, "go to countertop 1", "take mug 2 from countertop 1")
    assert refuses(game, "heat mug 2 with microwave 1")
    assert play(game, "go to microwave 1") == "You arrive at microwave 1. The microwave 1 is closed."
    assert play(game, "heat mug 2 with microwave 1") == "You heat the mug 2 using the microwave 1."
    assert play(game, "examine mug 2") == "This is a hot mug 2."
    assert play(game, "go to fridge 1", "cool mug 2 with fridge 1") == "You cool the mug 2 using the fridge 1."
    assert play(game, "examine mug 2") == "This is a cold mug 2."
    assert (
        play(game, "go to sinkbasin 1", "clean mug 2 with sinkbasin 1") == "You clean the mug 2 using the sinkbasin 1."
    )
    assert play(game, "examine mug 2") == "This is a cool and clean mug 2."


def test_use_always_turns_on() -> None:
    game = started()
    play(game, "go to desk 1")
    assert refuses(game, "take desklamp 1 from desk 1")
    assert [play(game, "use desklamp 1") for _ in range(3)] == ["You turn on the desklamp 1."] * 3


def test_help_is_an_action() -> None:
    assert play(started(), "help").startswith("Available commands:\n  look:  ")


GET_MUG = ("go to countertop 1", "take mug 2 from countertop 1")
WINS = {
    PLACE.format("Desk", ""): (*GET_MUG, "go to desk 1", "move mug 2 to desk 1"),
    PLACE.format("Desk", "(cleanable ?o) (isClean ?o)"): (
        *GET_MUG,
        "go to sinkbasin 1",
        "clean mug 2 with sinkbasin 1",
        "go to desk 1",
        "move mug 2 to desk 1",
    ),
    PLACE.format("Desk", "(heatable ?o) (isHot ?o)"): (
        *GET_MUG,
        "go to microwave 1",
        "heat mug 2 with microwave 1",
        "go to desk 1",
        "move mug 2 to desk 1",
    ),
    PLACE.format("Desk", "(coolable ?o) (isCool ?o)"): (
        *GET_MUG,
        "go to fridge 1",
        "cool mug 2 with fridge 1",
        "go to desk 1",
        "move mug 2 to desk 1",
    ),
    TWO: (
        *GET_MUG,
        "go to desk 1",
        "move mug 2 to desk 1",
        "go to cabinet 2",
        "open cabinet 2",
        "take mug 1 from cabinet 2",
        "go to desk 1",
        "move mug 1 to desk 1",
    ),
    LOOK: (*GET_MUG, "go to desk 1", "use desklamp 1"),
}


@pytest.mark.parametrize("goal", WINS, ids=["place", "clean", "heat", "cool", "two", "look"])
def test_each_task_type_is_won_by_its_last_step_alone(goal: str) -> None:
    game = started(goal)
    *before, last = WINS[goal]
    for action in before:
        result = game.step(action)
        assert (result.invalid, result.reward, result.done, game.won) == (False, 0.0, False, False)
    result = game.step(last)
    assert (result.invalid, result.reward, result.done, game.won) == (False, 1.0, True, True)
    with pytest.raises(EnvironmentStateError, match="reset"):
        game.step("look")
    game.reset()
    assert not game.won


@pytest.mark.parametrize(
    ("goal", "near_miss"),
    [
        (PLACE.format("Desk", "(isHot ?o)"), (*GET_MUG, "go to desk 1", "move mug 2 to desk 1")),
        (
            PLACE.format("Desk", "(isHot ?o)"),
            (
                *GET_MUG,
                "go to microwave 1",
                "heat mug 2 with microwave 1",
                "go to fridge 1",
                "cool mug 2 with fridge 1",
                "go to desk 1",
                "move mug 2 to desk 1",
            ),
        ),
        (TWO, (*GET_MUG, "go to desk 1", "move mug 2 to desk 1", "take mug 2 from desk 1", "move mug 2 to desk 1")),
        (LOOK, (*GET_MUG, "go to desk 1", "move mug 2 to desk 1", "use desklamp 1")),
    ],
)
def test_near_misses_do_not_win(goal: str, near_miss: tuple[str, ...]) -> None:
    game = started(goal)
    play(game, *near_miss)
    assert not game.won


@pytest.mark.parametrize(
    ("goal", "won"),
    [
        ("(and)", True),
        ("(or)", False),
        ("(forall (?r - receptacle) (not (opened ?r)))", True),
        ("(forall (?o - object) (not (openable ?o)))", False),  # in PDDL everything is an object
        ("(forall (?o - object) (imply (heatable ?o) (objectType ?o MugType)))", False),
        ("(not (exists (?r - receptacle) (opened ?r)))", True),
        (
            "(exists (?x ?y - object) (and (not (= ?x ?y)) (objectType ?x AppleType) (objectType ?y AppleType)))",
            False,
        ),
        ("(exists (?x - object) (exists (?x - receptacle) (openable ?x)))", True),
        ("(exists (?x - object) (and (objectType ?x MugType) (forall (?x - object) (pickupable ?x))))", False),
        ("(exists (?o - object) (objectType ?o UnknownType))", False),
        ("(exists (?o - nothing) (and))", False),
    ],
)
def test_goals_of_every_form(goal: str, won: bool) -> None:
    assert started(goal).won is won


def test_the_two_ways_to_a_problem_give_equal_problems() -> None:
    built = room(TWO)
    objects = "\n".join(f"{name.title()} - {kind}" for name, kind in built.entities)
    init = "\n".join(f"({' '.join(fact).title()})" for fact in sorted(built.facts, reverse=True))
    text = f"""; a comment (that opens
    (define (problem p) (:domain alfred)
    (:objects {objects})
    (:init {init} (= (distance loc_start loc_start) 0) (= (total-cost) 0))
    (:goal {TWO}) (:metric minimize (total-cost)))"""
    parsed = Problem.from_pddl(text, "do as told.")
    assert parsed == built
    assert hash(parsed.facts) == hash(built.facts)
    assert Problem.build(built.task, built.entities, built.facts, parse_formula(TWO)) == built
    assert Problem.build("another.", built.entities, built.facts, built.goal) != built


def test_steps_before_the_first_reset_are_refused() -> None:
    game = Game(room())
    assert game.admissible_actions == []
    assert not game.won
    with pytest.raises(EnvironmentStateError, match="reset"):
        game.step("look")


def test_reset_forgets_everything_and_games_share_nothing() -> None:
    problem = room()
    one, other = Game(problem), Game(problem)
    first, start = one.reset(), one.admissible_actions if one.reset() else []
    other.reset()
    play(one, *GET_MUG, "go to cabinet 1", "open cabinet 1", "move mug 2 to cabinet 1")
    assert other.admissible_actions == start
    assert one.admissible_actions != start
    assert one.reset() == first
    assert one.admissible_actions == start
    assert play(one, "go to cabinet 1") == "You arrive at cabinet 1. The cabinet 1 is closed."


def test_changing_the_returned_list_changes_nothing() -> None:
    game = started()
    game.admissible_actions.clear()
    assert "look" in game.admissible_actions


@pytest.mark.parametrize(
    "action",
    [
        "",
        " ",
        "Look",
        "look ing",
        "go  to desk 1",
        "go to desk",
        "go to desk 1 1",
        "go to desk 9",
        "take mug 2",
        "dance",
        "take mug 2 from",
        "take mug 2 from desk 1",
        "go to mug 2",
        "open mug 2",
        "examine agent1 ",
        "look\x00",
        "\udcff",
        "{0}",
        "a" * 1_000_000,
        "take " * 200_000,
        "take a b from " * 100_000,
        "go to desk 1\nlook",
    ],
)
def test_inadmissible_texts_change_nothing(action: str) -> None:
    game = started()
    play(game, *GET_MUG[:1])
    assert refuses(game, action)


def test_space_around_an_action_does_not_matter() -> None:
    game = started()
    assert not refuses(game, " \t go to desk 1\n\n")
    assert not refuses(game, "\u3000look\u00a0")


ROOM_GAME = started()
WORDS = st.sampled_from(
    [
        "go",
        "to",
        "take",
        "from",
        "move",
        "open",
        "examine",
        "use",
        "heat",
        "with",
        "mug",
        "desk",
        "fridge",
        "1",
        "2",
        "",
    ]
)


@given(st.one_of(st.text(), st.lists(WORDS, max_size=8).map(" ".join)))
def test_no_text_raises(action: str) -> None:
    result_is_refusal = refuses(ROOM_GAME, action)
    assert result_is_refusal in (True, False)


@given(st.lists(st.integers(0, 1000), max_size=30))
def test_every_admissible_action_is_accepted(choices: list[int]) -> None:
    game = started()
    for choice in choices:
        actions = game.admissible_actions
        assert actions == sorted(set(actions))
        assert not refuses(game, actions[choice % len(actions)])


def test_older_wording() -> None:
    game = started(PLACE.format("Desk", ""), wording="older")
    assert refuses(game, "help")
    assert play(game, "go to countertop 1") == "You arrive at loc 4. On the countertop 1, you see a mug 2."
    play(game, "take mug 2 from countertop 1", "go to desk 1")
    assert refuses(game, "move mug 2 to desk 1")
    assert play(game, "put mug 2 in/on desk 1") == "You put the mug 2 in/on the desk 1."
    assert (game.wording, game.won) == ("older", True)


def test_rewording_a_grammar_back_and_forth() -> None:
    older = reword(GRAMMAR, "older")
    assert (wording_of(GRAMMAR), wording_of(older)) == ("0.4.2", "older")
    assert "action help" not in older
    newer = reword(older, "0.4.2")
    assert newer == reword(newer, "0.4.2")
    assert wording_of(newer) == "0.4.2"


@pytest.mark.parametrize("wording", [None, "0.4.2", "older"])
@pytest.mark.parametrize("own", ["0.4.2", "older"])
def test_a_file_is_played_in_its_own_wording_or_in_the_one_asked_for(
    tmp_path: Path, own: str, wording: str | None
) -> None:
    problem = room()
    objects = " ".join(f"{name} - {kind}" for name, kind in problem.entities)
    init = " ".join(f"({' '.join(fact)})" for fact in problem.facts)
    text = f"(define (problem p) (:domain alfred) (:objects {objects}) (:init {init}) (:goal {NEVER}))"
    grammar = reword(GRAMMAR, own).replace("UNKNOWN GOAL.", "do as told.")
    (tmp_path / "game.tw-pddl").write_text(
        json.dumps({"pddl_domain": DOMAIN, "grammar": grammar, "pddl_problem": text})
    )
    game = Game.load(tmp_path, wording)
    assert game.wording == (wording or own)
    assert game.problem == problem
    game.reset()
    play(game, *GET_MUG, "go to desk 1")
    assert ("put mug 2 in/on desk 1" in game.admissible_actions) == (game.wording == "older")
    assert ("move mug 2 to desk 1" in game.admissible_actions) == (game.wording == "0.4.2")


def test_the_task_sentence_is_read_as_the_public_parser_reads_it() -> None:
    def task(sentence: str) -> str:
        return split_task(GRAMMAR.replace("UNKNOWN GOAL.", json.dumps(sentence)[1:-1]))[1]

    assert task("put a mug in desk.") == "put a mug in desk."
    assert task("put a mug; then rest.") == "put a mug"
    assert task('put "two" mug.') == "put two mug."
    with pytest.raises(PddlError, match="plain text"):
        task("put a #look.feedback#.")
