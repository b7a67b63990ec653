"""Names made of few syllables, so that a small tokenizer has a token for each and a small network can copy them."""

from __future__ import annotations

from random import Random

from empg.environments.draws import pick, shuffled


def _syllables(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: A word begins with one of these and goes on with one or two of the others. Each is consonant, vowel, consonant, so
#: that none lies across two others: a word can be cut into its syllables in one way. None is a part of any other word
#: that pages, questions and thoughts use.
FIRST = _syllables(
    "Bal Bor Cal Cor Dar Del Dor Fal Fen Gav Gor Hal Hev Jor Kal Kel Kor Lan Lor Mal Mer Mor Nal Nor Pel Por Ral Rov "
    "Sal Sel Sor Tal Tor Val Vel Ver Vor Wel Yar Zan"
)
NEXT = _syllables(
    "bec bin dak dun dur fas fik gan gim gul hud hur kas kin kun lat lem lok mag min mir nak nel nim pek pin rak rik "
    "ros san sik tuk tek tin vak vas ven vik zim zar"
)
TITLES: dict[str, tuple[str, ...]] = {
    "city": ("{}",),
    "country": ("{}",),
    "river": ("{} River",),
    "mountain": ("Mount {}",),
    "lake": ("Lake {}",),
    "company": ("{} Works", "{} Mills", "{} Lines", "{} Motors"),
    "school": ("{} College", "{} Academy"),
    "museum": ("{} Museum", "{} Gallery"),
    "band": ("{} Quartet", "{} Singers"),
    "book": ("Garden of {}", "House of {}", "Song of {}", "Winter of {}"),
    "film": ("Broken {}", "Golden {}", "Hidden {}", "Silent {}"),
}
_TITLE_WORDS = sorted({word for titles in TITLES.values() for title in titles for word in title.split()} - {"{}", "of"})
#: Finds the parts of names, one by one, and nothing else: what a tokenizer should keep apart.
PART = (
    rf" ?\b(?:{'|'.join(FIRST)})(?=(?:{'|'.join(NEXT)}))|(?<={'|'.join(FIRST + NEXT)})(?:{'|'.join(NEXT)})"
    rf"| ?\b(?:{'|'.join(_TITLE_WORDS)})\b"
)
GIVEN_NAMES, SURNAMES = 60, 175  # given names of men and of women, each
SHARED = {"city": 0.2, "country": 0.0}  # share of titles with a word that other names have already
MOSTLY_SHARED = 0.9  # the same for everything else


class Names:
    """Titles of pages, no two equal. Surnames, cities and many things share words, which makes distractors."""

    def __init__(self, rng: Random) -> None:
        words = shuffled(rng, [first + following for first in FIRST for following in NEXT])
        self._rng = rng
        self._given = {pronoun: [words.pop() for _ in range(GIVEN_NAMES)] for pronoun in ("He", "She")}
        self.surnames = [words.pop() for _ in range(SURNAMES)]
        self._known = list(self.surnames)
        self._new = words
        self._taken: set[str] = set()

    def person(self, pronoun: str, surname: str) -> str:
        """A name that nobody has yet."""
        while True:
            name = f"{pick(self._rng, self._given[pronoun])} {surname}"
            if self._take(name):
                return name

    def title(self, kind: str) -> str:
        """A title that no page has yet, for an entity type other than a person."""
        while True:
            name = pick(self._rng, TITLES[kind]).format(self._word(kind))
            if self._take(name):
                return name

    def _word(self, kind: str) -> str:
        if self._rng.random() < SHARED.get(kind, MOSTLY_SHARED):
            return pick(self._rng, self._known)
        word = self._new.pop()
        if kind == "country":
            return word + pick(self._rng, NEXT)
        if kind == "city":
            self._known.append(word)
        return word

    def _take(self, name: str) -> bool:
        free = name not in self._taken
        self._taken.add(name)
        return free
