"""The words that the embedded shop is made of: kinds of products, attributes, options and the phrases of customers.

They are few, so that a small network can learn to read them, and chosen so that the score tells them apart: no value of
an option matches another one of the same option, and no attribute matches another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple


class Kind(NamedTuple):
    """A sub-category: what its products are called, with its article, and the options that they come in."""

    name: str
    article: str
    group: str
    options: tuple[str, ...]


class Category(NamedTuple):
    """One of the shop's five departments.

    ``title_attributes`` are attributes that titles name, one for each family of a kind; ``feature_attributes`` stand
    among the features, two for each product.
    """

    name: str
    label: str
    kinds: tuple[Kind, ...]
    title_attributes: tuple[str, ...]
    feature_attributes: tuple[str, ...]


def _kinds(options: tuple[str, ...], group: str, names: str) -> tuple[Kind, ...]:
    """Kinds from their names; an article before a name is "a" or "pair", none before what is not counted."""
    articles = {"a": "a", "pair": "a pair of"}
    kinds = []
    for entry in names.split(", "):
        first, _, rest = entry.partition(" ")
        article, name = (articles[first], rest) if first in articles else ("", entry)
        kinds.append(Kind(name, article, group, options))
    return tuple(kinds)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_SCENT, _COLOR, _FLAVOR = ("scent", "size"), ("color", "size"), ("flavor", "size")
_SHOES = ("color", "width")

CATEGORIES = (
    Category(
        "beauty",
        "Beauty & Personal Care",
        _kinds(_SCENT, "Hair Care", "shampoo, conditioner, a hair mask")
        + _kinds(_SCENT, "Skin Care", "face cream, body lotion, a body scrub, a lip balm")
        + _kinds(_SCENT, "Bath", "soap, shower gel, perfume"),
        ("vegan", "organic", "herbal", "gentle", "hydrating", "soothing", "natural", "premium"),
        ("cruelty free", "paraben free", "alcohol free", "long lasting", "eco friendly", "skin friendly"),
    ),
    Category(
        "electronics",
        "Electronics",
        _kinds(_COLOR, "Audio", "pair headphones, a speaker, a microphone, a radio")
        + _kinds(_COLOR, "Computers", "a keyboard, a mouse, a tablet")
        + _kinds(_COLOR, "Accessories", "a charger, a camera, a tripod"),
        ("wireless", "portable", "waterproof", "foldable", "compact", "rechargeable", "slim", "gaming"),
        ("fast charging", "noise cancelling", "heavy duty", "easy install", "dust proof", "long lasting"),
    ),
    Category(
        "fashion",
        "Clothing, Shoes & Jewelry",
        _kinds(_SHOES, "Shoes", "pair boots, pair sneakers, pair sandals, pair loafers")
        + _kinds(_COLOR, "Clothing", "a jacket, a sweater, a dress, a shirt")
        + _kinds(_COLOR, "Extras", "pair gloves, a hat"),
        ("waterproof", "quilted", "casual", "vintage", "knitted", "slim", "classic", "lightweight"),
        ("machine washable", "easy care", "water resistant", "non slip", "hand wash", "quick drying"),
    ),
    Category(
        "garden",
        "Home & Kitchen",
        _kinds(_COLOR, "Textiles", "a pillow, a blanket, a rug, pair curtains")
        + _kinds(_COLOR, "Furniture", "a chair, a table, a shelf")
        + _kinds(_COLOR, "Decor", "a lamp, a vase, a basket"),
        ("vintage", "rustic", "modern", "foldable", "handmade", "striped", "classic", "round"),
        ("easy clean", "heavy duty", "non slip", "eco friendly", "easy install", "stain resistant"),
    ),
    Category(
        "grocery",
        "Grocery & Gourmet Food",
        _kinds(_FLAVOR, "Beverages", "coffee, tea, cocoa")
        + _kinds(_FLAVOR, "Snacks", "cookies, crackers, popcorn, candy")
        + _kinds(_FLAVOR, "Breakfast", "granola, oatmeal, syrup"),
        ("organic", "vegan", "roasted", "natural", "spicy", "premium", "crunchy", "classic"),
        ("gluten free", "sugar free", "dairy free", "low sodium", "non gmo", "nut free"),
    ),
)
BY_NAME = {category.name: category for category in CATEGORIES}


def _codes(names: Iterable[str]) -> dict[str, str]:
    """Three capitals for each name, from its letters in their order; no two alike."""
    codes: dict[str, str] = {}
    for name in dict.fromkeys(names):
        letters = name.replace(" ", "").upper()
        threes = ("".join(three) for three in combinations(letters, 3))
        codes[name] = next(code for code in threes if code not in codes.values())
    return codes


#: How product ids write kinds and title attributes, so that a small tokenizer and network can copy an id.
CODES = _codes([k.name for c in CATEGORIES for k in c.kinds] + [a for c in CATEGORIES for a in c.title_attributes])

VALUES = {
    "color": _words("black white red blue green yellow purple pink brown gray orange gold"),
    "size": ("small", "medium", "large"),
    "width": ("narrow", "regular", "wide"),
    "scent": _words("lavender vanilla citrus coconut jasmine cedar"),
    "flavor": _words("vanilla honey lemon cinnamon caramel ginger"),
}
BRANDS = _words(
    "Alder Birch Delta Fable Haven Juno Lumen Nova Orion Quill River Tidal Vista Willow Zephyr Atlas Comet Dune"
)
TITLE_ENDS = ("", "for home", "for travel", "for work", "for gifts")
DESCRIPTIONS = ("Simple and useful.", "Made with thought.", "A daily favourite.", "Loved by many.")
FIRST_FEATURES = ("one year warranty", "simple returns", "prompt delivery", "gift box")

#: Customers' requests. ``what`` is "a waterproof jacket", ``that`` " that is easy care" or nothing; ``plain`` is "a
#: jacket", ``being`` " that is waterproof and easy care"; ``listed`` is "waterproof jacket, easy care". ``options``
#: starts with a space or a comma and names the options, or is empty.
REQUESTS = (
    "i am looking for {what}{that}{options}.",
    "i need {what}{that}{options}.",
    "i want to buy {what}{that}{options}.",
    "find me {what}{that}{options}.",
    "can you show me {what}{that}{options}.",
    "i'm shopping for {what}{that}{options}.",
    "hello, please get me {what}{that}{options}.",
    "my friend needs {what}{that}{options}.",
    "i need {plain}{being}{options}.",
    "i would like {plain}{being}{options}.",
    "looking for {plain}{being}{options}.",
    "do you sell {plain}{being}{options}.",
    "{listed}{options}.",
    "shopping list: {listed}{options}.",
    "i want {what}{options}{that_too}.",
    "get me {what}{options}{that_too}.",
)
#: How a request names an option, in styles that one request keeps to.
OPTION_PHRASES: tuple[dict[str, str], ...] = (
    {
        "color": " in {value}",
        "size": " in size {value}",
        "width": " in {value} width",
        "scent": " with {value} scent",
        "flavor": " with {value} flavor",
    },
    dict.fromkeys(VALUES, ", {name}: {value}"),
    dict.fromkeys(VALUES, " with the {name} {value}"),
    dict.fromkeys(VALUES, ", {value}"),
)
