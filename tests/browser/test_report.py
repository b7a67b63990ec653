"""The report in a real browser: three widths, light and dark, with and without its script; and what axe finds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

WIDTHS = (400, 1000, 1600)
PAINT = 1.0  # CPU seconds until the page is loaded and painted; waiting for other processes does not count
AXE = os.environ.get("EMPG_AXE")  # the script of axe-core, which `make test-browser` fetches

FIRST_SCREEN = """(() => {
  const bottom = (selector) => document.querySelector(selector).getBoundingClientRect().bottom;
  return {sentence: bottom("h1"), forest: bottom(".forest"), warnings: bottom(".warnings"), page: innerWidth};
})()"""
# Whatever is wider than the window and not inside something that scrolls by itself.
WIDE = """[...document.querySelectorAll("main *, header *")].filter((e) =>
  e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".wide, nav, pre, svg"))
  .map((e) => e.outerHTML.slice(0, 80))"""
LOST = (
    """[...document.querySelectorAll("a[href^='#']")].filter((a) => !document.getElementById(a.hash.slice(1))).length"""
)
OPEN = "document.querySelectorAll('details').forEach((d) => { d.open = true; }), 1"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_and_complains_of_nothing(tab: Any, study_report: Path, width: int, dark: bool) -> None:
    tab.open(study_report / "report" / "report.html", width=width, dark=dark)
    assert tab.first_paint > 0
    assert tab.thread_seconds < PAINT
    screen = tab.value(FIRST_SCREEN)
    assert screen["sentence"] < screen["forest"] < 900
    assert screen["warnings"] < (900 if width > 900 else 2_000)
    tab.value(OPEN)
    assert tab.value("document.documentElement.scrollWidth <= innerWidth")
    assert tab.value(WIDE) == []
    assert tab.value(LOST) == 0
    assert tab.requests == [(study_report / "report" / "report.html").resolve().as_uri()]
    assert tab.console == []


def test_two_clicks_lead_from_a_number_to_what_was_said(tab: Any, study_report: Path) -> None:
    tab.open(study_report / "report" / "report.html")
    number = "a[href='episodes/alfworld-grpo_empg-seed2-valid_seen-sampled.html']"
    shown = tab.value(f"document.querySelector({number!r}).textContent")
    tab.click(number)
    assert tab.value("document.querySelectorAll('details.episode').length") == 40
    assert shown.strip("% ") in tab.value("document.querySelector('main, body').innerText")
    tab.click("details.episode summary")
    tab.wait_until("!!document.querySelector('details.episode[open] .steps .said')")
    assert tab.console == []


def test_values_are_shown_under_the_pointer(tab: Any, study_report: Path) -> None:
    """Over a learning curve all lines at that iteration; over a bar what it stands for; beside both nothing."""
    tab.open(study_report / "report" / "report.html", width=1000)
    over = (
        "((selector, part) => { const e = document.querySelector(selector), b = e.getBoundingClientRect();"
        " e.dispatchEvent(new PointerEvent('pointermove', {bubbles: true, clientX: b.x + part * b.width,"
        " clientY: b.y + b.height / 2})); const tip = document.getElementById('tip');"
        " return tip.hidden ? '' : tip.textContent; })"
    )
    lines = tab.value(f"{over}('#learning_curves svg', 0.95)").splitlines()
    assert lines[0] == "iteration 3"
    assert [line.partition(":")[0] for line in lines[1:]] == [
        f"{method}, seed {seed}" for method in ("GRPO", "GRPO + EMPG") for seed in (1, 2)
    ]
    assert all(line.endswith("\N{NO-BREAK SPACE}%") for line in lines[1:])
    assert "CPU seconds" in tab.value(f"{over}('#cost .mark-rect path', 0.5)")
    assert tab.value(f"{over}('h1', 0.5)") == ""
    assert tab.console == []


def test_the_page_says_the_same_without_its_script(tab: Any, study_report: Path) -> None:
    text = "document.body.innerText"
    tab.open(study_report / "report" / "report.html")
    with_script = tab.value(text)
    tab.script(False)
    tab.open(study_report / "report" / "report.html")
    assert tab.value(text) == with_script
    assert tab.value("document.querySelector('#tip') === null")


@pytest.mark.skipif(AXE is None, reason="axe-core's script is fetched by `make test-browser`")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(tab: Any, study_report: Path, dark: bool) -> None:
    """All folds open. The inside of a chart is left out: to assistive technology it is one image with a name."""
    tab.open(study_report / "report" / "report.html", width=1000, dark=dark)
    tab.value(OPEN)
    tab.value("document.querySelectorAll('.panels svg').forEach((svg) => svg.replaceChildren()), 1")
    tab.value(Path(str(AXE)).read_text(encoding="utf-8") + "; 1")
    found = tab.value(
        "axe.run({resultTypes: ['violations']}).then((r) => r.violations.map((v) =>"
        " [v.id, v.nodes.length, v.nodes[0].html, v.nodes[0].failureSummary]))"
    )
    assert found == []
