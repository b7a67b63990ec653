"""An expert that shops from observations alone, with a short thought per step, for an agent to imitate.

It searches for what titles name and opens the first unopened product whose title fits. It checks one need after
another, reads the features where the request goes beyond the title, and goes back if something does not fit. Then it
chooses the options and buys. Its first thought says all that is needed; each later one says a check and its outcome.

The expert knows the shop's words and remembers what it has read. It knows nothing of the shop's hidden state. It reads
pages of the mode ``text_rich``, which mark what was opened.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from empg.environments.webshop.engine.session import parse_action
from empg.environments.webshop.generated.words import BY_NAME, CATEGORIES, VALUES
from empg.errors import DataError

Choice = tuple[str, str]

_INSTRUCTION = re.compile(r"^Instruction: ?\n(.*)", re.MULTILINE)
_LIMIT = re.compile(r"price lower than ([\d.]+) dollars")
#: Id and title of each listed product that has not been opened.
NOT_OPENED = re.compile(r"\[button\] (B0\w{8}) \[button_\]\n(.*)\n\$")
_TITLE = re.compile(r"^(.*)\nPrice: \$([\d.]+)", re.MULTILINE)
_OPTION = re.compile(r"^  \[(clicked )?button\] (.*) \[(?:clicked )?button_\]", re.MULTILINE)
_KINDS = sorted(
    ((kind, category) for category in CATEGORIES for kind in category.kinds), key=lambda entry: -len(entry[0].name)
)
_MOST_PAGES = 3


class Need(NamedTuple):
    """What an instruction asks for. ``limit`` is as it is written, "" if there is none."""

    kind: str
    title_attributes: tuple[str, ...]
    features: tuple[str, ...]
    options: tuple[str, ...]
    limit: str

    @property
    def what(self) -> str:
        """As titles name it."""
        return " ".join((*self.title_attributes, self.kind))

    @property
    def all(self) -> tuple[str, ...]:
        """Everything, in the order in which it is looked at."""
        limit = (f"below {self.limit}",) if self.limit else ()
        return (self.what, *limit, *self.options, *self.features)

    @property
    def queries(self) -> tuple[str, ...]:
        """What to search for, best first. All but the last hold everything that titles name."""
        return (self.what, *(f"{self.what} {value}" for value in self.options), self.kind)

    def in_title(self, title: str) -> bool:
        """Whether a title names all that titles name."""
        return all(_names(title, words) for words in (self.kind, *self.title_attributes))

    def affords(self, price: str) -> bool:
        """Whether a price, as it is written, keeps to the limit."""
        return not self.limit or float(price) <= float(self.limit)


def parse_need(observation: str) -> Need:
    """What a page's instruction asks for. Raises :class:`~empg.errors.DataError` if it names no kind of product."""
    match = _INSTRUCTION.search(observation)
    text = match[1] if match else ""
    found = next(((kind, category) for kind, category in _KINDS if _names(text, kind.name)), None)
    if found is None:
        raise DataError(f"webshop instruction: expected one that names a kind of product, found {text[:200]!r}")
    kind, category = found
    limit = _LIMIT.search(text)
    return Need(
        kind.name,
        tuple(a for a in BY_NAME[category.name].title_attributes if _names(text, a)),
        tuple(a for a in BY_NAME[category.name].feature_attributes if _names(text, a)),
        tuple(value for name in kind.options for value in VALUES[name] if _names(text, value)),
        limit[1] if limit else "",
    )


def _names(text: str, words: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(words)}(?![\w-])", text) is not None


@dataclass(slots=True)
class _Memory:
    """What the expert has read so far.

    ``searched`` counts its own searches; ``missing`` says, per product, what its features lack, "" if nothing;
    ``looked`` holds the products whose page was checked.
    """

    need: Need
    hasty: bool = False
    page: str = ""
    product: str = ""
    sub_page: str = ""
    query: str = ""
    searched: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    looked: set[str] = field(default_factory=set)

    def observe(self, action: str, observation: str) -> None:
        """Take in the page that followed an action, whoever chose it."""
        name, argument = parse_action(action)
        page, came_from = page_of(observation), self.page
        self.page = page
        if name == "search" and argument:
            self.query = argument
            self.searched += argument in self.need.queries
        elif (came_from, page) == ("results", "item"):
            self.product = argument.upper()
        elif (came_from, page) == ("item", "sub-page"):
            self.sub_page = argument
        if page == "sub-page" and self.sub_page == "features":
            text = observation.rpartition("[button_]")[2].lower()
            lacking = next((feature for feature in self.need.features if not _names(text, feature)), "")
            self.missing[self.product] = lacking


def page_of(observation: str) -> str:
    """Which page a ``text_rich`` observation shows: search, results, item or sub-page."""
    if "[button] Search [button_]" in observation:
        return "search"
    if "[button] Buy Now [button_]" in observation:
        return "item"
    return "results" if "(Total results: " in observation else "sub-page"


class Expert:
    """Solves a task by acting on what it reads; make one per episode. A hasty one leaves the options as they are."""

    def __init__(self, *, hasty: bool = False) -> None:
        self._memory: _Memory | None = None
        self._last = ""
        self._hasty = hasty

    def act(self, observation: str) -> Choice:
        """The next (thought, action), given the page that followed the last action, or at first the search page.

        Raises :class:`~empg.errors.DataError` for an instruction that names no kind of product.
        """
        return self.choices(observation)[0]

    def choices(self, observation: str) -> list[Choice]:
        """Every (thought, action) that is as good as another now, the expert's own first. Call once per observation."""
        if self._memory is None:
            self._memory = _Memory(parse_need(observation), hasty=self._hasty)
        self._memory.observe(self._last, observation)
        found = _PAGES[page_of(observation)](self._memory, observation)
        self._last = found[0][1]
        return found

    def played(self, action: str) -> None:
        """Say that this action was played in place of the one that the expert chose."""
        self._last = action


def _on_search(memory: _Memory, observation: str) -> list[Choice]:
    queries = memory.need.queries
    best, last = queries[memory.searched : -1], queries[-1:]
    return [(f"I need {', '.join(memory.need.all)}. Search.", f"search[{query}]") for query in best or last]


def _on_results(memory: _Memory, observation: str) -> list[Choice]:
    """Open the first that has not been opened and whose title fits: near-duplicates stand together."""
    need = memory.need
    fitting = next((id_ for id_, title in NOT_OPENED.findall(observation) if need.in_title(title)), None)
    if fitting is not None:
        which = "next" if "[clicked button] B0" in observation else "first"
        return [(f"Open the {which} one.", f"click[{fitting}]")]
    page = int(observation.partition("\nPage ")[2].partition(" ")[0])
    strayed = memory.query not in need.queries
    if strayed or page >= _MOST_PAGES or "[button] Next > [button_]" not in observation:
        return [(f"I need {need.what}. None is here. Search again.", "click[Back to Search]")]
    return [(f"I need {need.what}. None is here. Next page.", "click[Next >]")]


def _on_item(memory: _Memory, observation: str) -> list[Choice]:
    need, id_ = memory.need, memory.product
    lacking = memory.missing.get(id_)
    if lacking:
        return [("Go back.", "click[< Prev]")]
    seen, fits = _look(need, observation)
    if id_ in memory.looked:
        seen = ""
    memory.looked.add(id_)
    if not fits:
        return [(f"{seen} Go back.".strip(), "click[< Prev]")]
    if need.features and lacking is None:
        return [(f"{seen} {', '.join(need.features)}: read.".strip(), "click[Features]")]
    chosen = [value for clicked, value in _OPTION.findall(observation) if clicked]
    left = [value for value in need.options if value not in chosen]
    if left and not memory.hasty:
        return [(f"{seen} Choose {', '.join(left)}.".strip(), f"click[{left[0]}]")]
    return [(f"{seen} {'' if left else 'All is chosen. '}Buy it.".strip(), "click[Buy Now]")]


def _look(need: Need, observation: str) -> tuple[str, bool]:
    """What an item's page shows of what is needed, up to the first fault, and whether there is none."""
    title, price = _TITLE.findall(observation)[0]
    offered = [value for _, value in _OPTION.findall(observation)]
    checks = [(need.what, need.in_title(title))]
    if need.limit:
        checks.append((f"below {need.limit}: {price}", need.affords(price)))
    checks += [(value, value in offered) for value in need.options]
    seen = []
    for what, fits in checks:
        seen.append(f"{what}: {'yes' if fits else 'no'}.")
        if not fits:
            return " ".join(seen), False
    return " ".join(seen), True


def _on_sub_page(memory: _Memory, observation: str) -> list[Choice]:
    if memory.sub_page != "features" or not memory.need.features:
        return [("I have read this. Go back.", "click[< Prev]")]
    missing = memory.missing[memory.product]
    return [(f"{missing or ', '.join(memory.need.features)}: {'no' if missing else 'yes'}. Go back.", "click[< Prev]")]


_PAGES = {"search": _on_search, "results": _on_results, "item": _on_item, "sub-page": _on_sub_page}
