"""Pages as lists of their visible texts, and how the two observation modes show them.

Upstream renders HTML and reads it back (princeton-nlp/WebShop, web_agent_site/templates and
envs/web_agent_text_env.py); here a page holds what that reading would find.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from empg.environments.webshop.engine import buttons
from empg.environments.webshop.engine.catalogue import Product

PAGE_SIZE = 10


class Kind(Enum):
    """What a text on a page is."""

    TEXT = "text"
    BUTTON = "button"
    PRODUCT = "product"  # a link to a product
    OPTION = "option"  # a value to choose


class Node(NamedTuple):
    """One text on a page; ``option`` is the option's name where the text is one of its values."""

    kind: Kind
    text: str
    option: str = ""


Page = Sequence[Node]


def _text(text: str) -> Node:
    return Node(Kind.TEXT, text)


def _button(text: str) -> Node:
    return Node(Kind.BUTTON, text)


def search_page(instruction: str) -> Page:
    """The first page, the only one with a search bar."""
    return (_text("WebShop"), _text("Instruction: "), _text(instruction), _button(buttons.SEARCH))


def results_page(instruction: str, products: Sequence[Product], page: int) -> Page:
    """One page of the products found; ``page`` counts from 1. Every page links to a next one, which may be empty."""
    nodes = [*_head(instruction), _text(f"Page {page} (Total results: {len(products)})")]
    if page > 1:
        nodes.append(_button(buttons.PREVIOUS))
    nodes.append(_button(buttons.NEXT_PAGE))
    for product in products[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]:
        nodes += (Node(Kind.PRODUCT, product.asin), _text(product.name), _text(product.price_tag))
    return nodes


def item_page(instruction: str, product: Product, *, show_attributes: bool) -> Page:
    """A product with its options."""
    nodes = [*_head(instruction), _button(buttons.PREVIOUS)]
    for name, values in product.options.items():
        nodes.append(_text(name))
        nodes += (Node(Kind.OPTION, value, name) for value in values)
    nodes += (_text(product.name), _text(f"Price: {product.price_tag}"), _text("Rating: N.A."))
    nodes += map(_button, (buttons.DESCRIPTION, buttons.FEATURES, buttons.REVIEWS))
    if show_attributes:
        nodes.append(_button(buttons.ATTRIBUTES))
    return [*nodes, _button(buttons.BUY_NOW)]


def sub_page(instruction: str, product: Product, name: str) -> Page:
    """Description, Features, Reviews (of which upstream's data hold none) or Attributes of a product."""
    nodes = [*_head(instruction), _button(buttons.PREVIOUS)]
    if name == buttons.DESCRIPTION:
        nodes.append(_text(product.description))
    elif name == buttons.FEATURES:
        nodes += (_text(f" {bullet}") for bullet in product.bullets)
    elif name == buttons.ATTRIBUTES:
        nodes += (_text(f" {attribute}") for attribute in product.attributes)
        nodes += map(_text, (product.category, product.query, product.product_category))
    return nodes


def done_page(asin: str, options: Mapping[str, str], reward: float) -> Page:
    """The last page. Upstream fills few of its fields; the others read "None" or nothing."""
    chosen = json.dumps(options, sort_keys=True)
    for character in "<>&'":
        chosen = chosen.replace(character, f"\\u{ord(character):04x}")
    texts = (
        *("Thank you for shopping with us!", "Your code: ", "None", " (Paste it in your MTurk interface.)"),
        *("Purchased", "asin", asin, "options", chosen, "attrs", "None", "category", "None", "query", "None"),
        *("product category", "None", "Target", "asin", "options", "attrs", "price upper", "instuction text"),
        *("category", "product category", "query", "Goal ", "None"),
        *("Reward", "Your score (min 0.0, max 1.0)", str(reward), "Reward Details ", "None"),
    )
    return tuple(map(_text, texts))


def _head(instruction: str) -> tuple[Node, ...]:
    return (_text("Instruction:"), _text(instruction), _button(buttons.BACK_TO_SEARCH))


def clickables(page: Page) -> dict[str, Node]:
    """What can be clicked, by the name that clicks it: buttons and links first, then options.

    Of two with one name the later counts, at the place of the earlier.
    """
    found = {n.text.lower(): n for n in page if n.kind is Kind.BUTTON}
    found |= {n.text.lower(): n for n in page if n.kind is Kind.PRODUCT}
    return found | {n.text: n for n in page if n.kind is Kind.OPTION}


def render_text(page: Page) -> str:
    """Mode "text": the visible texts, joined."""
    return " [SEP] ".join(text.strip() for _, text in _visible(page))


def render_text_rich(page: Page, *, url: str, visited: Collection[str]) -> str:
    """Mode "text_rich": a line for each text, what can be clicked marked.

    An option counts as chosen if it stands in double quotes anywhere in the page's address ``url``, as upstream has it.
    ``visited`` are the asins of the products that were opened.
    """
    lines: list[str] = []
    clicked: list[str] = []
    for node, text in _visible(page):
        if node.kind is Kind.BUTTON:
            lines.append(f"[button] {text} [button_]\n")
        elif node.kind is Kind.OPTION:
            mark = "clicked button" if f'"{text}"' in url else "button"
            lines.append(f"  [{mark}] {text} [{mark}_]\n")
            if mark != "button":
                clicked.append(f"You have clicked {text}.\n")
        elif node.kind is Kind.PRODUCT:
            mark = "clicked button" if text in visited else "button"
            lines.append(f"\n[{mark}] {text} [{mark}_]\n")
        else:
            lines.append(f"{text}\n")
    return "".join((*reversed(clicked), *lines))


def _visible(page: Page) -> Iterable[tuple[Node, str]]:
    """The nodes whose text an HTML parser keeps: white space alone is one space, or nothing if it has a newline."""
    for node in page:
        text = node.text
        if not text.strip(" \n\t\f\r"):
            if not text or "\n" in text:
                continue
            text = " "
        yield node, text
