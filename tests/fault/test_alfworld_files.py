"""Missing, truncated and malformed game files are refused with the file, the key, what was expected and found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from empg.environments.alfworld.engine.game import DOMAIN, GRAMMAR, Game
from empg.errors import DataError, UserError

PROBLEM = """(define (problem p) (:domain alfred)
(:objects agent1 - agent loc_bar_1 - location desk_bar_1 - receptacle DeskType - rtype
MugType - otype mug_bar_1 - object)
(:init (atLocation agent1 loc_bar_1) (receptacleAtLocation desk_bar_1 loc_bar_1) (receptacleType desk_bar_1 DeskType)
(objectType mug_bar_1 MugType) (inReceptacle mug_bar_1 desk_bar_1) (pickupable mug_bar_1) (= (total-cost) 0))
(:goal (exists (?a - agent ?o - object) (and (holds ?a ?o) (objectType ?o MugType)))))"""
GOOD = {"pddl_domain": DOMAIN, "grammar": GRAMMAR, "pddl_problem": PROBLEM, "solvable": True, "walkthrough": []}


def write(folder: Path, content: object) -> Path:
    path = folder / "game.tw-pddl"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        Game.load(path)
    assert isinstance(caught.value, UserError)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "expected" in message
    assert "found" in message
    assert len(message) < 1000
    return message


def test_the_good_file_is_good(tmp_path: Path) -> None:
    game = Game.load(write(tmp_path, GOOD))
    assert game.reset().startswith("-= Welcome")
    assert game.step("take mug 1 from desk 1").done
    assert Game.load(tmp_path).problem == game.problem  # the folder does as well


def test_missing_file(tmp_path: Path) -> None:
    assert "found none" in refusal(tmp_path / "game.tw-pddl")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "game.tw-pddl"))):
        Game.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"null", b'"text"', b"\x00" * 100])
def test_not_a_json_object(tmp_path: Path, content: bytes) -> None:
    assert "JSON" in refusal(write(tmp_path, content))


def test_an_action_with_two_parameters_of_one_name(tmp_path: Path) -> None:
    parameters = re.search(r":parameters \((\S+) - \S+ (\S+)", DOMAIN)
    assert parameters is not None
    twice = DOMAIN.replace(parameters[2], parameters[1])
    assert "parameters of different names" in refusal(write(tmp_path, GOOD | {"pddl_domain": twice}))


def test_every_truncation_of_a_file_is_refused(tmp_path: Path) -> None:
    whole = json.dumps(GOOD).encode()
    for length in range(0, len(whole), 997):
        refusal(write(tmp_path, whole[:length]))


@pytest.mark.parametrize("key", ["pddl_domain", "grammar", "pddl_problem"])
@pytest.mark.parametrize("value", [None, 3, ["text"], "absent"])
def test_missing_or_mistyped_key(tmp_path: Path, key: str, value: object) -> None:
    content = {name: text for name, text in GOOD.items() if name != key}
    message = refusal(write(tmp_path, content if value == "absent" else content | {key: value}))
    assert f": {key}: expected a text" in message


@pytest.mark.parametrize("key", ["pddl_domain", "pddl_problem"])
def test_every_truncation_of_a_pddl_text_is_refused(tmp_path: Path, key: str) -> None:
    text = str(GOOD[key]).rstrip()
    for length in range(0, len(text), max(1, len(text) // 40)):
        assert key in refusal(write(tmp_path, GOOD | {key: text[:length]}))


def test_a_truncated_grammar_is_refused_or_holds_all_that_is_needed(tmp_path: Path) -> None:
    refused = 0
    for length in range(0, len(GRAMMAR), len(GRAMMAR) // 40):
        path = write(tmp_path, GOOD | {"grammar": GRAMMAR[:length]})
        try:
            observation = Game.load(path).reset()
        except DataError:
            refused += 1
            continue
        assert observation.startswith("-= Welcome")
    assert refused > 20


@pytest.mark.parametrize(
    ("key", "old", "new", "found"),
    [
        ("pddl_problem", "(:init", "(:innit", "(:innit"),
        ("pddl_problem", "(atLocation agent1 loc_bar_1)", "(isAt agent1 loc_bar_1)", "(isat agent1 loc_bar_1)"),
        ("pddl_problem", "(pickupable mug_bar_1)", "(pickupable mug_bar_9)", "(pickupable mug_bar_9)"),
        (
            "pddl_problem",
            "(pickupable mug_bar_1)",
            "(pickupable mug_bar_1 desk_bar_1)",
            "(pickupable mug_bar_1 desk_bar_1)",
        ),
        ("pddl_problem", "(pickupable mug_bar_1)", "()", "()"),
        ("pddl_problem", "DeskType - rtype", "DeskType - rtypo", "rtypo"),
        ("pddl_problem", "DeskType - rtype", "agent1 - rtype", "agent1"),
        ("pddl_problem", "(:goal", "(:gaol", "found 0"),
        ("pddl_problem", "(holds ?a ?o)", "(holds ?a)", "(holds ?a)"),
        ("pddl_problem", "(holds ?a ?o)", "(grips ?a ?o)", "(grips ?a ?o)"),
        ("pddl_problem", "(holds ?a ?o)", "(holds ?a ?x)", "?x"),
        ("pddl_problem", "(holds ?a ?o)", "(not)", "found 0"),
        ("pddl_problem", "(holds ?a ?o)", "(not (holds ?a ?o) (holds ?a ?o))", "found 2"),
        ("pddl_problem", "(holds ?a ?o)", "(exists ?o)", "found 1"),
        ("pddl_problem", "(holds ?a ?o)", "((holds) ?a)", "holds"),
        ("pddl_domain", "(:action look", "(:axiom look", None),
        ("pddl_domain", "(pickupable ?o)\n", "(pickupible ?o)\n", "(pickupible ?o)"),
        ("pddl_problem", "(holds ?a ?o)", "(and " * 3000 + "(holds ?a ?o)" + ")" * 3000, "deep"),
        ("pddl_problem", "(holds ?a ?o)", "(not (and " * 150 + "(holds ?a ?o)" + "))" * 150, "deep"),
        ("pddl_domain", ":effect", ":effects", ":effect"),
        ("pddl_domain", "(isHot ?o)\n", "(isHot ?q)\n", "(ishot ?q)"),
        ("pddl_domain", "(isHot ?o)\n", "isHot\n", "heatobject"),
        ("pddl_domain", "(:types", "(:tips", "agent1"),
        ("grammar", '"task"', '"tusk"', "found none"),
        ("grammar", "Your task is to: ", "Do this: ", "Do this: "),
        ("grammar", '"intro"', '"outro"', None),
        ("grammar", "take {o} from {r}", "take {thing} from {r}", "{thing}"),
        ("grammar", "atlocation(a:agent, l:location) &", "atlocation a l &", "atlocation a l"),
        ("grammar", "{r.indefinite} {r.name or r.id}", "{r.indefinite.upper()} {r.name}", "r.indefinite.upper()"),
        ("grammar", "{r.indefinite} {r.name or r.id}", "{q.name}", "q.name"),
        ("grammar", "#list_appliances#", "#list_gadgets#", "found none"),
        ("grammar", 'feedback :: "#inventory.feedback#";', "", "['template']"),
        ("grammar", '"rhs": "You are not carrying anything."', '"lhs": 3', "rhs"),
        ("grammar", '"rhs": "You are not carrying anything."', '"rhs": 3', None),
    ],
)
def test_broken_text(tmp_path: Path, key: str, old: str, new: str, found: str | None) -> None:
    text = str(GOOD[key])
    assert old in text
    path = write(tmp_path, GOOD | {key: text.replace(old, new)})
    if key == "pddl_domain" and found is None:  # an action fewer is a smaller game, not a broken one
        game = Game.load(path)
        game.reset()
        assert "look" not in game.admissible_actions
        return
    message = refusal(path)
    assert key in message
    assert found is None or found in message


def test_names_of_a_file_are_no_python(tmp_path: Path) -> None:
    """The rules are compiled: an action of any name is played, and a term that looks like ours is refused."""
    named = {"pddl_domain": DOMAIN.replace("OpenObject", "a/b-c"), "grammar": GRAMMAR.replace("OpenObject", "a/b-c")}
    assert Game.load(write(tmp_path, GOOD | named)).reset().startswith("-= Welcome")
    for term in ("$0", "$9**9**9", "$0]or[1"):
        domain = DOMAIN.replace("(atLocation ?a ?l)", f"(atLocation ?a {term})", 1)
        assert "expected a predicate of the domain" in refusal(write(tmp_path, GOOD | {"pddl_domain": domain}))
        problem = PROBLEM.replace("(objectType ?o MugType)", f"(objectType ?o {term})")
        assert "expected a predicate of the domain" in refusal(write(tmp_path, GOOD | {"pddl_problem": problem}))
