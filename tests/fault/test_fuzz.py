"""Every reader of foreign bytes either understands them or refuses them with its documented error.

A few inputs each; `make fuzz` gives them 10⁵ and writes docs/fuzz.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .damage import damage, talk
from .readers import READERS


@pytest.mark.parametrize("name", READERS)
def test_a_reader_refuses_what_it_does_not_understand(name: str, tmp_path: Path) -> None:
    assert damage(READERS[name](), tmp_path, 12, fixed=True).inputs >= 12


@pytest.mark.parametrize("name", ["alfworld", "webshop", "deepsearch"])
def test_no_text_of_an_agent_crashes_an_environment(name: str, tmp_path: Path) -> None:
    assert talk(name, tmp_path, 48, fixed=True).inputs >= 48
