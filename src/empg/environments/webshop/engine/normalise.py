"""How texts are compared: upstream's colours and sizes, and thefuzz's token-set ratio.

Colours and sizes are those of princeton-nlp/WebShop, web_agent_site/engine/normalize.py.
"""

from __future__ import annotations

import re
from functools import lru_cache

from rapidfuzz import fuzz
from rapidfuzz.utils import default_process


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COLOURS = _words(
    """alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo
    caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream
    crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey
    heather indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight
    mint mocha multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow
    red rose royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal
    tiger turquoise violet walnut wheat white wine yellow"""
)
_SIZES = (
    *("xx-large", "3x-large", "4x-large", "5x-large", "x-large", "x-small", "medium", "large", "small"),
    *("queen", "twin", "full", "king", "one size", "pack"),
    *(r"(.*)neck(.*)sleeve", r"(.*) women \| (.*) men", r"(.*)w x(.*)l", r"(.*)w by (.*)l", r"(.*)w x(.*)h"),
    *(r"(.*)wide", r"(.*)x-wide", r"(.*)narrow", r"(.*)petite", r"(.*)inch", r"(.*)plus", r"(.*)mm", r"women(.*)"),
    *(r"(.*)x(.*)", r"(.*)ft", r"(.*)feet", r"(.*)meter", r"(.*)yards", r"(.*)\*(.*)", r"(.*)\-(.*)"),
    *(r'(\d+)"$', r"(\d+)f$", r"(\d+)m$", r"(\d+)cm$", r"(\d+)g$"),
)
_SIZE_PATTERNS = tuple(re.compile(size) for size in _SIZES)
_NOT_MATCHED = "not_matched"
_LATIN_1 = dict.fromkeys(range(128, 256))


def normalise_colour(text: str) -> str:
    """The first of ``COLOURS``, in alphabetical order, that stands anywhere in the text; the text if none does."""
    return next((colour for colour in COLOURS if colour in text), text)


def colour_class(text: str) -> str:
    """The colour of an option's value, in lower case, or "not_matched"."""
    text = text.lower()
    return next((colour for colour in COLOURS if colour in text), _NOT_MATCHED)


def size_class(text: str) -> str:
    """The kind of an option's size: the first pattern found in it, "numeric_size" or "not_matched"."""
    text = text.lower()
    for pattern in _SIZE_PATTERNS:
        if pattern.search(text):
            return pattern.pattern
    return "numeric_size" if text.replace(".", "", 1).isdigit() else _NOT_MATCHED


@lru_cache(maxsize=1 << 15)
def _processed(text: str) -> str:
    """As thefuzz prepares text: Latin-1's upper half dropped, lower case, a space for all but letters and digits."""
    return default_process(text.translate(_LATIN_1))


def token_set_ratio(first: str, second: str) -> int:
    """thefuzz's ``fuzz.token_set_ratio``: 0 to 100, rounded to a whole number; 0 if a text has no letter or digit."""
    return round(fuzz.token_set_ratio(_processed(first), _processed(second)))
