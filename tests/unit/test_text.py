"""The agent's text format."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empg.environments.text import format_step, parse_action


def test_a_step_is_written_as_thought_and_action() -> None:
    assert format_step("I need a mug.", "go to shelf 1") == "<think>I need a mug.</think><action>go to shelf 1</action>"


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<think>a</think><action>look</action>", "look"),
        ("<think>a</think> <action> go to shelf 1\n</action> ", "go to shelf 1"),
        ("<action>look</action>", "look"),
        ("<think></think><action>one</action><action>two</action>", "two"),
        ("<think></think><action>one</action><action>cut off", "one"),
        ("<think></think><action>lost <action>look</action>", "look"),
        ("<think><action>in a thought</action></think>", None),
        ("<think><action>in an unfinished thought</action>", None),
        ("<think>a</think>look", None),
        ("<think>a</think><action>cut off", None),
        ("<think>a</think></action>look<action>", None),
        ("<think>a</think><action></action>", ""),
        ("", None),
    ],
)
def test_the_last_whole_action_after_the_thought_counts(text: str, action: str | None) -> None:
    assert parse_action(text) == action


plain = st.text(st.characters(exclude_characters="<>")).map(str.strip)


@settings(derandomize=True, deadline=None)
@given(plain, plain)
def test_parsing_undoes_writing(thought: str, action: str) -> None:
    assert parse_action(format_step(thought, action)) == action


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<action>", "</action>", "look", "\n", "<", "\x00"])).map("".join)
)
def test_any_text_can_be_parsed_and_an_action_holds_no_tags(text: str) -> None:
    action = parse_action(text)
    assert action is None or ("<action>" not in action and "</action>" not in action)
