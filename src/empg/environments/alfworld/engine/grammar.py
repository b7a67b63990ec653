"""Reading a game's grammar (``.twl2``): how actions are written and how the world answers.

A grammar maps a symbol to production rules, each with an optional condition and a text of segments: plain text,
``#symbol#``, ``{expression | query}`` and ``[{expression | query}]`` (a list). A query is a conjunction of facts such
as ``atlocation(a:agent, l:location) & …``; every way to satisfy it gives one element.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from empg.environments.alfworld.engine.pddl import Fact, PddlError

Wording: TypeAlias = Literal["0.4.2", "older"]

_BLOCK = re.compile(r'grammar\s*::\s*"""(.*?)"""\s*;', re.DOTALL)
_ACTION = re.compile(r'action\s+([\w/-]+)\s*\{((?:[^"}]|"""(?:.|\n)*?"""|"[^"]*")*)\}')
_FIELD = re.compile(r'(template|feedback)\s*::\s*"([^"]*)"\s*;')
_TASK = re.compile(r'("task"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*)("(?:[^"\\]|\\.)*")')
_TASK_PREFIX = "Your task is to: "
UNKNOWN_TASK = "UNKNOWN GOAL."  #: stands for the task sentence in a grammar that games share
_SEGMENT = re.compile(
    r"""\[\{(?P<list>\#[^\#]+\#|[^|\[\]{}\n<>]+?)(?:\s*\|\s*(?P<list_query>[^;|{}\n\[\]\#]+))?\}\]
      | \{(?P<eval>\#[^\#]+\#|[^|\[\]{}\n<>]+?)(?:\s*\|\s*(?P<query>[^;|{}\n\[\]\#]+))?\}
      | \#(?P<symbol>[\w()/!<>\-\s,.]+)\#
      | "(?P<quoted>[^;|"<>\[\]\#{}]*)"
      | (?P<text>[^;|"<>\[\]\#{}]+)""",
    re.VERBOSE,
)
# What is skipped before a segment: tabs, and at a line's start space or a comment.
_SKIPPED = re.compile(r"^(?://.*|\s*)\n?|\t+", re.MULTILINE)
_ATOM = re.compile(r"\s*(\w+)\(([^()]*)\)\s*")

#: What alfworld changed between the older wording (data 2.1.1) and the present one, apart from adding "help".
_REWORDED = (
    ("You arrive at {lend.name}.", "You arrive at {r.name}."),
    ("put {o} in/on {r}", "move {o} to {r}"),
    ("You put the {o.name} in/on the {r.name}.", "You move the {o.name} to the {r.name}."),
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a text: plain text, a symbol, a value or a list. Without a query there is one element."""

    kind: Literal["text", "symbol", "value", "list"]
    content: str
    query: tuple[Fact, ...] | None = None


@dataclass(frozen=True, slots=True)
class Production:
    """One rule of a symbol: the text that it gives where its condition holds."""

    condition: tuple[Fact, ...]
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Grammar:
    """Action name → (command template, feedback text), and symbol → productions, first applicable first."""

    actions: dict[str, tuple[tuple[Segment, ...], tuple[Segment, ...]]]
    rules: dict[str, tuple[Production, ...]]


def split_task(text: str) -> tuple[str, str]:
    """A game's grammar without its task sentence, which all games share, and the sentence.

    Raises :class:`PddlError` if there is no such sentence or it is not plain text.
    """
    match = _TASK.search(text)
    if match is None:
        raise PddlError('expected a rule "task": [{"rhs": "Your task is to: …"}], found none')
    try:
        sentence = json.loads(match[2], strict=False)
    except json.JSONDecodeError as cause:
        raise PddlError(f'the rule "task" is not valid JSON: {cause}') from None
    segments = parse_segments(sentence)
    read = "".join(segment.content for segment in segments)
    if not read.startswith(_TASK_PREFIX) or any(segment.kind != "text" for segment in segments):
        raise PddlError(f'expected the rule "task" to be plain text after {_TASK_PREFIX!r}, found {sentence!r}')
    shared = f'{text[: match.start(2)]}"{_TASK_PREFIX}{UNKNOWN_TASK}"{text[match.end(2) :]}'
    return shared, read.removeprefix(_TASK_PREFIX)


def wording_of(text: str) -> Wording:
    """Which of the two public wordings a grammar has."""
    return "older" if _REWORDED[1][0] in text else "0.4.2"


@lru_cache(maxsize=8)
def reword(text: str, wording: Wording) -> str:
    """Give a grammar the other wording, as alfworld's own migration of its data did; "older" also drops "help"."""
    for older, newer in _REWORDED:
        text = text.replace(older, newer) if wording == "0.4.2" else text.replace(newer, older)
    if wording == "older":
        text = _ACTION.sub(lambda match: "" if match[1] == "help" else match[0], text)
    return text


def parse_atoms(text: str) -> tuple[Fact, ...]:
    """Parse ``p(x:type, y:type) & q(x:type)``; variables are returned with a ``?`` before them, as in PDDL.

    Raises :class:`PddlError` for a part in another form.
    """
    atoms = []
    for part in text.split("&"):
        match = _ATOM.fullmatch(part)
        if match is None:
            raise PddlError(f"expected PREDICATE(NAME:TYPE, …) in a condition, found {part.strip()!r}")
        names = [name.partition(":")[0].strip() for name in match[2].split(",") if name.strip()]
        atoms.append((match[1], *("?" + name for name in names)))
    return tuple(atoms)


def parse_segments(text: str) -> tuple[Segment, ...]:
    """Split a text into segments. Like the public parser, stops without an error where it cannot go on."""
    segments: list[Segment] = []
    position = 0
    while True:
        while (skipped := _SKIPPED.match(text, position)) and skipped.end() > position:
            position = skipped.end()
        match = _SEGMENT.match(text, position)
        if match is None:
            return tuple(segments)
        position = match.end()
        part = match.groupdict()
        if part["text"] is not None or part["quoted"] is not None:
            segments.append(Segment("text", part["text"] or part["quoted"] or ""))
        elif part["symbol"] is not None:
            segments.append(Segment("symbol", part["symbol"]))
        else:
            kind: Literal["list", "value"] = "list" if part["list"] is not None else "value"
            query = part["list_query"] if kind == "list" else part["query"]
            content = part["list"] if kind == "list" else part["eval"]
            segments.append(Segment(kind, content.strip(), parse_atoms(query) if query else None))


@lru_cache(maxsize=8)
def parse_grammar(text: str) -> Grammar:
    """Parse a grammar. Raises :class:`PddlError` that says what is wrong."""
    rules: dict[str, tuple[Production, ...]] = {}
    for block in _BLOCK.findall(text):
        lines = "\n".join(line for line in block.split("\n") if not line.lstrip().startswith("#"))
        try:
            content = json.loads(lines)
            for symbol, productions in content.items():
                rules[symbol] = tuple(
                    Production(
                        parse_atoms(rule["condition"]) if rule.get("condition") else (), parse_segments(rule["rhs"])
                    )
                    for rule in productions
                )
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as cause:
            raise PddlError(f'expected a block of rules {{"symbol": [{{"rhs": …}}]}}, found {cause!r}') from None
    actions = {}
    for name, body in _ACTION.findall(text):
        fields = dict(_FIELD.findall(_BLOCK.sub("", body)))
        if set(fields) != {"template", "feedback"}:
            raise PddlError(f"action {name}: expected a template and a feedback, found {sorted(fields)}")
        actions[name.lower()] = (parse_segments(fields["template"]), parse_segments(fields["feedback"]))
    if not actions or "intro" not in rules:
        raise PddlError(f"expected actions and a rule 'intro', found {len(actions)} actions and {len(rules)} rules")
    return Grammar(actions, rules)
