"""The browser of these tests notices what they rely on: clicks, complaints, requests, widths, themes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

PAGE = """<!doctype html><meta charset="utf-8"><title>first</title><link rel="icon" href="data:,">
<style>body { margin: 0 } @media (prefers-color-scheme: dark) { body { background: #000 } }</style>
<p id="wide">text</p><details><summary>more</summary>inside</details><a href="second.html#end">on</a>
<script>document.title = innerWidth;</script>"""


def test_a_page_is_opened_and_left_by_a_click(tab: Any, tmp_path: Path) -> None:
    (tmp_path / "first.html").write_text(PAGE)
    (tmp_path / "second.html").write_text("<title>second</title><p id=end>here</p>")
    tab.open(tmp_path / "first.html", width=400, dark=True)
    assert tab.value("document.title") == "400"
    assert tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(0, 0, 0)"
    assert tab.first_paint < 5_000
    tab.click("summary")
    assert tab.value("document.querySelector('details').open") is True
    assert tab.console == []
    assert tab.requests == [(tmp_path / "first.html").as_uri()]
    tab.click("a")
    assert tab.value("location.hash + document.title") == "#endsecond"


def test_complaints_are_heard(tab: Any, tmp_path: Path) -> None:
    policy = "<meta http-equiv=Content-Security-Policy content=\"script-src 'none'\">"
    (tmp_path / "refused.html").write_text(policy + PAGE)
    tab.open(tmp_path / "refused.html")
    assert tab.value("document.title") == "first"
    (complaint,) = tab.console
    assert "Content Security Policy" in complaint
    (tmp_path / "broken.html").write_text("<script>console.warn('hm'); missing();</script><img src=none.png>")
    tab.open(tmp_path / "broken.html")
    said = "\n".join(tab.console)
    assert all(word in said for word in ("hm", "missing is not defined", "ERR_FILE_NOT_FOUND"))


def test_a_covered_element_cannot_be_clicked(tab: Any, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<a href=#x>x</a><div style='position:fixed;inset:0;background:red'></div>")
    tab.open(tmp_path / "page.html")
    with pytest.raises(AssertionError, match="something else lies above"):
        tab.click("a")


def test_without_scripts_a_page_stays_as_it_was_written(tab: Any, tmp_path: Path) -> None:
    (tmp_path / "first.html").write_text(PAGE)
    tab.script(on=False)
    tab.open(tmp_path / "first.html")
    assert tab.value("document.title") == "first"
