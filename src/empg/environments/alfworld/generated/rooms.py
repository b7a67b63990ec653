"""Profiles and rooms: which receptacles a scene has, fixed per (profile, kind, scene number, seed)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

from empg.environments.alfworld.catalogue import FIRST_SCENE, OPENABLE, SCENES_PER_KIND, TEST_SCENES_PER_KIND
from empg.environments.draws import between, pick
from empg.seeding import derive_seed


@dataclass(frozen=True, slots=True)
class Profile:
    """How large rooms and episodes are.

    ``receptacles`` and ``objects`` give, per kind of room, the least and the greatest number in one game; ``furniture``
    the least and the greatest count of each receptacle type; ``types`` the object types that may lie there. ``copies``
    is the greatest number of objects of one type other than the task's, ``capacity`` that of objects on one receptacle.
    """

    name: str
    max_steps: int
    receptacles: dict[str, tuple[int, int]]
    objects: dict[str, tuple[int, int]]
    furniture: dict[str, dict[str, tuple[int, int]]]
    types: dict[str, tuple[str, ...]]
    copies: int
    capacity: int


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SMALL = Profile(
    name="small",
    max_steps=20,
    receptacles={"kitchen": (7, 9), "living room": (6, 9), "bedroom": (6, 9), "bathroom": (6, 9)},
    objects=dict.fromkeys(FIRST_SCENE, (8, 14)),
    furniture={
        "kitchen": {
            "Cabinet": (0, 1),
            "CounterTop": (1, 2),
            "DiningTable": (0, 1),
            "Fridge": (1, 1),
            "GarbageCan": (0, 1),
            "Microwave": (1, 1),
            "Shelf": (0, 2),
            "SideTable": (0, 1),
            "SinkBasin": (1, 1),
        },
        "living room": {
            "ArmChair": (0, 2),
            "CoffeeTable": (1, 1),
            "Drawer": (0, 1),
            "Dresser": (0, 1),
            "Shelf": (0, 2),
            "SideTable": (1, 2),
            "Sofa": (1, 1),
        },
        "bedroom": {
            "Bed": (1, 1),
            "Desk": (1, 1),
            "Drawer": (0, 2),
            "Dresser": (0, 1),
            "GarbageCan": (0, 1),
            "Shelf": (0, 2),
            "SideTable": (0, 2),
        },
        "bathroom": {
            "BathtubBasin": (0, 1),
            "Cabinet": (0, 2),
            "CounterTop": (1, 1),
            "GarbageCan": (0, 1),
            "Shelf": (0, 2),
            "SideTable": (0, 1),
            "SinkBasin": (1, 2),
            "Toilet": (1, 1),
        },
    },
    types={
        "kitchen": _names("Apple Egg Fork Lettuce Mug Pan Plate Potato Tomato"),
        "living room": _names("Book CreditCard KeyChain Newspaper Pillow RemoteControl Vase"),
        "bedroom": _names("AlarmClock Book CD CellPhone KeyChain Pen Pillow"),
        "bathroom": _names("Candle Cloth SoapBar SoapBottle SprayBottle ToiletPaper"),
    },
    copies=3,
    capacity=3,
)

OFFICIAL = Profile(
    name="official",
    max_steps=50,
    receptacles={"kitchen": (17, 26), "living room": (10, 18), "bedroom": (12, 20), "bathroom": (11, 18)},
    objects={"kitchen": (40, 56), "living room": (30, 38), "bedroom": (30, 38), "bathroom": (18, 26)},
    furniture={
        "kitchen": {
            "Cabinet": (3, 9),
            "CoffeeMachine": (1, 1),
            "CounterTop": (1, 3),
            "DiningTable": (0, 1),
            "Drawer": (1, 5),
            "Fridge": (1, 1),
            "GarbageCan": (1, 1),
            "Microwave": (1, 1),
            "Shelf": (0, 3),
            "SideTable": (0, 1),
            "SinkBasin": (1, 1),
            "StoveBurner": (2, 4),
            "Toaster": (1, 1),
        },
        "living room": {
            "ArmChair": (0, 2),
            "Cabinet": (0, 2),
            "CoffeeTable": (1, 2),
            "DiningTable": (0, 1),
            "Drawer": (1, 5),
            "Dresser": (0, 1),
            "GarbageCan": (1, 1),
            "Ottoman": (0, 1),
            "Safe": (0, 1),
            "Shelf": (0, 5),
            "SideTable": (1, 2),
            "Sofa": (1, 1),
            "TVStand": (0, 1),
        },
        "bedroom": {
            "ArmChair": (0, 1),
            "Bed": (1, 1),
            "Desk": (1, 2),
            "Drawer": (2, 8),
            "Dresser": (0, 1),
            "GarbageCan": (1, 1),
            "LaundryHamper": (0, 1),
            "Safe": (0, 1),
            "Shelf": (0, 7),
            "SideTable": (0, 2),
        },
        "bathroom": {
            "BathtubBasin": (0, 1),
            "Cabinet": (0, 4),
            "Cart": (0, 1),
            "CounterTop": (1, 1),
            "Drawer": (0, 5),
            "Dresser": (0, 1),
            "GarbageCan": (1, 1),
            "HandTowelHolder": (1, 2),
            "Shelf": (0, 3),
            "SideTable": (0, 1),
            "SinkBasin": (1, 2),
            "Toilet": (1, 1),
            "ToiletPaperHanger": (1, 1),
            "TowelHolder": (1, 1),
        },
    },
    types={
        "kitchen": _names(
            "Apple Bowl Bread ButterKnife CellPhone CreditCard Cup DishSponge Egg Fork Glassbottle Kettle Knife Ladle "
            "Lettuce Mug Pan PepperShaker Plate Pot Potato SaltShaker SoapBottle Spatula Spoon Statue Tomato Vase "
            "WineBottle"
        ),
        "living room": _names(
            "Book Bowl Box CellPhone CreditCard KeyChain Laptop Newspaper Pen Pencil Pillow Plate RemoteControl Statue "
            "TissueBox Vase Watch WateringCan"
        ),
        "bedroom": _names(
            "AlarmClock BaseballBat BasketBall Book Bowl Box CD CellPhone CreditCard KeyChain Laptop Mug Pen Pencil "
            "Pillow Statue TennisRacket TissueBox Watch"
        ),
        "bathroom": _names("Candle Cloth DishSponge HandTowel SoapBar SoapBottle SprayBottle TissueBox ToiletPaper"),
    },
    copies=3,
    capacity=8,
)

PROFILES = {profile.name: profile for profile in (SMALL, OFFICIAL)}


@dataclass(frozen=True, slots=True)
class Receptacle:
    """One piece of furniture: its PDDL name, its type and the PDDL name of the place before it."""

    id: str
    type: str
    location: str
    openable: bool


@dataclass(frozen=True, slots=True)
class Room:
    """A scene: its kind, its scene number and its receptacles, ordered by PDDL name."""

    kind: str
    scene: int
    receptacles: tuple[Receptacle, ...]


def scenes(kind: str, *, held_out: bool) -> range:
    """The scene numbers of a kind of room: those kept for ``valid_unseen``, or all the others."""
    first = FIRST_SCENE[kind]
    test_end = first + TEST_SCENES_PER_KIND
    return range(first, test_end) if held_out else range(test_end, first + SCENES_PER_KIND)


@cache
def rooms(profile_name: str, kind: str, seed: int) -> dict[int, Room]:
    """The thirty rooms of a kind by scene number. No two have the same furniture: a held-out room is new."""
    profile = PROFILES[profile_name]
    furniture = profile.furniture[kind]
    least, greatest = profile.receptacles[kind]
    rng = Random(derive_seed(seed, "alfworld", "rooms", profile_name, kind))
    seen: set[tuple[int, ...]] = set()
    result: dict[int, Room] = {}
    scene = FIRST_SCENE[kind]
    while len(result) < SCENES_PER_KIND:
        counts = tuple(between(rng, low, high) for low, high in furniture.values())
        if least <= sum(counts) <= greatest and counts not in seen:
            seen.add(counts)
            types = [name for name, count in zip(furniture, counts, strict=True) for _ in range(count)]
            result[scene] = Room(kind, scene, _place_furniture(rng, types))
            scene += 1
    return result


def coordinates(rng: Random) -> str:
    """The tail of a PDDL name in ALFRED's style: three coordinates in hundredths of a metre."""
    x, y, z = between(rng, -350, 350), between(rng, 10, 190), between(rng, -350, 350)
    return "".join(
        f"_bar__{'minus' if v < 0 else 'plus'}_{abs(v) // 100:02d}_dot_{abs(v) % 100:02d}" for v in (x, y, z)
    )


def _place_furniture(rng: Random, types: list[str]) -> tuple[Receptacle, ...]:
    receptacles: dict[str, Receptacle] = {}
    locations: set[str] = set()
    for name in types:
        location = _location(rng)
        while location in locations:
            location = _location(rng)
        locations.add(location)
        identifier = _receptacle_id(rng, name)
        while identifier in receptacles:
            identifier = _receptacle_id(rng, name)
        receptacles[identifier] = Receptacle(identifier, name, location, name in OPENABLE)
    return tuple(receptacles[identifier] for identifier in sorted(receptacles))


def _location(rng: Random) -> str:
    x, y, rotation, horizon = between(rng, -12, 12), between(rng, -12, 12), between(rng, 0, 3), pick(rng, (0, 30))
    return "loc" + "".join(f"_bar_{'_minus_' if v < 0 else ''}{abs(v)}" for v in (x, y, rotation, horizon))


def _receptacle_id(rng: Random, name: str) -> str:
    # ALFRED names a basin after the fixture that it is part of; the game engine turns that back into "sinkbasin".
    for fixture in ("Sink", "Bathtub"):
        if name == f"{fixture}Basin":
            return f"{fixture}{coordinates(rng)}_bar_{name}"
    return f"{name}{coordinates(rng)}"
