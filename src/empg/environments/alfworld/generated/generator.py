"""Drawing games: a pure function of (profile, split, task id, seed).

A game's split depends on its content: a digest of what lies where and what is asked decides whether a game of the
training rooms belongs to ``train``, ``valid_seen`` or ``tune``. A draw is repeated until its split is the wanted one.
So no game is in two splits, however many ids are drawn. ``valid_unseen`` has rooms of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random

from empg.environments.alfworld.catalogue import (
    CHANGEABLE,
    LAMP,
    TASK_KINDS,
    TASK_SENTENCES,
    TASK_TYPES,
    TOOLS,
    may_hold,
)
from empg.environments.alfworld.generated.rooms import PROFILES, Profile, Room, coordinates, rooms, scenes
from empg.environments.draws import between, pick
from empg.errors import ConfigError
from empg.seeding import derive_seed

SPLITS = ("train", "valid_seen", "valid_unseen", "tune")


@dataclass(frozen=True, slots=True)
class PlacedObject:
    """An object: its PDDL name, its type and the index of its receptacle in the room."""

    id: str
    type: str
    receptacle: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """A game before it is written as PDDL: a room, the objects in it, ordered by PDDL name, and the task.

    ``target_type`` is the receptacle type that the task names, or "DeskLamp" when it is to look at the object in light;
    ``sentence`` is the task in words.
    """

    room: Room
    objects: tuple[PlacedObject, ...]
    task_type: str
    object_type: str
    target_type: str
    sentence: str


def draw_scenario(profile: str, split: str, task_id: int, seed: int) -> Scenario:
    """The game that (profile, split, task id, seed) names, the same on every machine, in every process, in any order.

    Task types take turns by task id, and so do the possible kinds of room within a type, so any range of ids is
    balanced. Raises :class:`~empg.errors.ConfigError` for an unknown profile or split or a negative id.
    """
    if profile not in PROFILES:
        raise ConfigError(f"alfworld profile: expected one of {sorted(PROFILES)}, found {profile!r}")
    if split not in SPLITS:
        raise ConfigError(f"alfworld split: expected one of {sorted(SPLITS)}, found {split!r}")
    if task_id < 0:
        raise ConfigError(f"alfworld task id: expected a number >= 0, found {task_id}")
    rng = Random(derive_seed(seed, "alfworld", "game", profile, split, task_id))
    task_type = TASK_TYPES[task_id % len(TASK_TYPES)]
    kinds = TASK_KINDS[task_type]
    kind = kinds[task_id // len(TASK_TYPES) % len(kinds)]
    numbers = scenes(kind, held_out=split == "valid_unseen")
    while True:
        site = _site(profile, kind, pick(rng, numbers), seed)
        scenario = _draw(rng, site, task_type)
        if scenario is not None and split in ("valid_unseen", split_of(scenario)):
            return scenario


def split_of(scenario: Scenario) -> str:
    """The split that owns a game of the training rooms: 3/4 are ``train``, 1/8 ``valid_seen`` and 1/8 ``tune``."""
    placement = sorted(f"{o.type}@{o.receptacle}" for o in scenario.objects)
    text = " ".join(
        (str(scenario.room.scene), scenario.task_type, scenario.object_type, scenario.target_type, *placement)
    )
    share = hashlib.sha256(text.encode()).digest()[0] >> 5
    return "train" if share < 6 else "valid_seen" if share == 6 else "tune"


@dataclass(frozen=True, slots=True)
class _Site:
    """A room with what is looked up again for every game drawn in it."""

    profile: Profile
    room: Room
    holders: dict[str, tuple[int, ...]]  # object type -> indices of the receptacles that may hold it
    goals: dict[str, tuple[tuple[str, tuple[str, ...]], ...]]  # task type -> (object type, possible target types)


@cache
def _site(profile_name: str, kind: str, scene: int, seed: int) -> _Site:
    profile = PROFILES[profile_name]
    room = rooms(profile_name, kind, seed)[scene]
    types = profile.types[kind]
    lamps = (LAMP,) if kind in TASK_KINDS["look_at_obj_in_light"] else ()
    holders = {
        name: tuple(i for i, r in enumerate(room.receptacles) if may_hold(r.type, name)) for name in (*types, *lamps)
    }
    goals = {task_type: tuple(_goals(task_type, types, room, holders)) for task_type in TASK_TYPES}
    return _Site(profile, room, holders, goals)


def _goals(
    task_type: str, types: tuple[str, ...], room: Room, holders: dict[str, tuple[int, ...]]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each object type that a task may ask for in a room, with the targets that it may name.

    A target is never the tool itself, and the object can lie somewhere else at the start.
    """
    present = sorted({receptacle.type for receptacle in room.receptacles})
    for name in types:
        if task_type == "look_at_obj_in_light":
            targets: tuple[str, ...] = (LAMP,) if LAMP in holders else ()
        elif name in CHANGEABLE.get(task_type, types):
            elsewhere = {room.receptacles[i].type for i in holders[name]}
            targets = tuple(t for t in present if may_hold(t, name) and t != TOOLS.get(task_type) and elsewhere - {t})
        else:
            targets = ()
        if targets:
            yield name, targets


def _draw(rng: Random, site: _Site, task_type: str) -> Scenario | None:
    """One try: choose the goal, lay out its objects away from the target, fill the room. None if it gets too full."""
    profile, room = site.profile, site.room
    object_type, targets = pick(rng, site.goals[task_type])
    target_type = pick(rng, targets)
    wanted = between(rng, 2, 3) if task_type == "pick_two_obj_and_place" else between(rng, 1, 2)
    total = between(rng, *profile.objects[room.kind])
    queue = [object_type] * wanted + [LAMP] * (LAMP in site.holders)
    others = [name for name in profile.types[room.kind] if name != object_type for _ in range(profile.copies)]
    keys = [rng.random() for _ in others]
    queue += [others[i] for i in sorted(range(len(others)), key=keys.__getitem__)]
    load = [0] * len(room.receptacles)
    objects: dict[str, PlacedObject] = {}
    for name in queue:
        free = [
            i
            for i in site.holders[name]
            if load[i] < profile.capacity and not (name == object_type and room.receptacles[i].type == target_type)
        ]
        if free:
            place = pick(rng, free)
            load[place] += 1
            identifier = name + coordinates(rng)
            while identifier in objects:
                identifier = name + coordinates(rng)
            objects[identifier] = PlacedObject(identifier, name, place)
        elif name in (object_type, LAMP):
            return None
        if len(objects) == total:
            break
    else:
        return None
    template = pick(rng, TASK_SENTENCES[task_type])
    sentence = f"{template.format(obj=object_type.lower(), recep=target_type.lower())}."
    placed = tuple(objects[identifier] for identifier in sorted(objects))
    return Scenario(room, placed, task_type, object_type, target_type, sentence)
