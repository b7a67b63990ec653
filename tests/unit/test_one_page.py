"""``examples/one_page.py`` is what it says: the whole algorithm, on torch and ``empg.core`` alone, and it learns."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("one_page")

FILE = Path(__file__).parents[2] / "examples" / "one_page.py"
CHANCE = 1 / 64


@pytest.fixture(scope="module")
def printed() -> str:
    done = subprocess.run([sys.executable, str(FILE)], capture_output=True, text=True, check=True)
    return done.stdout


def test_it_learns(printed):
    """The first batch's 128 episodes succeed by chance, 1 in 64; at the end nearly all of them do."""
    course = [float(percent) / 100 for percent in re.findall(r"success +([0-9.]+)%", printed)]
    assert course[0] < 4 * CHANCE
    assert max(course[:2]) < 0.25
    assert min(course[-2:]) > 0.95


def test_its_entropy_falls(printed):
    entropy = [float(nats) for nats in re.findall(r"step entropy ([0-9.]+) nats", printed)]
    assert entropy[0] > 1.2  # log 4 is 1.39
    assert entropy[-1] < 0.3


def test_it_imports_torch_and_the_core_alone():
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name for name in modules if not name.startswith("empg.core.")} == {"__future__", "torch"}


def test_it_fits_on_a_page():
    assert len(FILE.read_text(encoding="utf-8").splitlines()) < 120
