"""The agent's tags and the blocks that answer them.

The tags are those of Search-R1 (arXiv 2503.09516): ``<think>``, ``<search>``, ``<answer>``, ``<information>``; and
``<access>`` opens a page by its title. An action is its tagged text, as ``<search>capital of Peru</search>``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

ACTIONS = ("search", "access", "answer")
_TAG = re.compile(r"<(/?)(think|information|search|access|answer)>")
_ANY_TAG = re.compile(r"<(\s*/?\s*(?:think|information|search|access|answer)\b[^<>\n]*)>", re.IGNORECASE)
_CUT = " …"


def format_step(thought: str, action: str) -> str:
    """One step of an agent as text; the action is already tagged."""
    return f"<think>{thought}</think>{action}"


def format_action(name: str, content: str) -> str:
    """An action in its canonical form."""
    return f"<{name}>{content.strip()}</{name}>"


def parse_action(text: str) -> str | None:
    """The last well-formed action after the thought, in its canonical form, or None if there is none.

    An action is an opening tag, content that is not blank and holds no tag, and the closing tag. Within an unfinished
    thought, and within an information block that the agent imitates, nothing is an action. Never raises.
    """
    before, closed, after = text.partition("</think>")
    if not closed:
        after = "" if "<think>" in text else before
    action, inside = None, ""
    for tag, following in pairwise([*_TAG.finditer(after), None]):
        assert tag is not None  # only the last item is None
        closing, name = tag.groups()
        if name not in ACTIONS and not closing:
            inside = inside or name
        elif name == inside:
            inside = ""
        elif not inside and not closing and following is not None and following.groups() == ("/", name):
            content = after[tag.end() : following.start()].strip()
            action = format_action(name, content) if content else action
    return action


def split_action(action: str) -> tuple[str, str] | None:
    """The name and the content of an action in its canonical form, or None if it is not one."""
    if parse_action(action) != action:
        return None
    name = action[1 : action.index(">")]
    return name, action[len(name) + 2 : -len(name) - 3]


def inert(text: str) -> str:
    """Text from outside on one line, its tags in brackets instead: ``</information>`` becomes ``[/information]``.

    No tag that an agent or this module writes is left, in any case and spacing, nor is one made by the replacement.
    """
    return _ANY_TAG.sub(r"[\1]", " ".join(text.split()))


def information(documents: Sequence[tuple[str, str]], max_chars: int) -> str:
    """A block with one line ``Doc i(Title: …) text`` for each (title, text), of at most ``max_chars`` without its tags.

    A document may use its share of what those before it left; what is cut ends in " …". Every document keeps a line.
    """
    lines: list[str] = []
    left = max_chars - (len(documents) - 1)
    for place, (title, text) in enumerate(documents, 1):
        line = _cut(f"Doc {place}(Title: {inert(title)}) {inert(text)}".rstrip(), left // (len(documents) - place + 1))
        lines.append(line)
        left -= len(line)
    return "<information>" + "\n".join(lines) + "</information>"


def _cut(line: str, limit: int) -> str:
    if len(line) <= limit:
        return line
    kept = line[: max(limit - len(_CUT), 0)]
    return (kept.rpartition(" ")[0] or kept) + _CUT
