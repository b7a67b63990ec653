"""Relations in words: the published forms by which pages state them and questions ask for them.

In a page's sentence ``{s}`` is the subject or its pronoun, ``{p}`` the same as a possessive, ``{o}`` the object. In a
question ``{x}`` is a name, or words that stand for one ("the founder of Kelmir Works").
"""

from __future__ import annotations

from typing import NamedTuple

from empg.environments.deepsearch.generated.world import RELATIONS


class Words(NamedTuple):
    """How a relation is spoken of: "the ``noun`` of X", the ways to state it, more ways to ask for it.

    ``clause`` describes the object by the relation ("the person who founded X"), where a question may do so.
    """

    noun: str
    sentences: tuple[str, ...]
    asks: tuple[str, ...] = ()
    clause: str = ""


_FATHER = ("{p} father is {o}.", "{p} father was called {o}.")
_MOTHER = ("{p} mother is {o}.", "{p} mother was called {o}.")
_SPOUSE = ("{s} married {o}.", "{s} is married to {o}.", "{p} spouse is {o}.")
_BIRTH_YEAR = ("{s} was born in the year {o}.", "{p} birth year is {o}.")
_EMPLOYER = ("{s} worked for {o}.", "{s} was employed by {o}.", "{p} employer was {o}.")
_CAPITAL = ("{p} capital is {o}.", "{s} has {o} as capital.")
_FOUNDING_YEAR = ("{s} was founded in {o}.", "{s} dates from {o}.", "{p} founding year is {o}.")
_HIGHEST = ("{p} highest mountain is {o}.", "{p} highest peak is {o}.")
_CLIMBER = ("{s} was first climbed by {o}.", "{p} first climber was {o}.")

WORDS: dict[str, Words] = {
    "father": Words("father", _FATHER, ("Which man is the father of {x}?",)),
    "mother": Words("mother", _MOTHER, ("Which woman is the mother of {x}?",)),
    "spouse": Words("spouse", _SPOUSE, ("Who married {x}?",)),
    "child": Words("only child", ("{p} only child is {o}.", "{s} had one child, {o}.")),
    "birthplace": Words(
        "birthplace",
        ("{s} was born in {o}.", "{s} comes from {o}.", "{p} birthplace is {o}."),
        ("Where was {x} born?",),
        "the city where {x} was born",
    ),
    "birth_year": Words("birth year", _BIRTH_YEAR, ("When was {x} born?",)),
    "school": Words(
        "school",
        ("{s} studied at {o}.", "{s} went to {o}.", "{p} school was {o}."),
        ("Where did {x} study?",),
        "the school where {x} studied",
    ),
    "employer": Words("employer", _EMPLOYER, ("Which company employed {x}?",), "the company that employed {x}"),
    "country": Words(
        "country",
        ("{s} lies in {o}.", "{s} is part of {o}.", "{p} country is {o}."),
        ("In which country is {x}?",),
        "the country where {x} lies",
    ),
    "mayor": Words(
        "mayor",
        ("{p} mayor is {o}.", "{s} has {o} as mayor."),
        ("Who is mayor of {x}?",),
        "the person who is mayor of {x}",
    ),
    "river": Words(
        "river",
        ("{s} stands on {o}.", "{p} river is {o}."),
        ("Which river flows past {x}?",),
        "the river that flows past {x}",
    ),
    "capital": Words(
        "capital", _CAPITAL, ("Which city is the capital of {x}?",), "the city that is the capital of {x}"
    ),
    "president": Words(
        "president", ("{p} president is {o}.", "{s} is led by {o}."), ("Who leads {x}?",), "the person who leads {x}"
    ),
    "highest_mountain": Words(
        "highest mountain",
        _HIGHEST,
        ("Which mountain is the highest in {x}?",),
        "the mountain that is the highest in {x}",
    ),
    "length": Words("length", ("{s} is {o} long.", "{p} length is {o}."), ("How long is {x}?",)),
    "source": Words(
        "source",
        ("{s} rises on {o}.", "{p} source is {o}."),
        ("On which mountain does {x} rise?",),
        "the mountain where {x} rises",
    ),
    "mouth": Words(
        "mouth",
        ("{s} flows into {o}.", "{s} ends in {o}.", "{p} mouth is {o}."),
        ("Into which lake does {x} flow?",),
        "the lake into which {x} flows",
    ),
    "height": Words("height", ("{s} is {o} high.", "{p} height is {o}."), ("How high is {x}?",)),
    "first_climber": Words("first climber", _CLIMBER, ("Who first climbed {x}?",), "the person who first climbed {x}"),
    "depth": Words("depth", ("{s} is {o} deep.", "{p} depth is {o}."), ("How deep is {x}?",)),
    "founder": Words(
        "founder",
        ("{s} was founded by {o}.", "{s} was started by {o}.", "{p} founder is {o}."),
        ("Who founded {x}?",),
        "the person who founded {x}",
    ),
    "city": Words(
        "home city",
        ("{s} is based in {o}.", "{p} home is {o}.", "{p} home city is {o}."),
        ("Where is {x} based?",),
        "the city where {x} is based",
    ),
    "founding_year": Words("founding year", _FOUNDING_YEAR, ("When was {x} founded?",)),
    "singer": Words("singer", ("{p} singer is {o}.", "{s} is led on stage by {o}."), ("Who sings in {x}?",)),
    "author": Words(
        "author", ("{s} was written by {o}.", "{s} is a book by {o}.", "{p} author is {o}."), ("Who wrote {x}?",)
    ),
    "director": Words(
        "director",
        ("{s} was directed by {o}.", "{s} is a film by {o}.", "{p} director is {o}."),
        ("Who directed {x}?",),
    ),
    "based_on": Words("book source", ("{s} is based on {o}.", "{s} retells {o}."), ("Which book is {x} based on?",)),
    "release_year": Words(
        "release year",
        ("{s} came out in {o}.", "{s} appeared in {o}.", "{p} release year is {o}."),
        ("When did {x} come out?",),
    ),
}

#: How a capital's own page states its country: the inverse of "its capital is".
CAPITAL_SENTENCE = "{s} is the capital of {o}."

#: Two relations in one word.
COMPOSITES: dict[str, tuple[str, str]] = {
    "paternal grandfather": ("father", "father"),
    "paternal grandmother": ("father", "mother"),
    "maternal grandfather": ("mother", "father"),
    "maternal grandmother": ("mother", "mother"),
    "father-in-law": ("spouse", "father"),
    "mother-in-law": ("spouse", "mother"),
    "country of birth": ("birthplace", "country"),
}


class Comparison(NamedTuple):
    """A question about which of two has more (or less) of a number, and its words: "Which ``words``, A or B?"."""

    relation: str
    most: bool
    words: str


COMPARISONS = (
    Comparison("birth_year", False, "is older"),
    Comparison("birth_year", True, "is younger"),
    Comparison("length", True, "is longer"),
    Comparison("length", False, "is shorter"),
    Comparison("height", True, "is higher"),
    Comparison("height", False, "is lower"),
    Comparison("depth", True, "is deeper"),
    Comparison("founding_year", False, "was founded first"),
    Comparison("founding_year", True, "was founded last"),
    Comparison("release_year", False, "came out first"),
    Comparison("release_year", True, "came out last"),
)


def noun_phrase(relation: str, x: str) -> str:
    """For example "the founder of Kelmir Works"."""
    return f"the {WORDS[relation].noun} of {x}"


def asking_word(relation: str) -> str:
    """ "Who" where the object is a person, else "What"."""
    return "Who" if RELATIONS[relation].object == "person" else "What"
