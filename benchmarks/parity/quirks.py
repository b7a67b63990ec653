"""Small games that reach what ordinary ones hardly reach, so that the comparison covers it.

Receptacles that share a place, an object in two receptacles, objects inside objects, slicing, properties true from the
start, objects of two types, names without a place, a start in front of a receptacle, a game won before it begins, task
sentences with signs that mean something to the grammar's parser, goals with every connective that PDDL has.
"""

import json
from pathlib import Path

from empg.environments.alfworld.engine.game import DOMAIN, GRAMMAR
from empg.environments.alfworld.engine.grammar import UNKNOWN_TASK, reword

HELP = "(:action help"
OBJECTS = """agent1 - agent
Mug_bar__plus_01_dot_00 Mug_bar__minus_01_dot_00 Mug_bar__plus_00_dot_50 - object
Bowl_bar__plus_01 Tray_bar_1 Tray_bar_2 - object
Apple_bar_1 Apple_bar__minus_1_comma_5 Knife_bar_1 ButterKnife_bar_1 - object
DeskLamp_bar_1 DeskLamp_bar_2 Basinball_bar_1 - object
pebble x_dot_y - object
MugType BowlType TrayType AppleType KnifeType ButterKnifeType DeskLampType BallType - otype
CounterTopType CabinetType FridgeType MicrowaveType SinkBasinType DeskType - rtype
CounterTop_bar_1 CounterTop_bar_2 Cabinet_bar_1 Cabinet_bar_2 Fridge_bar_1 Microwave_bar_1 - receptacle
Sink_bar_1_bar_SinkBasin Desk_bar_1 Sink_bar_2_bar_SinkBasin shelf - receptacle
loc_bar_1 loc_bar_2 loc_bar_3 loc_bar_4 loc_bar_5 loc_bar_6 loc_start loc_bar_unused - location"""
INIT = """(receptacleType CounterTop_bar_1 CounterTopType) (receptacleAtLocation CounterTop_bar_1 loc_bar_1)
(receptacleType CounterTop_bar_2 CounterTopType) (receptacleAtLocation CounterTop_bar_2 loc_bar_1)
(receptacleType Cabinet_bar_1 CabinetType) (receptacleAtLocation Cabinet_bar_1 loc_bar_1) (openable Cabinet_bar_1)
(receptacleType Cabinet_bar_2 CabinetType) (receptacleAtLocation Cabinet_bar_2 loc_bar_2) (openable Cabinet_bar_2)
(opened Cabinet_bar_2) (receptacleType Cabinet_bar_2 DeskType)
(receptacleType Fridge_bar_1 FridgeType) (receptacleAtLocation Fridge_bar_1 loc_bar_3) (openable Fridge_bar_1)
(receptacleType Microwave_bar_1 MicrowaveType) (receptacleAtLocation Microwave_bar_1 loc_bar_3)
(openable Microwave_bar_1)
(receptacleType Sink_bar_1_bar_SinkBasin SinkBasinType) (receptacleAtLocation Sink_bar_1_bar_SinkBasin loc_bar_4)
(receptacleType Sink_bar_2_bar_SinkBasin SinkBasinType) (receptacleAtLocation Sink_bar_2_bar_SinkBasin loc_bar_4)
(receptacleType Desk_bar_1 DeskType) (receptacleAtLocation Desk_bar_1 loc_bar_5)
(receptacleType shelf DeskType) (receptacleAtLocation shelf loc_bar_6)
(canContain CounterTopType MugType) (canContain CounterTopType BowlType) (canContain CounterTopType TrayType)
(canContain CounterTopType AppleType) (canContain CounterTopType KnifeType) (canContain CounterTopType ButterKnifeType)
(canContain CabinetType MugType) (canContain CabinetType AppleType) (canContain DeskType MugType)
(canContain DeskType BallType)
(canContain FridgeType AppleType) (canContain FridgeType MugType) (canContain MicrowaveType AppleType)
(canContain SinkBasinType MugType) (canContain SinkBasinType AppleType) (canContain DeskType DeskLampType)
(objectType Mug_bar__plus_01_dot_00 MugType) (inReceptacle Mug_bar__plus_01_dot_00 CounterTop_bar_1)
(inReceptacle Mug_bar__plus_01_dot_00 Cabinet_bar_1) (objectAtLocation Mug_bar__plus_01_dot_00 loc_bar_1)
(pickupable Mug_bar__plus_01_dot_00) (cleanable Mug_bar__plus_01_dot_00) (heatable Mug_bar__plus_01_dot_00)
(coolable Mug_bar__plus_01_dot_00) (objectType Mug_bar__plus_01_dot_00 BowlType)
(objectType Mug_bar__minus_01_dot_00 MugType) (inReceptacle Mug_bar__minus_01_dot_00 CounterTop_bar_2)
(objectAtLocation Mug_bar__minus_01_dot_00 loc_bar_1) (pickupable Mug_bar__minus_01_dot_00)
(cleanable Mug_bar__minus_01_dot_00) (isClean Mug_bar__minus_01_dot_00) (isCool Mug_bar__minus_01_dot_00)
(heatable Mug_bar__minus_01_dot_00) (coolable Mug_bar__minus_01_dot_00)
(objectType Mug_bar__plus_00_dot_50 MugType) (inReceptacle Mug_bar__plus_00_dot_50 Fridge_bar_1)
(objectAtLocation Mug_bar__plus_00_dot_50 loc_bar_3) (pickupable Mug_bar__plus_00_dot_50)
(objectType Bowl_bar__plus_01 BowlType) (inReceptacle Bowl_bar__plus_01 CounterTop_bar_1) (pickupable Bowl_bar__plus_01)
(objectAtLocation Bowl_bar__plus_01 loc_bar_1) (isReceptacleObject Bowl_bar__plus_01)
(inReceptacleObject Mug_bar__plus_01_dot_00 Bowl_bar__plus_01)
(inReceptacleObject Mug_bar__plus_00_dot_50 Bowl_bar__plus_01)
(objectType Tray_bar_1 TrayType) (inReceptacle Tray_bar_1 CounterTop_bar_1) (objectAtLocation Tray_bar_1 loc_bar_1)
(isReceptacleObject Tray_bar_1) (pickupable Tray_bar_1)
(objectType Tray_bar_2 TrayType) (inReceptacle Tray_bar_2 CounterTop_bar_1) (objectAtLocation Tray_bar_2 loc_bar_1)
(objectType Apple_bar_1 AppleType) (inReceptacle Apple_bar_1 Cabinet_bar_2) (objectAtLocation Apple_bar_1 loc_bar_2)
(pickupable Apple_bar_1) (cleanable Apple_bar_1) (heatable Apple_bar_1) (coolable Apple_bar_1) (sliceable Apple_bar_1)
(objectType Apple_bar__minus_1_comma_5 AppleType) (inReceptacle Apple_bar__minus_1_comma_5 CounterTop_bar_2)
(objectAtLocation Apple_bar__minus_1_comma_5 loc_bar_1) (pickupable Apple_bar__minus_1_comma_5)
(sliceable Apple_bar__minus_1_comma_5) (isSliced Apple_bar__minus_1_comma_5) (isHot Apple_bar__minus_1_comma_5)
(heatable Apple_bar__minus_1_comma_5) (coolable Apple_bar__minus_1_comma_5) (cleanable Apple_bar__minus_1_comma_5)
(objectType Knife_bar_1 KnifeType) (inReceptacle Knife_bar_1 CounterTop_bar_1) (objectAtLocation Knife_bar_1 loc_bar_1)
(pickupable Knife_bar_1) (cleanable Knife_bar_1)
(objectType ButterKnife_bar_1 ButterKnifeType) (inReceptacle ButterKnife_bar_1 CounterTop_bar_2)
(pickupable ButterKnife_bar_1)
(objectAtLocation ButterKnife_bar_1 loc_bar_1)
(objectType DeskLamp_bar_1 DeskLampType) (inReceptacle DeskLamp_bar_1 Desk_bar_1)
(objectAtLocation DeskLamp_bar_1 loc_bar_5)
(toggleable DeskLamp_bar_1)
(objectType DeskLamp_bar_2 DeskLampType) (inReceptacle DeskLamp_bar_2 Cabinet_bar_1)
(objectAtLocation DeskLamp_bar_2 loc_bar_1)
(toggleable DeskLamp_bar_2) (isOn DeskLamp_bar_2) (pickupable DeskLamp_bar_2)
(objectType Basinball_bar_1 BallType) (inReceptacle Basinball_bar_1 Desk_bar_1)
(objectAtLocation Basinball_bar_1 loc_bar_5)
(pickupable Basinball_bar_1)
(objectType pebble BallType) (inReceptacle pebble Desk_bar_1) (objectAtLocation pebble loc_bar_5) (pickupable pebble)
(objectType x_dot_y BallType) (inReceptacle x_dot_y shelf) (objectAtLocation x_dot_y loc_bar_6) (pickupable x_dot_y)
(= (distance loc_bar_1 loc_bar_2) 7) (= (total-cost) 0)"""

# The public engine plays no game whose goal its translator sees to be impossible or true for ever. This it misses.
UNREACHABLE = "(exists (?o - object) (and (objectType ?o AppleType) (isHot ?o) (isCool ?o)))"
EITHER = """(or (forall (?o - object) (or (not (objectType ?o AppleType)) (isSliced ?o)))
(exists (?o - object ?a - agent) (and (holds ?a ?o) (isHot ?o) (not (isSliced ?o)))))"""
NESTED = """(and (exists (?r - receptacle) (exists (?o - object) (and (objectType ?o MugType)
(receptacleType ?r CounterTopType) (isClean ?o) (inReceptacle ?o ?r) (exists (?o2 - object) (and
(not (= ?o ?o2)) (objectType ?o2 MugType)
(inReceptacle ?o2 ?r)))))))"""
TRUE_ALREADY = "(exists (?r - receptacle) (and (receptacleType ?r CabinetType) (opened ?r)))"
TASK = "put a mug in desk."
EVERY_DOOR = "(forall (?o - object) (or (not (openable ?o)) (opened ?o)))"  # receptacles are objects too
DOORS = ["go to cabinet 2", "open cabinet 2", "go to microwave 1", "open microwave 1", "open fridge 1"]
GAMES = {  # name: (goal, where the agent starts, the task's sentence)
    "unreachable": (UNREACHABLE, "loc_start", TASK),
    "either": (EITHER, "loc_start", "slice, or heat; whatever."),
    "every-door": (EVERY_DOOR, "loc_start", TASK),
    "nested": (NESTED, "loc_bar_1", 'put "two" mug in countertop.'),
    "won-already": (TRUE_ALREADY, "loc_start", "  look | here\\tand\\nthere."),
    "at-a-receptacle": (UNREACHABLE, "loc_bar_1", "Über alles: 'quoted', [listed]."),
    "at-two-sinks": (UNREACHABLE, "loc_bar_4", "a (task) of //signs + 50 % & more!?"),
}


def write_quirks(folder: Path) -> None:
    """Write every game, in both wordings, each to a folder of its own."""
    for name, (goal, start, task) in GAMES.items():
        problem = (
            f"(define (problem {name}) ; a comment (with parentheses\n(:domain alfred)\n(:objects\n{OBJECTS}\n)\n"
            f"(:init\n{INIT}\n(atLocation agent1 {start})\n)\n(:goal {goal})\n)"
        )
        write_game(folder / name, GRAMMAR, problem, task)
        write_game(folder / f"{name}-older", reword(GRAMMAR, "older"), problem, task)


def write_game(folder: Path, grammar: str, problem: str, task: str) -> None:
    """Write a game file and its traj_data.json. The domain lacks "help" where the grammar does, as in older data."""
    domain = DOMAIN if "action help" in grammar else DOMAIN[: DOMAIN.rindex(HELP)] + "\n)"
    grammar = grammar.replace(json.dumps(UNKNOWN_TASK)[1:-1], json.dumps(task)[1:-1])
    data = {
        "pddl_domain": domain,
        "grammar": grammar,
        "pddl_problem": problem,
        "solvable": True,
        "walkthrough": DOORS,
    }
    folder.mkdir(parents=True)
    (folder / "game.tw-pddl").write_text(json.dumps(data))
    (folder / "traj_data.json").write_text(json.dumps({"task_type": "pick_and_place_simple"}))
