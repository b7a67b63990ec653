"""A drawn game as a PDDL problem, in memory and as text, in the form that alfworld's games have."""

from __future__ import annotations

from functools import cache, lru_cache

from empg.environments.alfworld.catalogue import CLEANABLE, COOLABLE, HEATABLE, LAMP, SLICEABLE, may_hold
from empg.environments.alfworld.engine.pddl import Fact, Formula, Problem, parse_formula
from empg.environments.alfworld.generated.generator import Scenario

# The goals are those of alfworld 0.4.2, alfworld/gen/goal_library.py.
_PLACE_GOAL = """(and (exists (?r - receptacle) (exists (?o - object) (and
(objectType ?o {obj}Type)
(receptacleType ?r {recep}Type)
{state}(inReceptacle ?o ?r)
))))"""
_LOOK_GOAL = """(and
(exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and
(objectType ?ot {recep}Type)
(toggleable ?ot)
(isToggled ?ot)
(receptacleAtLocation ?r ?l)
(atLocation ?a ?l)
(inReceptacle ?ot ?r)
))
(exists (?o - object ?a - agent) (and
(objectType ?o {obj}Type)
(holds ?a ?o)
))
)"""
_TWO_GOAL = """(and (exists (?r - receptacle) (exists (?o1 - object) (and
(objectType ?o1 {obj}Type)
(receptacleType ?r {recep}Type)
(inReceptacle ?o1 ?r)
(exists (?o2 - object) (and
(not (= ?o1 ?o2))
(objectType ?o2 {obj}Type)
(receptacleType ?r {recep}Type)
(inReceptacle ?o2 ?r)
))
))))"""
_STATES = {
    "pick_clean_then_place_in_recep": "(cleanable ?o)\n(isClean ?o)\n",
    "pick_heat_then_place_in_recep": "(heatable ?o)\n(isHot ?o)\n",
    "pick_cool_then_place_in_recep": "(coolable ?o)\n(isCool ?o)\n",
}
_GOALS = {"look_at_obj_in_light": _LOOK_GOAL, "pick_two_obj_and_place": _TWO_GOAL}

_PROPERTIES = (("cleanable", CLEANABLE), ("heatable", HEATABLE), ("coolable", COOLABLE), ("sliceable", SLICEABLE))
# The domain's own actions name these types, so every problem must declare them.
_DOMAIN_RECEPTACLE_TYPES = ("Fridge", "Microwave", "SinkBasin")
_DOMAIN_OBJECT_TYPES = ("ButterKnife", "Knife")


def to_problem(scenario: Scenario) -> Problem:
    """The game as the engine plays it; equal to what it parses from :func:`problem_text`."""
    goal = _goal_formula(scenario.task_type, scenario.object_type, scenario.target_type)
    return Problem.build(scenario.sentence, _entities(scenario), _facts(scenario), goal)


def problem_text(scenario: Scenario, name: str) -> str:
    """The game as the text of a PDDL problem."""
    entities = "\n".join(f"{entity} - {kind}" for entity, kind in _entities(scenario))
    facts = "\n".join(f"({' '.join(fact)})" for fact in _facts(scenario))
    goal = goal_text(scenario.task_type, scenario.object_type, scenario.target_type)
    return (
        f"(define (problem {name})\n(:domain alfred)\n(:objects\n{entities}\n)\n"
        f"(:init\n{facts}\n(= (total-cost) 0)\n)\n(:goal {goal})\n)"
    )


def goal_text(task_type: str, object_type: str, target_type: str) -> str:
    """The PDDL condition under which a task is done."""
    template = _GOALS.get(task_type, _PLACE_GOAL)
    return template.format(obj=object_type, recep=target_type, state=_STATES.get(task_type, ""))


@cache
def _goal_formula(task_type: str, object_type: str, target_type: str) -> Formula:
    return parse_formula(goal_text(task_type, object_type, target_type))


def _types(scenario: Scenario) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The declared receptacle types and object types, each in alphabetical order."""
    receptacle_types = {*_DOMAIN_RECEPTACLE_TYPES, *(r.type for r in scenario.room.receptacles)}
    object_types = {*_DOMAIN_OBJECT_TYPES, *(o.type for o in scenario.objects)}
    return tuple(sorted(receptacle_types)), tuple(sorted(object_types))


def _entities(scenario: Scenario) -> list[tuple[str, str]]:
    receptacle_types, object_types = _types(scenario)
    receptacles = scenario.room.receptacles
    return [
        ("agent1", "agent"),
        *((o.id, "object") for o in scenario.objects),
        *((f"{t}Type", "otype") for t in object_types),
        *((f"{t}Type", "rtype") for t in receptacle_types),
        *((r.id, "receptacle") for r in receptacles),
        *((r.location, "location") for r in receptacles),
        ("loc_start", "location"),
    ]


def _facts(scenario: Scenario) -> list[Fact]:
    receptacles = scenario.room.receptacles
    facts: list[Fact] = []
    for receptacle in receptacles:
        facts.append(("receptacleType", receptacle.id, f"{receptacle.type}Type"))
        facts.append(("receptacleAtLocation", receptacle.id, receptacle.location))
        if receptacle.openable:
            facts.append(("openable", receptacle.id))
    facts += _containment(*_types(scenario))
    for item in scenario.objects:
        place = receptacles[item.receptacle]
        facts.append(("objectType", item.id, f"{item.type}Type"))
        facts.append(("inReceptacle", item.id, place.id))
        facts.append(("objectAtLocation", item.id, place.location))
        facts.append(("toggleable" if item.type == LAMP else "pickupable", item.id))
        facts += ((predicate, item.id) for predicate, types in _PROPERTIES if item.type in types)
    facts.append(("atLocation", "agent1", "loc_start"))
    return facts


@lru_cache(maxsize=1024)
def _containment(receptacle_types: tuple[str, ...], object_types: tuple[str, ...]) -> list[Fact]:
    return [
        ("canContain", f"{receptacle_type}Type", f"{object_type}Type")
        for receptacle_type in receptacle_types
        for object_type in object_types
        if may_hold(receptacle_type, object_type)
    ]
