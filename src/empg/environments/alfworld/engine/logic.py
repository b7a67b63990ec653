"""The rules that games share: a domain and a grammar, compiled once to a :class:`Logic`."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from empg.environments.alfworld.engine.compiler import Bound, Compiler
from empg.environments.alfworld.engine.grammar import Segment, parse_grammar
from empg.environments.alfworld.engine.pddl import Action, Domain, Formula, PddlError, parse_domain

_NAME = "([^ ]+ [^ ]*)"  # "mug 1"; the public engine gives an identifier without a place a trailing space


@dataclass(frozen=True, slots=True)
class Operator:
    """One action of the game. ``find`` completes the entities named in a command to all parameters, or gives None."""

    name: str
    command: re.Pattern[str]
    find: Callable[..., tuple[int, ...] | None]
    apply: Callable[..., None]
    answer: Callable[..., str]


@dataclass(frozen=True, slots=True, eq=False)
class Logic:
    """What games with the same domain and grammar share.

    Attributes:
        domain: the parsed domain.
        slots: predicate → place of its table, see :mod:`empg.environments.alfworld.engine.compiler`.
        arity: predicate → number of its arguments, 1 or 2.
        constants: identifiers that the domain and the grammar name.
        dynamic: the slots whose tables actions change.
        operators: first word of a command → the actions that begin with it.
        intro: writes the first observation.
        commands: lists the admissible commands.
        size: number of tables.
    """

    domain: Domain
    slots: dict[str, int]
    arity: dict[str, int]
    constants: tuple[str, ...]
    dynamic: tuple[int, ...]
    operators: dict[str, tuple[Operator, ...]]
    intro: Callable[..., str]
    commands: Callable[..., list[str]]
    size: int


def link(forward: dict[int, list[int]], backward: dict[int, list[int]], first: int, second: int) -> None:
    """Make a fact of two arguments true."""
    for table, key, value in ((forward, first, second), (backward, second, first)):
        row = table.setdefault(key, [])
        position = bisect_left(row, value)
        if position == len(row) or row[position] != value:
            row.insert(position, value)


def unlink(forward: dict[int, list[int]], backward: dict[int, list[int]], first: int, second: int) -> None:
    """Make a fact of two arguments false."""
    row = forward.get(first)
    if row and second in row:
        row.remove(second)
        backward[second].remove(first)


def enumerate_text(items: Sequence[str], separator: str, last: str, empty: str) -> str:
    """Join a list as the public engine does: ``a, b, and c``."""
    if len(items) < 2:
        return items[0] if items else empty
    return separator.join(items[:-1]) + last + items[-1]


def _template(segments: Sequence[Segment], action: Action) -> list[tuple[str, bool]]:
    """A command template as (text, False) and (parameter, True) pieces."""
    given = {atom for alternative in _alternatives(action.precondition) for atom in _conjuncts(alternative)}
    pieces = []
    for segment in segments:
        parameter = "?" + segment.content.removesuffix(".name")
        if segment.kind == "text":
            pieces.append((segment.content, False))
        elif parameter in dict(action.parameters) and given.issuperset(segment.query or ()):
            pieces.append((parameter, True))
        else:
            expected = f"expected a parameter of the action {action.name} in its template"
            raise PddlError(f"{expected}, found {{{segment.content}}}")
    return pieces


def _alternatives(formula: Formula) -> tuple[Formula, ...]:
    return formula[1:] if formula[:1] == ("or",) else (formula,)


def _conjuncts(formula: Formula) -> Iterator[Formula]:
    if formula[:1] == ("and",):
        for part in formula[1:]:
            yield from _conjuncts(part)
    elif formula:
        yield formula


def _changes_nothing(action: Action, conjuncts: list[Formula]) -> Formula | None:
    """The condition under which the action changes nothing (going to where one is). The public planner drops it."""
    added = [atom for _, adds, atom in action.effects if adds]
    tests: list[Formula] = []
    for condition, adds, atom in action.effects:
        known = conjuncts if adds else [f[1] for f in conjuncts if f[0] == "not"] + added
        alike = [other[1:] for other in known if other[0] == atom[0]]
        same = [("and", *(("=", x, y) for x, y in zip(atom[1:], other, strict=True))) for other in alike]
        if condition or not same:
            return None
        tests.append(("or", *same))
    return ("and", *tests)


def _source(
    compiler: Compiler, name: str, action: Action, template: list[tuple[str, bool]], feedback: Sequence[Segment]
) -> str:
    """Source of an action's find, apply and answer functions and of the list of its admissible commands.

    ``name`` begins theirs. It is not the action's: that comes from a file and need not be a name in Python.
    """
    parameters = [variable for variable, _ in action.parameters]
    python = {variable: (f"p{i}", kind) for i, (variable, kind) in enumerate(action.parameters)}
    arguments = ", ".join(["T, K", *(python[variable][0] for variable in parameters)])
    named = [piece for piece, is_parameter in template if is_parameter]
    finds, lists = [], []
    for alternative in _alternatives(action.precondition):
        nothing = _changes_nothing(action, list(_conjuncts(alternative)))
        formulas = [alternative] if nothing is None else [alternative, ("not", nothing)]
        bound = {variable: python[variable] for variable in named}
        clauses = compiler.clauses(formulas, bound, action.parameters)
        if clauses is None:
            continue
        found = ", ".join(bound[variable][0] for variable in parameters)
        finds.append(f"next((({found},) {clauses}), None)")
        bound = {}
        clauses = compiler.clauses(formulas, bound, action.parameters)
        words = (f"N[{bound[piece][0]}]" if is_parameter else repr(piece) for piece, is_parameter in template)
        lists.append(f"[{' + '.join(words)} {clauses}]")
    given = ", ".join(["T, K", *(python[variable][0] for variable in named)])
    return f"""def {name}_find({given}): return {" or ".join(finds) or None}
def {name}_commands(T, K, N): return {" + ".join(lists) or "[]"}
def {name}_answer(N, {arguments}): return {compiler.text(feedback, python)}
def {name}_apply({arguments}):
{_effects_source(compiler, action, python)}"""


def _effects_source(compiler: Compiler, action: Action, python: Bound) -> str:
    """The body of the function that applies an action's effects. A fact that it both deletes and adds is true then."""
    effects = sorted(action.effects, key=lambda effect: effect[1])
    tests = [(i, condition) for i, (condition, _, _) in enumerate(effects) if condition]
    lines = [f"    c{i} = {compiler.condition(condition, python)}" for i, condition in tests]
    for i, (condition, adds, atom) in enumerate(effects):
        changes = [(adds, atom[0])] + ([(not adds, "not_" + atom[0])] if "not_" + atom[0] in compiler.slots else [])
        terms = [compiler.term(term, python) for term in atom[1:]]
        for positive, predicate in changes:
            slot = compiler.slot(predicate)
            if len(terms) == 1:
                line = f"T[{slot}].{'add' if positive else 'discard'}({terms[0]})"
            else:
                line = f"{'link' if positive else 'unlink'}(T[{slot}], T[{slot + 1}], {', '.join(terms)})"
            lines.append(f"    if c{i}: {line}" if condition else f"    {line}")
    return "\n".join([*lines, "    return"])


def _check(domain: Domain, formula: Formula, variables: frozenset[str]) -> None:
    """Refuse a condition that names a predicate wrongly, a variable that nothing introduces or, in ``$``, ours."""
    head, *parts = formula or ("and",)
    if head in ("and", "or", "not", "imply"):
        for part in parts:
            _check(domain, part, variables)
    elif head in ("exists", "forall"):
        _check(domain, parts[1], variables | {name for name, _ in parts[0]})
    else:
        arity = 2 if head == "=" else len(domain.predicates.get(head, ()))
        unknown = [term for term in parts if term.startswith(("?", "$")) and term not in variables]
        if len(parts) != arity or not parts or unknown:
            found = f"({' '.join(formula)})"
            raise PddlError(f"expected a predicate of the domain, with its number of known arguments, found {found}")


@lru_cache(maxsize=8)
def compile_logic(domain_text: str, grammar_text: str) -> Logic:
    """Compile a domain and a grammar (without its task sentence). Raises :class:`PddlError` that says what is wrong."""
    domain, grammar = parse_domain(domain_text), parse_grammar(grammar_text)
    compiler = Compiler(domain, grammar, {})
    for name, kinds in domain.predicates.items():
        if len(kinds) not in (1, 2):
            raise PddlError(f"expected predicates of one or two arguments, found {name} of {len(kinds)}")
        compiler.slot(name)
    arity = {name: len(kinds) for name, kinds in domain.predicates.items()}
    for kind in domain.types:
        compiler.slot(f"type {kind}")
        arity[f"type {kind}"] = 1
    for productions in grammar.rules.values():
        for production in productions:
            for atom in (*production.condition, *(a for segment in production.segments for a in segment.query or ())):
                compiler.slot(atom[0])
                arity.setdefault(atom[0], len(atom) - 1)
    intro = compiler.symbol("intro", {})
    shared = [name for name in domain.actions if name in grammar.actions]
    templates = {}
    for name in shared:
        action = domain.actions[name]
        parameters = frozenset(variable for variable, _ in action.parameters)
        for condition in (action.precondition, *(part for effect in action.effects for part in (effect[0], effect[2]))):
            _check(domain, condition, parameters)
        templates[name] = _template(grammar.actions[name][0], action)
        compiler.source.append(
            _source(compiler, f"op{len(templates)}", action, templates[name], grammar.actions[name][1])
        )
    scope: dict[str, Any] = {"ONE": (0,), "E": (), "join": enumerate_text, "link": link, "unlink": unlink}
    lists = " + ".join(f"op{number}_commands(T, K, N)" for number in range(1, len(shared) + 1))
    compiler.source.append(f"def commands(T, K, N): return sorted(set({lists}))\ndef intro(T, K, N): return {intro}")
    exec("\n".join(compiler.source), scope)  # noqa: S102 - made of numbers, our own names and repr() of texts
    operators: dict[str, list[Operator]] = {}
    for number, name in enumerate(shared, 1):
        pattern = "".join(_NAME if is_parameter else re.escape(piece) for piece, is_parameter in templates[name])
        functions = (scope[f"op{number}_{part}"] for part in ("find", "apply", "answer"))
        verb = templates[name][0][0].partition(" ")[0]
        operators.setdefault(verb, []).append(Operator(name, re.compile(pattern), *functions))
    changed = {atom[0] for action in domain.actions.values() for _, _, atom in action.effects}
    dynamic = [slot for name, slot in compiler.slots.items() if name.removeprefix("not_") in changed]
    return Logic(
        domain,
        compiler.slots,
        arity,
        tuple(compiler.constants),
        tuple(dynamic),
        {verb: tuple(found) for verb, found in operators.items()},
        scope["intro"],
        scope["commands"],
        compiler.size,
    )


def goal_test(logic: Logic, goal: Formula) -> tuple[Callable[..., bool], tuple[str, ...]]:
    """A goal as a function of (tables, constants, entities), and the names of those entities in their order.

    Raises :class:`PddlError` for a goal that does not fit the domain or is nested too deep.
    """
    _check(logic.domain, goal, frozenset())
    names: dict[str, str] = {}

    def lift(formula: Any) -> Any:
        if formula[:1] in (("exists",), ("forall",)):
            return (*formula[:2], lift(formula[2]))
        head, *parts = formula or ("and",)
        if head in ("and", "or", "not", "imply"):
            return (head, *map(lift, parts))
        return (head, *(part if part.startswith("?") else names.setdefault(part, f"${len(names)}") for part in parts))

    return _compile_goal(logic, lift(goal)), tuple(names)


@lru_cache(maxsize=64)
def _compile_goal(logic: Logic, goal: Formula) -> Callable[..., bool]:
    compiler = Compiler(logic.domain, None, dict(logic.slots))
    scope: dict[str, Any] = {"ONE": (0,), "E": ()}
    try:
        exec(f"def goal(T, K, G): return {compiler.condition(goal, {})}", scope)  # noqa: S102 - as above
    except (SyntaxError, MemoryError):  # Python's own limit
        raise PddlError("expected a goal nested less than 100 deep, found a deeper one") from None
    test: Callable[..., bool] = scope["goal"]
    return test
