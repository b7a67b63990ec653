"""The documentation site builds without a warning and holds what docs/ and the docstrings say; pictures are current."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ..conftest import ROOT, module_of

pytestmark = pytest.mark.xdist_group("site")  # one process builds what all these tests read


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr  # not --quiet, which hides warnings from --strict too
    assert done.returncode == 0, said
    assert "WARNING" not in said, said
    return out


def words(page: Path) -> str:
    """A page's HTML without the listings of source code."""
    html = page.read_text(encoding="utf-8")
    return re.sub(r'<details class="mkdocstrings-source">.*?</details>', "", html, flags=re.DOTALL)


def test_every_document_is_a_page(site):
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    documents = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    expected = {re.sub("README$", "index", path.with_suffix("").as_posix()) + ".html" for path in documents}
    assert expected | {"configuration.html", "contributing.html", "changelog.html"} <= pages


def test_every_module_is_in_the_api_reference(site):
    found = {name for page in site.glob("api/*.html") for name in re.findall(r'id="(empg[\w.]*)"', words(page))}
    modules = [path.relative_to(ROOT / "src").with_suffix("") for path in (ROOT / "src/empg").rglob("*.py")]
    names = {".".join(module.parts).removesuffix(".__init__") for module in modules}
    assert names - {"empg.__main__"} <= found
    assert "empg.core.modulation.modulate" in found


def test_pages_ask_nothing_of_the_network(site):
    loaded = r'<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)="?((?:https?:)?//[^"\s>]+)'
    pages = {page.name: re.findall(loaded, page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert {name: addresses for name, addresses in pages.items() if addresses} == {}
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert [
        found for style in styles for found in re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//\S+", style)
    ] == []


def test_roles_in_docstrings_become_links(site):
    assert [page.name for page in site.rglob("*.html") if re.search(r":[a-z]+:(?:`|<code>)", words(page))] == []
    text = words(site / "api/policy.html")
    assert re.search(r'href="[^"]*#empg\.errors\.DataError"', text)


def test_links_to_files_outside_the_site_become_pages_or_text(site):
    deviations = words(site / "deviations.html")
    assert 'href="api/core.html#empg.core.modulation"' in deviations
    assert not re.search(r'href="[^"]*\.(?:py|yaml)"', deviations)
    assert 'href="negative-results.html' in deviations


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Text:\n- a\n  more\n- b", "Text:\n\n- a\n    more\n- b"),
        ("1. a\n   ```sh\n   x\n     y\n   ```\n2. b", "1. a\n    ```sh\n    x\n      y\n    ```\n2. b"),
        ("- a\n\n  1. b\n\nend", "- a\n\n    1. b\n\nend"),
        ("- a\nlazy\n\nend", "- a\n    lazy\n\nend"),
        ("```\n- a\n  b\n```\n- c", "```\n- a\n  b\n```\n\n- c"),
    ],
)
def test_lists_get_the_indentation_that_the_site_wants(written, expected):
    assert "\n".join(line for line, _ in module_of("tools/site.py").outline(written.splitlines())) == expected


def test_the_picture_of_the_pipeline_is_current():
    drawn = module_of("tools/pictures.py").pipeline()
    ElementTree.fromstring(drawn)
    assert drawn == (ROOT / "docs/pictures/pipeline.svg").read_text(encoding="utf-8"), "run `make pictures`"


def test_the_screenshot_is_light_enough_for_a_front_page():
    assert 10_000 < (ROOT / "docs/pictures/report.png").stat().st_size < 300_000


def test_a_missing_report_or_browser_is_named(tmp_path, monkeypatch):
    pictures = module_of("tools/pictures.py")
    with pytest.raises(SystemExit, match=r"found no .*report\.html"):
        pictures.screenshot(tmp_path / "report.html", tmp_path / "report.png")
    (tmp_path / "report.html").write_text("<p>report</p>")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt-get install chromium"):
        pictures.screenshot(tmp_path / "report.html", tmp_path / "report.png")
