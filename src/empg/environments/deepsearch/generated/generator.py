"""Drawing the world: names, families, places, organisations and works, with facts that agree with each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random

from empg.environments.deepsearch.generated.families import Person, draw_families
from empg.environments.deepsearch.generated.names import Names
from empg.environments.deepsearch.generated.world import Entity, Fact, World
from empg.environments.draws import between, pick, shuffled
from empg.seeding import derive_seed

COUNTRIES, CITIES, RIVERS, MOUNTAINS, LAKES = 36, 240, 160, 160, 120
COMPANIES, SCHOOLS, MUSEUMS, BANDS, BOOKS, FILMS = 240, 100, 100, 140, 280, 260
FACTS_A_PAGE = 4  # at most
LAST_FOUNDER = 1955  # the latest birth year of an adult


@cache
def draw_world(seed: int) -> World:
    """The world that a seed names, the same on every machine; about 3,300 entities and 11,000 facts."""
    return _Drawing(Random(derive_seed(seed, "deepsearch", "world"))).world()


class _Drawing:
    """A world in the making: entities with the facts that their pages may state."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.names = Names(rng)
        self.entities: list[Entity] = []
        self.facts: list[Fact] = []

    def world(self) -> World:
        """Draw everything, in an order in which each thing finds what it needs."""
        people = draw_families(self.rng, self.names)
        adults = [p for p in people if p.birth_year <= LAST_FOUNDER]
        cities = self._places(people)
        schools = self._founded("school", SCHOOLS, adults, cities)
        companies = self._founded("company", COMPANIES, adults, cities)
        self._founded("museum", MUSEUMS, adults, cities)
        self._bands(adults, cities)
        self._works(adults)
        self._people(people, cities, schools, companies)
        return World(tuple(self.entities), tuple(self.facts))

    def _add(self, entity: Entity, facts: Sequence[tuple[str, str]]) -> None:
        """The page of an entity: at most four of the facts (relation, object), in an order drawn at random."""
        self.entities.append(entity)
        chosen = shuffled(self.rng, facts)[:FACTS_A_PAGE]
        self.facts += [Fact(entity.title, relation, value) for relation, value in chosen]

    def _titles(self, kind: str, count: int) -> list[str]:
        return [self.names.title(kind) for _ in range(count)]

    def _places(self, people: list[Person]) -> list[str]:
        """Countries with their cities, mountains, lakes and rivers: place i of a kind lies in country i modulo 36."""
        cities = self._titles("city", CITIES)
        countries, mountains = self._titles("country", COUNTRIES), self._titles("mountain", MOUNTAINS)
        lakes, rivers = self._titles("lake", LAKES), self._titles("river", RIVERS)
        leaders = shuffled(self.rng, [p.name for p in people if p.birth_year >= 1900])
        climbers = [p for p in people if p.birth_year <= 1975]
        heights = shuffled(self.rng, range(80, 600))[:MOUNTAINS]  # no two equal: one is the highest
        for i, country in enumerate(countries):
            capital, president = pick(self.rng, cities[i::COUNTRIES]), leaders.pop()
            highest = max(range(i, MOUNTAINS, COUNTRIES), key=heights.__getitem__)
            facts = (("capital", capital), ("president", president), ("highest_mountain", mountains[highest]))
            self._add(Entity(country, "country"), facts)
        for i, city in enumerate(cities):
            river = pick(self.rng, rivers[i % COUNTRIES :: COUNTRIES])
            mayor = ("mayor", leaders.pop())
            self._add(Entity(city, "city"), (("country", countries[i % COUNTRIES]), ("river", river), mayor))
        for i, mountain in enumerate(mountains):
            climber = ("first_climber", pick(self.rng, climbers).name)
            facts = (("country", countries[i % COUNTRIES]), ("height", f"{heights[i] * 10} m"), climber)
            self._add(Entity(mountain, "mountain"), facts)
        for i, lake in enumerate(lakes):
            depth = f"{between(self.rng, 20, 399)} m"
            self._add(Entity(lake, "lake"), (("country", countries[i % COUNTRIES]), ("depth", depth)))
        for i, river in enumerate(rivers):
            home = i % COUNTRIES
            source, mouth = pick(self.rng, mountains[home::COUNTRIES]), pick(self.rng, lakes[home::COUNTRIES])
            length = ("length", f"{between(self.rng, 10, 99) * 10} km")
            ends = (("source", source), ("mouth", mouth))
            self._add(Entity(river, "river"), (length, *ends, ("country", countries[home])))
        return cities

    def _founded(self, kind: str, count: int, people: list[Person], cities: list[str]) -> list[tuple[str, int]]:
        """Organisations with their founding years; a founder is 22 to 45 years old."""
        result = []
        for title in self._titles(kind, count):
            founder = pick(self.rng, people)
            year = founder.birth_year + between(self.rng, 22, 45)
            facts = (("founder", founder.name), ("city", pick(self.rng, cities)), ("founding_year", str(year)))
            self._add(Entity(title, kind), facts)
            result.append((title, year))
        return result

    def _bands(self, people: list[Person], cities: list[str]) -> None:
        for title in self._titles("band", BANDS):
            singer = pick(self.rng, people)
            year = singer.birth_year + between(self.rng, 18, 30)
            facts = (("singer", singer.name), ("city", pick(self.rng, cities)), ("founding_year", str(year)))
            self._add(Entity(title, "band"), facts)

    def _works(self, people: list[Person]) -> None:
        """Books and films; a film follows a book that came out before it."""
        books = []
        for title in self._titles("book", BOOKS):
            author = pick(self.rng, people)
            year = author.birth_year + between(self.rng, 22, 55)
            self._add(Entity(title, "book"), (("author", author.name), ("release_year", str(year))))
            books.append((title, year))
        directors = [p for p in people if p.birth_year >= 1885]
        for title in self._titles("film", FILMS):
            director = pick(self.rng, directors)
            year = director.birth_year + between(self.rng, 25, 55)
            facts = [("director", director.name), ("release_year", str(year))]
            earlier = [book for book, published in books if published < year]
            if earlier:
                facts.append(("based_on", pick(self.rng, earlier)))
            self._add(Entity(title, "film"), facts)

    def _people(
        self, people: list[Person], cities: list[str], schools: list[tuple[str, int]], companies: list[tuple[str, int]]
    ) -> None:
        """Everybody studied at a school that existed when they were 18 and worked for a company that existed at 30."""
        for person in people:
            facts = [("birthplace", pick(self.rng, cities)), ("birth_year", str(person.birth_year))]
            if person.father and person.mother:
                facts += [("father", person.father.name), ("mother", person.mother.name)]
            if person.spouse:
                facts.append(("spouse", person.spouse.name))
            if len(person.children) == 1:
                facts.append(("child", person.children[0].name))
            for relation, places, age in (("school", schools, 18), ("employer", companies, 30)):
                open_then = [title for title, founded in places if founded <= person.birth_year + age]
                if open_then:
                    facts.append((relation, pick(self.rng, open_then)))
            self._add(Entity(person.name, "person", person.pronoun), facts)
