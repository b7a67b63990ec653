"""What exists in a household and what goes where.

The facts (receptacle and object types, which may hold which, what can be opened, heated, cooled or cleaned, scene
numbers, task types and task sentences) are those of alfworld 0.4.2, ``alfworld/gen/constants.py`` and
``alfworld/gen/goal_library.py`` (MIT licence), which take them from ALFRED (Shridhar et al., arXiv 1912.01734).
"""

from __future__ import annotations

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)

KINDS = ("kitchen", "living room", "bedroom", "bathroom")

#: Number of the first scene of each kind of room; a kind has thirty scenes, the first six of them are test scenes.
FIRST_SCENE = {"kitchen": 1, "living room": 201, "bedroom": 301, "bathroom": 401}
SCENES_PER_KIND = 30
TEST_SCENES_PER_KIND = 6

#: The kinds of room in which a task type is possible.
TASK_KINDS = {
    "pick_and_place_simple": KINDS,
    "look_at_obj_in_light": ("living room", "bedroom"),
    "pick_clean_then_place_in_recep": ("kitchen", "bathroom"),
    "pick_heat_then_place_in_recep": ("kitchen",),
    "pick_cool_then_place_in_recep": ("kitchen",),
    "pick_two_obj_and_place": KINDS,
}

#: The receptacle that changes an object's state, per task type that needs one.
TOOLS = {
    "pick_clean_then_place_in_recep": "SinkBasin",
    "pick_heat_then_place_in_recep": "Microwave",
    "pick_cool_then_place_in_recep": "Fridge",
}

#: The two sentences of each task type.
TASK_SENTENCES = {
    "pick_and_place_simple": ("put a {obj} in {recep}", "put some {obj} on {recep}"),
    "look_at_obj_in_light": ("look at {obj} under the desklamp", "examine the {obj} with the desklamp"),
    "pick_clean_then_place_in_recep": ("put a clean {obj} in {recep}", "clean some {obj} and put it in {recep}"),
    "pick_heat_then_place_in_recep": ("put a hot {obj} in {recep}", "heat some {obj} and put it in {recep}"),
    "pick_cool_then_place_in_recep": ("put a cool {obj} in {recep}", "cool some {obj} and put it in {recep}"),
    "pick_two_obj_and_place": ("put two {obj} in {recep}", "find two {obj} and put them in {recep}"),
}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


OPENABLE = _names("Cabinet Drawer Fridge Microwave Safe")
LAMP = "DeskLamp"
#: ALFRED's table does not say where lamps stand; these are where they stand in most of its scenes.
LAMP_STANDS = _names("Desk Dresser SideTable")

HEATABLE = _names("Apple Bread Cup Egg Mug Plate Potato Tomato")
COOLABLE = _names("Apple Bowl Bread Cup Egg Lettuce Mug Pan Plate Pot Potato Tomato WineBottle")
CLEANABLE = _names(
    "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan Plate Pot Potato SoapBar "
    "Spatula Spoon Tomato"
)
SLICEABLE = _names("Apple Bread Egg Lettuce Potato Tomato")

#: The objects that a task type's tool changes; task types without a tool are not listed.
CHANGEABLE = {
    "pick_clean_then_place_in_recep": CLEANABLE,
    "pick_heat_then_place_in_recep": HEATABLE,
    "pick_cool_then_place_in_recep": COOLABLE,
}

_SEAT = _names("BasketBall Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl")
_DRESSER = _names(
    "AlarmClock BasketBall Book Bowl Box Candle CD CellPhone Cloth CreditCard Cup Glassbottle KeyChain Laptop Mug "
    "Newspaper Pen Pencil Plate RemoteControl SprayBottle Statue TennisRacket TissueBox ToiletPaper Vase Watch "
    "WateringCan WineBottle"
)
_TABLE = _names(
    "AlarmClock Apple BaseballBat BasketBall Book Bowl Box Bread ButterKnife Candle CD CellPhone Cloth CreditCard Cup "
    "DishSponge Egg Fork Glassbottle HandTowel Kettle KeyChain Knife Ladle Laptop Lettuce Mug Newspaper Pan Pen Pencil "
    "PepperShaker Plate Pot Potato RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon SprayBottle Statue "
    "TennisRacket TissueBox ToiletPaper Tomato Vase Watch WateringCan WineBottle"
)

#: The object types that each receptacle type may hold.
CONTENTS = {
    "ArmChair": _SEAT,
    "BathtubBasin": _names("Cloth DishSponge HandTowel SoapBar"),
    "Bed": _names("BaseballBat BasketBall Book CellPhone Laptop Newspaper Pillow TennisRacket"),
    "Cabinet": _names(
        "Book Bowl Box Candle CD Cloth Cup DishSponge Glassbottle HandTowel Kettle Ladle Mug Newspaper Pan "
        "PepperShaker Plate Pot SaltShaker SoapBar SoapBottle SprayBottle TissueBox ToiletPaper Vase WateringCan "
        "WineBottle"
    ),
    "Cart": _names(
        "Candle Cloth DishSponge HandTowel Mug SoapBar SoapBottle SprayBottle Statue TissueBox ToiletPaper Vase"
    ),
    "CoffeeMachine": _names("Mug"),
    "CoffeeTable": _TABLE,
    "CounterTop": _TABLE,
    "Desk": _DRESSER | {"SoapBottle"},
    "DiningTable": _TABLE,
    "Drawer": _names(
        "Book ButterKnife Candle CD CellPhone Cloth CreditCard DishSponge Fork HandTowel KeyChain Knife Ladle "
        "Newspaper Pen Pencil PepperShaker RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon SprayBottle "
        "TissueBox ToiletPaper Watch WateringCan"
    ),
    "Dresser": _DRESSER,
    "Fridge": _names("Apple Bowl Bread Cup Egg Glassbottle Lettuce Mug Pan Plate Pot Potato Tomato WineBottle"),
    "GarbageCan": _names(
        "Apple Bread CD Cloth DishSponge Egg HandTowel Lettuce Newspaper Pen Pencil Potato SoapBar SoapBottle "
        "SprayBottle TissueBox ToiletPaper Tomato WineBottle"
    ),
    "HandTowelHolder": _names("HandTowel"),
    "LaundryHamper": _names("Cloth"),
    "Microwave": _names("Apple Bowl Bread Cup Egg Glassbottle Mug Plate Potato Tomato"),
    "Ottoman": _SEAT,
    "Safe": _names("CD CellPhone CreditCard KeyChain Statue Vase Watch"),
    "Shelf": _names(
        "AlarmClock Book Bowl Box Candle CD CellPhone Cloth CreditCard Cup DishSponge Glassbottle HandTowel Kettle "
        "KeyChain Mug Newspaper Pen Pencil PepperShaker Plate Pot RemoteControl SaltShaker SoapBar SoapBottle "
        "SprayBottle Statue TissueBox ToiletPaper Vase Watch WateringCan WineBottle"
    ),
    "SideTable": _TABLE,
    "SinkBasin": _names(
        "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Glassbottle HandTowel Kettle Knife Ladle Lettuce Mug Pan "
        "Plate Pot Potato SoapBar Spatula Spoon Tomato"
    ),
    "Sofa": _SEAT,
    "StoveBurner": _names("Kettle Pan Pot"),
    "Toaster": frozenset[str](),
    "Toilet": _names(
        "Candle Cloth DishSponge HandTowel Newspaper SoapBar SoapBottle SprayBottle TissueBox ToiletPaper"
    ),
    "ToiletPaperHanger": _names("ToiletPaper"),
    "TowelHolder": frozenset[str](),
    "TVStand": _names("TissueBox"),
}


def may_hold(receptacle_type: str, object_type: str) -> bool:
    """Whether an object of this type may be found in, or put into, a receptacle of that type."""
    if object_type == LAMP:
        return receptacle_type in LAMP_STANDS
    return object_type in CONTENTS[receptacle_type]
