"""Four generations of families: who is whose child, who married whom, and when each was born."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from empg.environments.deepsearch.generated.names import Names
from empg.environments.draws import between, pick, shuffled

GENERATIONS = 4
FIRST_COUPLES = 175
FIRST_BIRTH_YEARS = (1850, 1869)
MARRIED = 0.9  # share of men who marry, of those for whom there is a woman within ten years of their age


@dataclass(eq=False)
class Person:
    """Somebody and the family. Both spouses have the same children; a child has its father's surname."""

    name: str
    surname: str
    pronoun: str
    birth_year: int
    father: Person | None = None
    mother: Person | None = None
    spouse: Person | None = None
    children: list[Person] = field(default_factory=list)


def draw_families(rng: Random, names: Names) -> list[Person]:
    """Everybody, generation by generation: about 1,500 people."""
    generation = []
    for i in range(FIRST_COUPLES):
        # Each surname begins with a man and a woman of different couples.
        for pronoun, surname in (("He", names.surnames[i]), ("She", names.surnames[i - 1])):
            generation.append(
                Person(names.person(pronoun, surname), surname, pronoun, between(rng, *FIRST_BIRTH_YEARS))
            )
    people = list(generation)
    for _ in range(GENERATIONS - 1):
        couples = _marry(rng, generation)
        generation = [child for husband, wife in couples for child in _children(rng, names, husband, wife)]
        people += generation
    return people


def _marry(rng: Random, generation: list[Person]) -> list[tuple[Person, Person]]:
    """Couples of men and women with other parents, surnames and about the same age."""
    women = shuffled(rng, [p for p in generation if p.pronoun == "She"])
    couples = []
    for man in shuffled(rng, [p for p in generation if p.pronoun == "He"]):
        wife = next((w for w in women if w.surname != man.surname and abs(w.birth_year - man.birth_year) <= 10), None)
        if wife and rng.random() < MARRIED:
            women.remove(wife)
            man.spouse, wife.spouse = wife, man
            couples.append((man, wife))
    return couples


def _children(rng: Random, names: Names, father: Person, mother: Person) -> list[Person]:
    """One to four children, the first when the younger parent is 20 to 26, then one every one to three years."""
    year = max(father.birth_year, mother.birth_year) + between(rng, 20, 26)
    for _ in range(between(rng, 1, 4)):
        pronoun = pick(rng, ("He", "She"))
        name = names.person(pronoun, father.surname)
        child = Person(name, father.surname, pronoun, year, father, mother)
        father.children.append(child)
        mother.children.append(child)
        year += between(rng, 1, 3)
    return father.children
