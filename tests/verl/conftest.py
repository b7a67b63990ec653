"""Tests of the plug-in for verl, which lives in an environment of its own: `make test-verl` runs them."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("verl") else ["test_plugin.py"]


def pytest_report_header() -> list[str]:
    """Say what is left out, and how it is run."""
    return [f"tests/verl/{file}: left out, needs verl; `make test-verl` runs it" for file in collect_ignore]
