"""How texts are compared: upstream's colours, and thefuzz's token-set ratio.

The colours are those of princeton-nlp/WebShop, web_agent_site/engine/normalize.py. Its size classes play no
part in a score and are left out.
"""

from __future__ import annotations

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
_LATIN_1 = dict.fromkeys(range(128, 256))


def normalise_colour(text: str) -> str:
    """The first of ``COLOURS``, in alphabetical order, that stands anywhere in the text; the text if none does."""
    return next((colour for colour in COLOURS if colour in text), text)


@lru_cache(maxsize=1 << 15)
def _processed(text: str) -> str:
    """As thefuzz prepares text: Latin-1's upper half dropped, lower case, a space for all but letters and digits."""
    return default_process(text.translate(_LATIN_1))


def token_set_ratio(first: str, second: str) -> int:
    """thefuzz's ``fuzz.token_set_ratio``: a whole number from 0 to 100, and 0 if a text has no letter or digit."""
    return round(fuzz.token_set_ratio(_processed(first), _processed(second)))
