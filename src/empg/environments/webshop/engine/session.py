"""One visit to the shop: which page is open, what is chosen, and what an action does.

The order of the rules and the reading of the page's address are upstream's (princeton-nlp/WebShop,
web_agent_site/envs/web_agent_text_env.py). They decide what a click does where names collide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from empg.environments.base import StepResult
from empg.environments.webshop.engine import buttons, pages
from empg.environments.webshop.engine.catalogue import Product
from empg.environments.webshop.engine.goals import Goal
from empg.environments.webshop.engine.pages import Kind, Node, Page
from empg.environments.webshop.engine.score import Score
from empg.errors import EnvironmentStateError

Mode = Literal["text", "text_rich"]

_ADDRESS = "http://127.0.0.1:3000"
_RESULTS, _ITEM, _SUB_PAGE = "search_results", "item_page", "item_sub_page"
_SUB_PAGES = {name.lower(): name for name in buttons.SUB_PAGES}


class Storefront(Protocol):
    """What a session asks of its shop."""

    @property
    def show_attributes(self) -> bool:
        """Whether item pages have the button "Attributes"."""
        ...

    @property
    def by_asin(self) -> Mapping[str, Product]:
        """The products by their ids."""
        ...

    def find(self, keywords: Sequence[str]) -> Sequence[Product]:
        """The products that a search finds, best first."""
        ...

    def score(self, product: Product, goal: Goal, options: Mapping[str, str]) -> Score:
        """The score of buying the product with these options."""
        ...


def parse_action(action: str) -> tuple[str, str]:
    """(name, lower-cased argument) of text such as "search[red shoes]"; the argument is "" if there is none.

    Equal to ``re.match(r"(.+)\\[(.+)\\]", action)``, in linear time: of the first line, what stands between the last
    bracket that opens and the last that closes; what follows does not count.
    """
    line = action.partition("\n")[0]
    closing = line.rfind("]")
    opening = line.rfind("[", 1, max(closing - 1, 0))
    if opening < 1:
        return action, ""
    return line[:opening], line[opening + 1 : closing].lower()


class Session:
    """One episode at a time with one goal; :meth:`reset` starts it.

    Attributes:
        goal: what is to be bought.
        score: the score with its parts, None until something was bought.
        asin, options: the product that is open, or was bought, and what is chosen of its options.
    """

    __slots__ = (
        *("asin", "goal", "mode", "options", "score"),
        *("_address", "_found", "_keywords", "_number", "_page", "_shop", "_visited"),
    )

    def __init__(self, shop: Storefront, goal: Goal, mode: Mode) -> None:
        self._shop, self.goal, self.mode = shop, goal, mode
        self.score: Score | None = None
        self._page: Page = ()
        self._forget()

    def _forget(self) -> None:
        """Go back to the state of the search page."""
        self.asin: str | None = None
        self.options: dict[str, str] = {}
        self._keywords: list[str] = []
        self._found: Sequence[Product] = ()
        self._number = 1
        self._visited: set[str] = set()
        self._address = _ADDRESS

    def reset(self) -> str:
        """Start over and return the first observation, which holds the instruction."""
        self.score = None
        self._open_search()
        return self.observation

    def step(self, action: str | None) -> StepResult:
        """Play ``search[…]``, on any page, or ``click[…]``; anything else, or None, changes nothing and is invalid.

        The reward is the score of the purchase that ends the episode, 0.0 before. Raises
        :class:`~empg.errors.EnvironmentStateError` before the first reset and after the purchase, and nothing else.
        """
        if not self._page or self.score is not None:
            raise EnvironmentStateError("webshop: expected reset() before step(), found no episode in progress")
        name, argument = parse_action(action or "")
        clickable = pages.clickables(self._page).get(argument) if name == "click" else None
        invalid = False
        if name == "search" and argument:
            self._search(argument.split(" "))
        elif clickable is not None and argument not in ("", "search"):
            self._click(argument, clickable)
        else:
            invalid = True
        reward = 0.0 if self.score is None else self.score.total
        return StepResult(self.observation, reward, self.score is not None, invalid)

    @property
    def observation(self) -> str:
        """The open page in this session's mode; "" before the first reset."""
        if self.mode == "text":
            return pages.render_text(self._page)
        return pages.render_text_rich(self._page, url=self._address, visited=self._visited)

    @property
    def available_actions(self) -> dict[str, Any]:
        """``has_search_bar``, and ``clickables``: the names that ``click[…]`` takes. A search is possible everywhere.

        The search page lists "search", as upstream's does, although clicking it does nothing.
        """
        is_search_page = bool(self._page) and self._page[-1].text == buttons.SEARCH
        return {"has_search_bar": is_search_page, "clickables": list(pages.clickables(self._page))}

    def _search(self, keywords: list[str]) -> None:
        self._keywords, self._found = keywords, self._shop.find(keywords)
        self._open_results(1)

    def _click(self, name: str, clickable: Node) -> None:
        page = self._page_name()
        is_next, is_previous = name == buttons.NEXT_PAGE.lower(), name == buttons.PREVIOUS.lower()
        if name == buttons.BUY_NOW.lower():
            self._buy()
        elif name == buttons.BACK_TO_SEARCH.lower():
            self._open_search()
        elif page == _RESULTS and (is_next or is_previous):
            self._open_results(self._number + (1 if is_next else -1))
        elif page == _ITEM and is_previous:
            self._open_results(self._number)
        elif name in _SUB_PAGES and not is_previous:
            self._open_sub_page(_SUB_PAGES[name])
        else:
            self._open_item(name, clickable)

    def _page_name(self) -> str:
        """The kind of page, as upstream reads it: the first of the names in the address, even one in the keywords."""
        return next((name for name in (_RESULTS, _ITEM, _SUB_PAGE) if name in self._address), "")

    def _open_search(self) -> None:
        self._forget()
        self._page = pages.search_page(self.goal.instruction)

    def _open_results(self, number: int) -> None:
        self.asin, self.options, self._number = None, {}, number
        self._address = self._address_of(_RESULTS, "+".join(self._keywords), number)
        self._page = pages.results_page(self.goal.instruction, self._found, number)

    def _open_item(self, name: str, clickable: Node) -> None:
        if clickable.kind is Kind.PRODUCT:
            self.asin = clickable.text
            self._visited.add(self.asin)
        elif clickable.kind is Kind.OPTION:
            self.options[clickable.option] = name
        chosen = json.dumps(self.options)
        self._address = self._address_of(_ITEM, self.asin, "+".join(self._keywords), self._number, chosen)
        shown = self._shop.show_attributes
        self._page = pages.item_page(self.goal.instruction, self._product(), show_attributes=shown)

    def _open_sub_page(self, name: str) -> None:
        keywords = "+".join(self._keywords)
        self._address = self._address_of(_SUB_PAGE, self.asin, keywords, self._number, name, self.options)
        self._page = pages.sub_page(self.goal.instruction, self._product(), name)

    def _buy(self) -> None:
        product = self._product()
        self.score = self._shop.score(product, self.goal, self.options)
        self._page = pages.done_page(product.asin, self.options, self.score.total)

    def _product(self) -> Product:
        """The open product. Only item pages lead to the callers of this, so there is one."""
        assert self.asin is not None
        return self._shop.by_asin[self.asin]

    @staticmethod
    def _address_of(*parts: object) -> str:
        return "/".join((_ADDRESS, *map(str, parts)))
