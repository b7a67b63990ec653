"""Tests of the integrations that need other libraries than this project's own: `make test-integrations` runs all."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import pytest

from empg.environments.alfworld import expert as alfworld
from empg.environments.base import Expert
from empg.environments.deepsearch import expert as deepsearch
from empg.environments.deepsearch.text import format_step as format_deepsearch
from empg.environments.text import format_step
from empg.environments.webshop import expert as webshop

NEEDS = {"test_gymnasium.py": ("gymnasium",), "test_verifiers.py": ("verifiers",), "test_pages.py": ("gymnasium",)}
MISSING = {file: [name for name in names if not find_spec(name)] for file, names in NEEDS.items()}
collect_ignore = [file for file, names in MISSING.items() if names]


def pytest_report_header() -> list[str]:
    """Say which files are left out, and how they are run."""
    return [
        f"tests/integrations/{file}: left out, needs {', '.join(names)}; `make test-integrations` runs it"
        for file, names in MISSING.items()
        if names
    ]


class Player(NamedTuple):
    """An expert, and how its steps are written as an agent's response."""

    expert: Callable[[], Expert]
    format_step: Callable[[str, str], str]


PLAYERS = {
    "alfworld": Player(alfworld.Expert, format_step),
    "webshop": Player(webshop.Expert, format_step),
    "deepsearch": Player(deepsearch.Expert, format_deepsearch),
}


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A cache of the tests' own, for this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
