"""Compiles a domain and a grammar into Python functions, once for all the games that share them.

A world is a list of tables ``T`` over entities numbered in order of identifier. A predicate of one argument is a set.
One of two arguments is a pair of dicts of ascending lists, first → seconds and second → firsts, so that facts come out
in the order in which the public engine sorts them. A condition becomes one expression, and a query one chain of ``for …
if …`` clauses. Text from a file enters the source only as a quoted string: variables are renamed and identifiers are
numbered (``K`` holds the domain's constants, ``G`` the goal's).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from empg.environments.alfworld.engine.grammar import Grammar, Segment
from empg.environments.alfworld.engine.pddl import Domain, Fact, Formula, PddlError

Bound: TypeAlias = dict[str, tuple[str, str]]
_VALUE = re.compile(r"\s*(?:(\w+)\.(name|indefinite|definite)(?:\s+or\s+\w+\.\w+)?|'([^']*)')\s*")


class Compiler:
    """Turns formulas and grammar symbols into source text; ``bound`` maps a variable to (its Python name, its type)."""

    def __init__(self, domain: Domain, grammar: Grammar | None, slots: dict[str, int]) -> None:
        self.domain, self.grammar = domain, grammar
        self.slots = slots
        self.constants: dict[str, int] = {}
        self.size = max(slots.values(), default=-2) + 2
        self.fresh = 0
        self.functions: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}
        self.source: list[str] = []

    def slot(self, predicate: str) -> int:
        """The place of a predicate's table in ``T``. A pair of places is reserved when it is first asked for."""
        if predicate not in self.slots:
            self.slots[predicate] = self.size
            self.size += 2
        return self.slots[predicate]

    def new(self) -> str:
        """A Python name that is not in use."""
        self.fresh += 1
        return f"v{self.fresh}"

    def term(self, term: str, bound: Bound) -> str:
        """The Python expression of a bound variable, a name of the goal (``$0``) or a constant."""
        if term.startswith("?"):
            return bound[term][0]
        if term.startswith("$"):
            return f"G[{term[1:]}]"
        return f"K[{self.constants.setdefault(term, len(self.constants))}]"

    def atom(self, atom: Fact, bound: Bound) -> str:
        """One Python expression that is true where the atom, all of whose variables are bound, holds."""
        terms = [self.term(term, bound) for term in atom[1:]]
        if atom[0] == "=":
            return f"{terms[0]} == {terms[1]}"
        slot = self.slot(atom[0])
        return f"{terms[0]} in T[{slot}]" if len(terms) == 1 else f"{terms[1]} in T[{slot}].get({terms[0]}, E)"

    def condition(self, formula: Formula, bound: Bound) -> str:
        """One Python expression that is true where the formula, all of whose free variables are bound, holds."""
        head, *parts = formula or ("and",)
        match head:
            case "and" | "or":
                joined = f" {head} ".join(f"({self.condition(part, bound)})" for part in parts)
                return joined or str(head == "and")
            case "not":
                return f"not ({self.condition(parts[0], bound)})"
            case "imply":
                return self.condition(("or", ("not", parts[0]), parts[1]), bound)
            case "forall":
                return f"not ({self.condition(('exists', parts[0], ('not', parts[1])), bound)})"
            case "exists":
                clauses = self.clauses([formula], dict(bound))
                return "False" if clauses is None else f"any(1 {clauses})"
            case _:
                return self.atom(formula, bound)

    def clauses(
        self, formulas: Iterable[Formula], bound: Bound, kinds: Iterable[tuple[str, str]] = (), text: bool = False
    ) -> str | None:
        """``for … if …`` clauses that run through every way to satisfy the formulas; binds their variables in
        ``bound``.

        ``text``: a query of the grammar, which keeps the order of its atoms and gives different variables different
        entities. None means that a variable has a type that the domain does not declare, so that nothing can satisfy
        the formulas. (The domain writes "?l - location, ?r - receptacle", and its type "location," is why only the
        held object can be examined.)
        """
        wanted = dict(kinds)
        pending = list(self.flatten(formulas, {}, wanted))
        if not self.domain.types.issuperset(wanted.values()):
            return None
        out = ["for _ in ONE"]
        while True:
            for formula in [f for f in pending if _free(f) <= bound.keys()]:
                pending.remove(formula)
                out.append(f"if {self.condition(formula, bound)}")
            atoms = [f for f in pending if f[0] in self.domain.predicates or f[0] in self.slots or text]
            unbound = [name for name in wanted if name not in bound]
            if atoms:
                atom = atoms[0] if text else min(atoms, key=lambda a: self.rank(a, bound, wanted))
                out += self.loop(atom, bound, wanted, text)
            elif unbound:
                bound[unbound[0]] = (self.new(), wanted[unbound[0]])
                out.append(f"for {bound[unbound[0]][0]} in sorted(T[{self.slot('type ' + wanted[unbound[0]])}])")
            else:
                return " ".join(out)

    def flatten(self, formulas: Iterable[Formula], names: dict[str, str], wanted: dict[str, str]) -> Iterator[Formula]:
        """The conjuncts, with existential variables renamed apart and added to ``wanted``."""
        for formula in formulas:
            if formula[:1] == ("and",):
                yield from self.flatten(formula[1:], names, wanted)
            elif formula[:1] == ("exists",):
                inner = dict(names)
                for name, kind in formula[1]:
                    inner[name] = f"?{self.new()}"
                    wanted[inner[name]] = kind
                yield from self.flatten([formula[2]], inner, wanted)
            elif formula:
                yield _rename(formula, names)

    def rank(self, atom: Fact, bound: Bound, wanted: dict[str, str]) -> int:
        """Roughly how many entities a loop over this atom tries; the atom with the lowest rank goes first."""
        free = [term for term in atom[1:] if term.startswith("?") and term not in bound]
        if len(free) < len(atom) - 1:
            return 0
        if any(wanted.get(term) == "agent" for term in free):
            return 1
        return 1 + len(free)

    def loop(self, atom: Fact, bound: Bound, wanted: dict[str, str], text: bool) -> list[str]:
        """Bind one variable of an atom; a variable left unbound is bound by the next round."""
        slot, terms = self.slot(atom[0]), atom[1:]
        position = next(i for i, term in enumerate(terms) if term.startswith("?") and term not in bound)
        name = self.new()
        if len(terms) == 1:
            out = [f"for {name} in sorted(T[{slot}])"]
        else:
            other = terms[1 - position]
            if other.startswith("?") and other not in bound:
                out = [f"for {name} in sorted(T[{slot + position}])"]
            else:
                out = [f"for {name} in T[{slot + 1 - position}].get({self.term(other, bound)}, E)"]
        kind = self.domain.predicates.get(atom[0].removeprefix("not_"), ("object",) * len(terms))[position]
        if text:
            out += [f"if {name} != {other_name}" for other_name, other_kind in bound.values() if other_kind == kind]
        bound[terms[position]] = (name, wanted.get(terms[position], kind))
        return out

    def symbol(self, name: str, bound: Bound) -> str:
        """A call of the function that writes a grammar symbol, compiled on first use for the variables bound here."""
        assert self.grammar is not None
        if name not in self.grammar.rules:
            raise PddlError(f"expected a rule for the symbol #{name}#, found none")
        key = (name, tuple((variable, kind) for variable, (_, kind) in bound.items()))
        if key not in self.functions:
            self.functions[key] = f"g{len(self.functions)}"
            inner = {variable: (f"p{i}", kind) for i, (variable, kind) in enumerate(key[1])}
            lines = [f"def {self.functions[key]}({', '.join(['T, K, N', *(python for python, _ in inner.values())])}):"]
            for production in self.grammar.rules[name]:
                test = self.clauses(production.condition, dict(inner), text=True)
                lines.append(f"    if any(1 {test}): return {self.text(production.segments, inner)}")
            self.source.append("\n".join([*lines, "    return ''"]))
        return f"{self.functions[key]}({', '.join(['T, K, N', *(python for python, _ in bound.values())])})"

    def text(self, segments: Iterable[Segment], bound: Bound) -> str:
        """One Python expression for a production's text."""
        parts = []
        for segment in segments:
            if segment.kind == "text":
                parts.append(repr(segment.content))
            elif segment.kind == "symbol":
                parts.append(self.symbol(segment.content, bound))
            else:
                inner = dict(bound)
                clauses = "for _ in ONE" if segment.query is None else self.clauses(segment.query, inner, text=True)
                elements = f"[{self.value(segment.content, inner)} {clauses}]"
                parts.append(
                    f"''.join({elements})" if segment.kind == "value" else f"join({elements}, {self.separators()})"
                )
        return " + ".join(parts) or "''"

    def separators(self) -> str:
        """What a list has between its elements, what before its last one, and what stands for an empty list."""
        assert self.grammar is not None
        texts = []
        for name in ("list_separator", "list_last_separator", "list_empty"):
            productions = self.grammar.rules.get(name)
            if not productions or any(segment.kind != "text" for segment in productions[0].segments):
                raise PddlError(f"expected a rule of plain text for the symbol #{name}#, found {productions}")
            texts.append("".join(segment.content for segment in productions[0].segments))
        return ", ".join(map(repr, texts))

    def value(self, expression: str, bound: Bound) -> str:
        """One Python expression for ``x.name + 'text'`` or ``#symbol#``. Raises :class:`PddlError` for other forms."""
        if expression.startswith("#"):
            return self.symbol(expression.strip("#"), bound)
        parts = []
        for part in expression.split("+"):
            match = _VALUE.fullmatch(part)
            if match is None or (match[1] and "?" + match[1] not in bound):
                expected = "expected a known NAME.name, NAME.indefinite or a quoted text"
                raise PddlError(f"{expected} in {{{expression}}}, found {part.strip()!r}")
            fixed = {"indefinite": "a", "definite": "the"}.get(match[2], match[3])
            parts.append(f"N[{bound['?' + match[1]][0]}]" if fixed is None else repr(fixed))
        return " + ".join(parts)


def _rename(formula: Any, names: dict[str, str]) -> Any:
    if isinstance(formula, str):
        return names.get(formula, formula)
    if formula[:1] in (("exists",), ("forall",)):
        hidden = {name for name, _ in formula[1]}
        return (*formula[:2], _rename(formula[2], {old: new for old, new in names.items() if old not in hidden}))
    return tuple(_rename(part, names) for part in formula)


def _free(formula: Any) -> set[str]:
    if isinstance(formula, str):
        return {formula} if formula.startswith("?") else set()
    if formula[:1] in (("exists",), ("forall",)):
        return _free(formula[2]) - {name for name, _ in formula[1]}
    return set().union(*map(_free, formula))
