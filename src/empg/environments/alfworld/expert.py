"""An expert that plays from observations alone, with a short thought per step, for an agent to imitate.

It searches the receptacles that may hold what it needs in the order in which the room lists them, opens closed ones and
goes on with the task as soon as it has what it needs. A thought says what is needed and then what to do, so that the
need stands right before the decision that an imitator has to make. The expert knows the catalogue and remembers what it
has read. It knows nothing of the game's hidden state.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from empg.environments.alfworld.catalogue import CONTENTS, LAMP, TASK_SENTENCES, TOOLS, may_hold
from empg.errors import DataError

NOTHING_HAPPENS = "Nothing happens."

#: What the tool of a task type does, and how the object is called afterwards.
_CHANGES = {
    "pick_clean_then_place_in_recep": ("clean", "clean"),
    "pick_heat_then_place_in_recep": ("heat", "hot"),
    "pick_cool_then_place_in_recep": ("cool", "cool"),
}
_TASK_MARK = "Your task is to: "
_LISTED = re.compile(r"\ba ([a-z]+ \d+)")
_PATTERNS = [
    (task_type, re.compile(sentence.format(obj="(?P<obj>[a-z]+)", recep="(?P<recep>[a-z]+)")))
    for task_type, sentences in TASK_SENTENCES.items()
    for sentence in sentences
]
_CATALOGUE_NAME = {name.lower(): name for name in {LAMP, *CONTENTS, *frozenset().union(*CONTENTS.values())}}


class Goal(NamedTuple):
    """What a task asks: ``object``, ``target`` and ``tool`` are types as the game writes them, tool may be ``""``."""

    task_type: str
    object: str
    target: str
    tool: str


def parse_goal(observation: str) -> Goal:
    """The goal in a first observation. Raises :class:`~empg.errors.DataError` for a sentence of no known kind."""
    sentence = observation.rpartition(_TASK_MARK)[2].strip().removesuffix(".")
    for task_type, pattern in _PATTERNS:
        if match := pattern.fullmatch(sentence):
            found = match.groupdict()
            return Goal(task_type, found["obj"], found.get("recep", LAMP.lower()), TOOLS.get(task_type, "").lower())
    raise DataError(f"alfworld task: expected a sentence of one of the six task types, found {sentence!r}")


@dataclass(slots=True)
class _Memory:
    """What the expert has read so far. ``contents`` has an entry for each receptacle that it has seen inside of."""

    goal: Goal
    receptacles: list[str]
    here: str = ""
    held: str = ""
    closed: set[str] = field(default_factory=set)
    contents: dict[str, list[str]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)

    def observe(self, action: str, observation: str) -> None:
        """Take in the answer to an action, whoever chose it."""
        if observation == NOTHING_HAPPENS:
            return
        words = action.split()
        verb, first, last = words[0], " ".join(words[1:3]), " ".join(words[-2:])
        if verb == "go":
            self.here = last
        if verb in ("go", "open", "examine") and last in self.receptacles:
            if observation.endswith(f"The {last} is closed."):
                self.closed.add(last)
            else:
                self.closed.discard(last)
                self.contents[last] = _LISTED.findall(observation.rpartition("you see ")[2])
        elif verb == "close":
            self.closed.add(last)
        elif verb == "take":
            self.held = first
            self.contents[last].remove(first)
        elif verb == "move":
            self.held = ""
            self.contents[last].append(first)
        elif verb == _CHANGES.get(self.goal.task_type, ("", ""))[0]:
            self.changed.add(first)
        elif verb in ("heat", "cool"):  # the opposite of what was wanted undoes it
            self.changed.discard(first)

    def seen(self, name: str) -> list[tuple[str, str]]:
        """(object, receptacle) for each known object of a type, the receptacle before the agent first."""
        places = sorted(self.contents, key=lambda r: (r != self.here, self.receptacles.index(r)))
        return [(o, r) for r in places for o in self.contents[r] if _type(o) == name]

    def target(self) -> str:
        """The receptacle to fill: the one of the target type with the most wanted objects, the first of equal ones."""
        candidates = [r for r in self.receptacles if _type(r) == self.goal.target]
        return max(candidates, key=lambda r: sum(_type(o) == self.goal.object for o in self.contents.get(r, ())))

    def unsearched(self, name: str) -> str | None:
        """The next receptacle to look into: those that may hold the type, then the target's type, then the rest."""

        def rank(receptacle: str) -> int:
            return int(_type(receptacle) == self.goal.target) if _may_hold(receptacle, name) else 2

        return min((r for r in self.receptacles if r not in self.contents), key=rank, default=None)


def _start(observation: str) -> _Memory:
    memory = _Memory(parse_goal(observation), _LISTED.findall(observation.rpartition(_TASK_MARK)[0]))
    present = {_type(r) for r in memory.receptacles} | {"", LAMP.lower()}
    missing = {memory.goal.target, memory.goal.tool} - present
    if missing:
        raise DataError(f"alfworld room: expected a {' and a '.join(sorted(missing))}, found {memory.receptacles}")
    return memory


class Expert:
    """Solves a game by acting on what it reads; make one per episode. A hasty one leaves the tool out."""

    def __init__(self, *, hasty: bool = False) -> None:
        self._memory: _Memory | None = None
        self._last = ""
        self._hasty = hasty

    def act(self, observation: str) -> tuple[str, str]:
        """The next (thought, action), given the answer to the last action, or at first the room and the task.

        Raises :class:`~empg.errors.DataError` for a task of no known kind, or one that the room does not allow.
        """
        if self._memory is None:
            self._memory = _start(observation)
            if self._hasty:
                self._memory.goal = self._memory.goal._replace(tool="")
        else:
            self._memory.observe(self._last, observation)
        thought, self._last = _decide(self._memory)
        return thought, self._last

    def played(self, action: str) -> None:
        """Say that this action was played in place of the one that the expert chose."""
        self._last = action

    def believes_done(self, answer: str) -> bool:
        """Whether a hasty one takes the task for solved, given the answer to its last action."""
        goal = self._memory.goal if self._memory else None
        if not self._hasty or goal is None or goal.task_type not in TOOLS or answer == NOTHING_HAPPENS:
            return False
        words = self._last.split()
        return words[0] == "move" and (words[1], words[-2]) == (goal.object, goal.target)


def _type(name: str) -> str:
    return name.partition(" ")[0]


def _may_hold(receptacle: str, object_type: str) -> bool:
    """Whether the catalogue expects such an object there; of what it does not know it expects nothing."""
    names = _CATALOGUE_NAME.get(_type(receptacle)), _CATALOGUE_NAME.get(object_type)
    return names[0] in CONTENTS and names[1] is not None and may_hold(names[0], names[1])


def _decide(memory: _Memory) -> tuple[str, str]:
    if not memory.held:
        return _fetch(memory)
    if _type(memory.held) != memory.goal.object:
        return _put_back(memory)
    if memory.goal.task_type == "look_at_obj_in_light":
        return _look(memory)
    return _deliver(memory)


def _deliver(memory: _Memory) -> tuple[str, str]:
    """Change the object that is held, if the task asks for that, and put it into the target."""
    goal, held = memory.goal, memory.held
    if goal.tool and held not in memory.changed:
        verb = _CHANGES[goal.task_type][0]
        tool = next(r for r in memory.receptacles if _type(r) == goal.tool)
        if memory.here != tool:
            return f"I need a {goal.tool}. Go to {tool}.", f"go to {tool}"
        return f"{verb.capitalize()} {held}.", f"{verb} {held} with {tool}"
    target = memory.target()
    if memory.here != target:
        return f"I need a {goal.target}. Go to {target}.", f"go to {target}"
    if target in memory.closed:
        return "It is closed. Open it.", f"open {target}"
    return f"Put {held} in {target}.", f"move {held} to {target}"


def _fetch(memory: _Memory) -> tuple[str, str]:
    goal = memory.goal
    two = goal.task_type == "pick_two_obj_and_place"
    target = memory.target() if two else ""
    placed = two and any(_type(o) == goal.object for o in memory.contents.get(target, ()))
    need = f"I need one more {goal.object}." if placed else f"I need {'two' if two else 'a'} {goal.object}."
    known = [(o, r) for o, r in memory.seen(goal.object) if r != target]
    if not known:
        return _search(memory, goal.object, need)
    found, place = min(known, key=lambda entry: entry[0] not in memory.changed)
    if memory.here != place:
        return f"{need} {found} is at {place}.", f"go to {place}"
    if place in memory.closed:
        return "It is closed. Open it.", f"open {place}"
    return f"{need} Take {found}.", f"take {found} from {place}"


def _look(memory: _Memory) -> tuple[str, str]:
    lamp = memory.goal.target
    need = f"I need a {lamp}."
    for found, place in memory.seen(lamp):
        if memory.here == place:
            return f"{need} Use {found}.", f"use {found}"
        return f"{need} {found} is at {place}.", f"go to {place}"
    return _search(memory, lamp, need)


def _search(memory: _Memory, name: str, need: str) -> tuple[str, str]:
    if memory.here in memory.closed and memory.here not in memory.contents:
        return "It is closed. Open it.", f"open {memory.here}"
    place = memory.unsearched(name)
    if place is None:
        return f"{need} I have looked everywhere.", "look"
    return f"{need} Check {place}.", f"go to {place}"


def _put_back(memory: _Memory) -> tuple[str, str]:
    """Get rid of a wrong object: here if possible, else in the first receptacle that may hold it."""
    held = memory.held
    places = [memory.here, *memory.receptacles]
    place = next(r for r in places if _may_hold(r, _type(held)))
    if place != memory.here:
        return f"I do not need {held}. Put it in {place}.", f"go to {place}"
    if place in memory.closed:
        return "It is closed. Open it.", f"open {place}"
    return f"I do not need {held}. Put it back.", f"move {held} to {place}"
