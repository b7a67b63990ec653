"""The text format that agents share: ``<think>…</think><action>…</action>`` (as in ReAct, arXiv 2210.03629)."""

from __future__ import annotations

import re

_ACTION = re.compile(r"<action>((?:(?!</?action>).)*)</action>", re.DOTALL)


def format_step(thought: str, action: str) -> str:
    """One step of an agent as text."""
    return f"<think>{thought}</think><action>{action}</action>"


def parse_action(text: str) -> str | None:
    """The content, stripped, of the last well-formed action after the thought, or None if there is none.

    An action tag inside an unfinished thought does not count; a text without any thought does. Never raises.
    """
    before, closed, after = text.partition("</think>")
    if not closed:
        after = "" if "<think>" in text else before
    actions = _ACTION.findall(after)
    return actions[-1].strip() if actions else None
