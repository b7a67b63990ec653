"""Reading PDDL: the domain's actions and a game's problem, as far as ALFWorld uses the language.

Names are case-insensitive in PDDL and kept in lower case. A condition (:data:`Formula`) is the nested tuple of its
text: ``("and", f, …)``, ``("or", f, …)``, ``("not", f)``, ``("imply", f, g)``, ``("exists", ((variable, type), …),
f)``, ``("forall", …)``, ``("=", x, y)`` or an atom ``(predicate, x, …)``; a term that begins with ``?`` is a
variable. An empty tuple is true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

Formula: TypeAlias = tuple[Any, ...]
Fact: TypeAlias = tuple[str, ...]
SExpr: TypeAlias = "str | list[SExpr]"

_COMMENT = re.compile(r";[^\n]*")
_TOKEN = re.compile(r"[()]|[^\s()]+")
_HEAD = re.compile(r"\s*\(\s*define\s*\(\s*problem\s[^()]*\)\s*\(\s*:domain\s[^()]*\)\s*")
_OBJECTS = re.compile(r"\(\s*:objects\s([^()]*)\)\s*")
_INIT = re.compile(r"\(\s*:init\s*((?:\([^()]*\)\s*|\(\s*=\s*\([^()]*\)[^()]*\)\s*)*)\)\s*")
_NUMERIC = re.compile(r"\(\s*=\s*\([^()]*\)[^()]*\)")
_FLAT = re.compile(r"\(([^()]*)\)")


class PddlError(ValueError):
    """A PDDL text is malformed; the caller adds the file and key to the message."""


@dataclass(frozen=True, slots=True)
class Action:
    """One ``:action``: ``effects`` are (condition, added?, atom) in the order of the text."""

    name: str
    parameters: tuple[tuple[str, str], ...]
    precondition: Formula
    effects: tuple[tuple[Formula, bool, Fact], ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain: the parameter types of each predicate, and the actions by name."""

    types: frozenset[str]
    predicates: dict[str, tuple[str, ...]]
    actions: dict[str, Action]


@dataclass(frozen=True, slots=True)
class Problem:
    """One game's start and goal. Two problems are equal exactly when they are the same game.

    Attributes:
        task: the task sentence that follows "Your task is to: ", with its full stop: ``put a mug in desk.``
        entities: (identifier, type) of everything there is, in order of the lower-case identifier.
        facts: what is true at the start, ``(predicate, identifier, …)``.
        goal: the condition under which the game is won.
    """

    task: str
    entities: tuple[tuple[str, str], ...]
    facts: frozenset[Fact]
    goal: Formula

    @classmethod
    def build(
        cls, task: str, entities: Iterable[tuple[str, str]], facts: Iterable[Fact], goal: str | Formula
    ) -> Problem:
        """Make a problem from parts in any order and case; ``goal`` may be PDDL text: ``(exists (?o - object) …)``."""
        lowered = tuple(sorted((name.lower(), kind.lower()) for name, kind in entities))
        formula = parse_formula(goal) if isinstance(goal, str) else goal
        return cls(task, lowered, frozenset(tuple(map(str.lower, fact)) for fact in facts), formula)

    @classmethod
    def from_pddl(cls, text: str, task: str) -> Problem:
        """Parse a ``(define (problem …) …)`` text. Raises :class:`PddlError` that says what is wrong."""
        text = _COMMENT.sub("", text).lower()
        position = _section(_HEAD, text, 0, "(define (problem NAME) (:domain NAME)").end()
        objects = _section(_OBJECTS, text, position, "(:objects NAME … - TYPE …)")
        init = _section(_INIT, text, objects.end(), "(:init (PREDICATE NAME …) …)")
        rest = parse_expression("(" + text[init.end() :])
        goals = [part for part in rest if isinstance(part, list) and part[:1] == [":goal"]]
        if len(goals) != 1 or len(goals[0]) != 2:
            raise PddlError(f"expected one (:goal CONDITION) after (:init …), found {len(goals)}")
        entities = sorted(typed_list(objects[1].split()))
        facts = frozenset(map(tuple, map(str.split, _FLAT.findall(_NUMERIC.sub("", init[1])))))
        return cls(task, tuple(entities), facts, to_formula(goals[0][1]))


def _section(pattern: re.Pattern[str], text: str, position: int, expected: str) -> re.Match[str]:
    match = pattern.match(text, position)
    if match is None:
        raise PddlError(f"expected {expected}, found {text[position : position + 60].strip()!r}")
    return match


def parse_expression(text: str) -> list[SExpr]:
    """Parse one parenthesised expression into nested lists of lower-case tokens. Raises :class:`PddlError`."""
    stack: list[list[SExpr]] = [[]]
    for token in _TOKEN.findall(text.lower().replace("?", " ?")):
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) == 1:
                raise PddlError("expected balanced parentheses, found a ')' too many")
            closed = stack.pop()
            stack[-1].append(closed)
        else:
            stack[-1].append(token)
    if len(stack) != 1:
        raise PddlError(f"expected balanced parentheses, found {len(stack) - 1} never closed (a truncated text?)")
    if len(stack[0]) != 1 or not isinstance(stack[0][0], list):
        raise PddlError(f"expected one expression in parentheses, found {text[:60].strip()!r}")
    return stack[0][0]


def typed_list(tokens: Iterable[SExpr], default: str = "object") -> list[tuple[str, str]]:
    """Read ``a b - type c - type``; names without a type are objects. Raises :class:`PddlError`."""
    result: list[tuple[str, str]] = []
    names: list[str] = []
    words = iter(tokens)
    for word in words:
        if not isinstance(word, str):
            raise PddlError(f"expected a name in a typed list, found {word!r}")
        if word == "-":
            kind = next(words, None)
            if not isinstance(kind, str):
                raise PddlError(f"expected a type after '{' '.join(names)} -', found {kind!r}")
            result += [(name, kind) for name in names]
            names = []
        else:
            names.append(word)
    return result + [(name, default) for name in names]


def to_formula(expression: SExpr) -> Formula:
    """Turn the nested list of a condition into a :data:`Formula`. Raises :class:`PddlError`."""
    if not isinstance(expression, list):
        raise PddlError(f"expected a condition in parentheses, found {expression!r}")
    if not expression:
        return ()
    head, *rest = expression
    if head in ("and", "or", "not", "imply"):
        if len(rest) != {"not": 1, "imply": 2}.get(str(head), len(rest)):
            expected = "one condition" if head == "not" else "two conditions"
            raise PddlError(f"expected {expected} after {head!r}, found {len(rest)}")
        return (head, *map(to_formula, rest))
    if head in ("exists", "forall"):
        if len(rest) != 2 or not isinstance(rest[0], list):
            raise PddlError(f"expected ({head} (VARIABLES) CONDITION), found {len(rest)} parts")
        return (head, tuple(typed_list(rest[0])), to_formula(rest[1]))
    if not all(isinstance(part, str) for part in expression):
        raise PddlError(f"expected an atom (PREDICATE NAME …), found {expression!r}")
    return tuple(expression)


def parse_formula(text: str) -> Formula:
    """Parse the PDDL text of one condition. Raises :class:`PddlError`."""
    return to_formula(parse_expression(_COMMENT.sub("", text)))


@lru_cache(maxsize=8)
def parse_domain(text: str) -> Domain:
    """Parse a ``(define (domain …) …)`` text. Raises :class:`PddlError` that says what is wrong."""
    types: frozenset[str] = frozenset(("object",))
    predicates: dict[str, tuple[str, ...]] = {}
    actions: dict[str, Action] = {}
    for section in parse_expression(_COMMENT.sub("", text)):
        if not isinstance(section, list) or not section:
            continue
        if section[0] == ":types":
            types |= {name for name, _ in typed_list(section[1:])}
        elif section[0] == ":predicates":
            for predicate in section[1:]:
                if not isinstance(predicate, list) or not predicate:
                    raise PddlError(f"expected (NAME ?ARGUMENT - TYPE …) in (:predicates …), found {predicate!r}")
                predicates[str(predicate[0])] = tuple(kind for _, kind in typed_list(predicate[1:]))
        elif section[0] == ":action":
            try:
                action = _action(section)
            except (IndexError, TypeError, ValueError) as cause:
                expected = "expected NAME, :parameters (…), :precondition (…), :effect (…)"
                detail = cause if isinstance(cause, PddlError) else f"{expected}, found {len(section)} parts"
                raise PddlError(f"(:action {' '.join(map(str, section[1:2]))} …): {detail}") from None
            actions[action.name] = action
    if not actions:
        raise PddlError("expected (:action …) sections, found none")
    return Domain(types, predicates, actions)


def _action(section: list[SExpr]) -> Action:
    name = section[1]
    parts = dict(zip(map(str, section[2::2]), section[3::2], strict=True))
    parameters, effect = parts.get(":parameters"), parts.get(":effect")
    if not isinstance(name, str) or not isinstance(parameters, list) or not isinstance(effect, list):
        raise PddlError(f"action {name}: expected :parameters and :effect, found {sorted(parts)}")
    precondition = to_formula(parts.get(":precondition", []))
    typed = typed_list(parameters)
    if len(dict(typed)) != len(typed):
        raise PddlError(f"action {name}: expected parameters of different names, found {[n for n, _ in typed]}")
    return Action(name, tuple(typed), precondition, tuple(_effects(name, effect, ())))


def _effects(name: str, expression: SExpr, condition: Formula) -> Iterable[tuple[Formula, bool, Fact]]:
    if not isinstance(expression, list) or not expression:
        raise PddlError(f"expected an effect in parentheses, found {expression!r}")
    head, *rest = expression
    if head == "and":
        for part in rest:
            yield from _effects(name, part, condition)
    elif head == "when":
        yield from _effects(name, rest[1], ("and", condition, to_formula(rest[0])))
    elif head == "not":
        yield condition, False, tuple(map(str, rest[0]))
    elif head == "forall":
        raise PddlError(f"action {name}: (forall …) effects are not supported")
    elif head != "increase":  # the cost of a plan; nothing in a game depends on it
        yield condition, True, tuple(map(str, expression))
