"""Nouns of product titles: a frozen rule, and spaCy's model as upstream uses it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

Nouns = Callable[[str], Sequence[str]]
"""Title → its nouns in lower case, in order, repeated as often as they occur."""

SPACY_MODEL = "en_core_web_sm"
_WORD = re.compile(r"[^\W_]+")
_POSSESSIVE = re.compile(r"['’]s\b", re.IGNORECASE)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of titles that are not nouns: function words, adjectives, adverbs and verbs, in no finer classes.
_OTHER_WORDS = _words(
    """a about above after all also an and any are as at be been before below best between both but by can do does down
    each either every few for from get has have her his how if in into is it its just like made make makes many
    may more most much my neither no non nor not of off on only onto or other our out over own per plus she so
    some such than that the their them then there these they this those through to too under until up upon us
    use used using very via was we were what when where which while who will with within without you your
    adjustable anti artificial authentic automatic available basic beautiful big breathable bright broad casual
    cheap classic clean clear clinical cold comfortable comfy compact compatible complete cool creative cruelty
    cute daily dark decorative deep delicious detachable disposable double dry dual durable easy ecofriendly
    elastic elegant essential extra fancy fashionable fast fine flat flexible floral foldable folding formal
    free fresh friendly full fully funny genuine gentle good great green handmade hard healthy heavy high hot
    huge ideal insulated intense knitted large larger lightweight long loose lovely low luxury magnetic mini
    modern moisturizing multi multifunctional narrow natural new nice old open organic original outdoor perfect
    personalized plain portable powerful premium professional pure quick quiet rechargeable refillable removable
    replaceable resistant retro reusable rich round rustic safe sexy sharp short simple single skinny sleeveless
    slim small smart smooth soft solid special square stainless stretchy strong stylish super sweet tall tasty
    thick thin tight tiny traditional triple trendy ultra unique universal unscented upgraded useful vegan
    vintage warm washable waterproof wearable wide wild wireless wooden young
    black blue brown gray grey orange pink purple red white yellow
    add added adding allow bring built buy carry choose come cut designed enjoy fit fits gives go help helps hold
    includes including keep keeps let need provides removes replaces see take wear works
    one two three four five six seven eight nine ten"""
)


def rule_nouns(title: str) -> list[str]:
    """The words of a title, in lower case, without numbers, single characters and a frozen list of other words."""
    words = _WORD.findall(_POSSESSIVE.sub("", title).lower())
    return [w for w in words if len(w) > 1 and not w.isdecimal() and w not in _OTHER_WORDS]


@cache
def spacy_nouns() -> Nouns | None:
    """Nouns and proper nouns as spaCy's ``en_core_web_sm`` tags them; None where it is not installed."""
    if find_spec("spacy") is None or find_spec(SPACY_MODEL) is None:
        return None

    model: Any = import_module("spacy").load(SPACY_MODEL)

    @lru_cache(maxsize=1 << 15)
    def nouns(title: str) -> tuple[str, ...]:
        return tuple(token.text.lower() for token in model(title) if token.pos_ in ("NOUN", "PROPN"))

    return nouns
