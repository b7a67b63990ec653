"""Playing one ALFWorld game."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from empg.environments.alfworld.engine.grammar import UNKNOWN_TASK, Wording, reword, split_task, wording_of
from empg.environments.alfworld.engine.logic import Logic, compile_logic, goal_test
from empg.environments.alfworld.engine.pddl import PddlError, Problem
from empg.environments.base import StepResult
from empg.errors import DataError, EnvironmentStateError

NOTHING_HAPPENS = "Nothing happens."
GAME_FILE = "game.tw-pddl"
_KEYS = ("pddl_domain", "grammar", "pddl_problem")
_ASSETS = files("empg.environments.alfworld.engine") / "assets"
DOMAIN = (_ASSETS / "alfred.pddl").read_text(encoding="utf-8")
GRAMMAR = (_ASSETS / "alfred.twl2").read_text(encoding="utf-8")


def display_names(identifiers: Sequence[str]) -> list[str]:
    """The names that alfworld gives to identifiers in ascending order; the first of a kind has the highest number.

    ``mug_bar__minus_01…`` is "mug 2" where there are two. A sink's basin is a kind of its own ("sinkbasin 1"), and an
    identifier without a place keeps a trailing space. Source: ``Demangler`` in alfworld 0.4.2.
    """
    kinds = [identifier.split("_bar_", 1)[0] + ("basin" if "basin" in identifier else "") for identifier in identifiers]
    remaining = Counter(kind for kind, identifier in zip(kinds, identifiers, strict=True) if "_bar_" in identifier)
    names = []
    for kind, identifier in zip(kinds, identifiers, strict=True):
        if "_bar_" in identifier:
            names.append(f"{kind} {remaining[kind]}")
            remaining[kind] -= 1
        else:
            names.append(_unmangled(identifier) + " ")
    return names


def _unmangled(identifier: str) -> str:
    for mangled, sign in (("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ",")):
        identifier = identifier.replace(mangled, sign)
    return identifier


class Game:
    """One game, played with text as in alfworld 0.4.2: the same observations, admissible actions and win conditions.

    Args:
        problem: what there is, what is true at the start, and the goal.
        wording: "0.4.2" ("move X to Y") or "older" ("put X in/on Y").
        domain: text of the PDDL domain; alfworld's own by default.
        grammar: text of the grammar without its task sentence; alfworld's own by default.

    Raises:
        PddlError: domain, grammar and problem do not fit together.
    """

    def __init__(
        self, problem: Problem, *, wording: Wording = "0.4.2", domain: str = DOMAIN, grammar: str = GRAMMAR
    ) -> None:
        if wording != wording_of(grammar):
            grammar = reword(grammar, wording)
        self.problem, self.wording = problem, wording
        self._logic = logic = compile_logic(domain, grammar)
        self._start = _tables(logic, problem)
        mentioned = {name for fact in problem.facts for name in fact[1:]}
        named = [identifier for identifier, _ in problem.entities if identifier in mentioned]
        displayed = dict(zip(named, display_names(named), strict=True))
        self._names = [displayed.get(identifier, "") for identifier, _ in problem.entities]
        number = {identifier: i for i, (identifier, _) in enumerate(problem.entities)}
        self._constants = [number.get(name, -1) for name in logic.constants]
        self._number = {name: i for i, name in enumerate(self._names) if name}
        self._goal, goal_names = goal_test(logic, problem.goal)
        self._goal_constants = [number.get(name, -1) for name in goal_names]
        self._tables: list[Any] | None = None
        self._commands: list[str] | None = None
        self._done = False

    @classmethod
    def load(cls, path: str | Path, wording: Wording | None = None) -> Game:
        """Read a ``game.tw-pddl`` file, or the one in a folder; ``wording`` None keeps the file's own.

        Raises:
            DataError: the file is missing, truncated or malformed; the message names file, key, expected and found.
        """
        path = Path(path)
        path = path / GAME_FILE if path.is_dir() else path
        data = _read(path)
        key = "grammar"
        try:
            grammar, task = split_task(data["grammar"])
            key = "pddl_problem"
            problem = Problem.from_pddl(data["pddl_problem"], task)
            key = "pddl_domain, grammar, pddl_problem"
            return cls(problem, wording=wording or wording_of(grammar), domain=data["pddl_domain"], grammar=grammar)
        except PddlError as cause:
            raise DataError(f"{path}: {key}: {cause}") from None
        except RecursionError:
            raise DataError(
                f"{path}: {key}: expected conditions nested less than 100 deep, found deeper ones"
            ) from None

    def reset(self) -> str:
        """Start over and return the first observation."""
        self._tables = tables = list(self._start)
        for slot in self._logic.dynamic:
            tables[slot] = _copy(tables[slot])
            tables[slot + 1] = _copy(tables[slot + 1])
        self._done, self._commands = False, None
        return self._logic.intro(tables, self._constants, self._names).replace(UNKNOWN_TASK, self.problem.task)

    def step(self, action: str) -> StepResult:
        """Play one action. Any that is not admissible changes nothing, yields "Nothing happens." and is invalid.

        Raises:
            EnvironmentStateError: before the first reset, or after the game was won.
        """
        if self._tables is None:
            raise EnvironmentStateError("game: expected reset() before the first step, found none")
        if self._done:
            raise EnvironmentStateError("game: expected reset() after the game was won, found another step")
        command, tables = action.strip(), self._tables
        for operator in self._logic.operators.get(command.partition(" ")[0], ()):
            match = operator.command.fullmatch(command)
            if match is None:
                continue
            named = [self._number.get(name, -1) for name in match.groups()]
            found = None if -1 in named else operator.find(tables, self._constants, *named)
            if found is not None:
                operator.apply(tables, self._constants, *found)
                observation, invalid = operator.answer(self._names, tables, self._constants, *found), False
                self._commands = None
                break
        else:
            observation, invalid = NOTHING_HAPPENS, True
        self._done = self.won
        return StepResult(observation, float(self._done), self._done, invalid)

    @property
    def admissible_actions(self) -> list[str]:
        """Every action that would do something now, sorted; none before the first reset."""
        if self._tables is None:
            return []
        if self._commands is None:
            self._commands = self._logic.commands(self._tables, self._constants, self._names)
        return list(self._commands)

    @property
    def won(self) -> bool:
        """Whether the goal holds now."""
        return self._tables is not None and self._goal(self._tables, self._constants, self._goal_constants)


def _copy(table: set[int] | dict[int, list[int]]) -> set[int] | dict[int, list[int]]:
    return {key: row.copy() for key, row in table.items()} if isinstance(table, dict) else table.copy()


def _tables(logic: Logic, problem: Problem) -> list[Any]:
    """The start's facts, in the form that :mod:`empg.environments.alfworld.engine.compiler` describes."""
    tables: list[Any] = [None] * logic.size
    for name, slot in logic.slots.items():
        tables[slot], tables[slot + 1] = (set(), set()) if logic.arity[name] == 1 else ({}, {})
    number = {}
    for i, (identifier, kind) in enumerate(problem.entities):
        if identifier in number:
            raise PddlError(f"expected every object once, found {identifier} twice")
        if kind not in logic.domain.types:
            raise PddlError(f"expected objects of the domain's types, found {identifier} - {kind}")
        number[identifier] = i
        tables[logic.slots["type object"]].add(i)
        tables[logic.slots[f"type {kind}"]].add(i)
    try:
        for fact in problem.facts:
            slot = logic.slots[fact[0]]
            first = number[fact[1]]
            if logic.arity[fact[0]] != len(fact) - 1:
                raise LookupError
            if len(fact) == 2:
                tables[slot].add(first)
            else:
                second = number[fact[2]]
                tables[slot].setdefault(first, []).append(second)
                tables[slot + 1].setdefault(second, []).append(first)
    except LookupError:
        found = f"({' '.join(fact)})"
        raise PddlError(f"expected facts of the domain's predicates about declared objects, found {found}") from None
    for table in tables:
        if isinstance(table, dict):
            for row in table.values():
                row.sort()
    return tables


def _read(path: Path) -> dict[str, str]:
    """The texts of a game file, checked to be there."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: expected an ALFWorld game file, found none") from None
    except OSError as cause:
        raise DataError(f"{path}: expected a readable file, found {cause.strerror}") from None
    except (ValueError, RecursionError) as cause:  # not JSON, not UTF-8, or absurdly nested
        raise DataError(f"{path}: expected a JSON object, found invalid JSON ({cause})") from None
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected a JSON object, found a {type(data).__name__}")
    for key in _KEYS:
        if not isinstance(data.get(key), str):
            found = f"a {type(data[key]).__name__}" if key in data else f"only the keys {sorted(data)}"
            raise DataError(f"{path}: {key}: expected a text, found {found}")
    return data
