"""The examples of docs/gymnasium.md print what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/gymnasium.md"
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_page_shows_each_environment_in_ten_lines():
    assert [re.findall(r"empg/(\w+)-v0", code) for code, _ in EXAMPLES] == [["ALFWorld"], ["WebShop"], ["DeepSearch"]]
    assert all(len([line for line in code.splitlines() if line]) <= 10 for code, _ in EXAMPLES)


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_an_example_prints_what_the_page_says(code, output):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == output
