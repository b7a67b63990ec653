"""The report as a reader's browser finds it: alone, without a network, every link leading somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from empg.errors import DataError
from empg.study import report

FIGURES = (
    "learning_curves",
    "success",
    "step_entropy",
    "gradient_scale",
    "proposition1",
    "gradient_norm",
    "equal_reward",
)


@pytest.fixture(scope="module")
def study(study_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/STUDY with its report."""
    root = tmp_path_factory.mktemp("report") / "made_up"
    shutil.copytree(study_results, root)
    report.run(root / "config" / "study.json", root, root / "report")
    return root


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    return (study / "report" / "report.html").read_text()


def test_page_needs_no_network_and_no_script(page: str) -> None:
    assert "<script" not in page
    assert not re.search(r"\ssrc=|@import|url\(", page)
    outside = {link for link in re.findall(r'href="([^"]+)"', page) if "://" in link}
    assert outside == {"https://arxiv.org/abs/2509.09265", "https://arxiv.org/abs/2108.13264"}


def test_every_link_leads_to_a_file(study: Path, page: str) -> None:
    links = {link for link in re.findall(r'href="([^"#]+)"', page) if ":" not in link}
    assert len(links) > 40
    assert [link for link in links if not (study / "report" / link).is_file()] == []


def test_numbers_of_the_page_are_those_of_the_tables(study: Path, page: str) -> None:
    table = pl.read_csv(study / "report" / "tables" / "results.csv")
    for value in [*table["success"], *table["warm_start"]]:
        assert f">{100 * value:.1f}\N{NO-BREAK SPACE}%</a>" in page


def test_every_run_has_its_commands(page: str) -> None:
    for method, seed in (("grpo", 1), ("grpo_empg", 2)):
        run = f"results/made_up/alfworld/{method}/seed{seed}"
        assert f"--out {run}/train\n" in page
        assert f"--out {run}/evaluate\nempg audit {run}<" in page
    assert "\nempg audit results/made_up/alfworld/warmstart<" in page


def test_figures_are_there_under_their_names(study: Path, page: str) -> None:
    for name in FIGURES:
        figure = (study / "report" / "figures" / f"{name}.svg").read_text()
        assert figure.startswith("<svg")
        assert page.count(f'<figure id="{name}">') == 1
    assert page.count("<svg") >= len(FIGURES)
    assert "var(--c1)" in page


def test_tables_are_the_same_as_csv_and_parquet(study: Path) -> None:
    files = sorted((study / "report" / "tables").glob("*.parquet"))
    assert len(files) >= 14
    for path in files:
        assert pl.read_csv(path.with_suffix(".csv")).shape == pl.read_parquet(path).shape


def test_report_is_the_same_again(study: Path, page: str) -> None:
    before = (study / "report" / "manifest.json").read_text()
    report.run(study / "config" / "study.json", study, study / "report")
    assert (study / "report" / "report.html").read_text() == page
    assert (study / "report" / "manifest.json").read_text() == before


def test_missing_evaluation_is_named(study_results: Path, tmp_path: Path) -> None:
    root = tmp_path / "made_up"
    shutil.copytree(study_results, root)
    path = root / "alfworld" / "grpo" / "seed2" / "evaluate" / "summary.json"
    path.unlink()
    with pytest.raises(DataError, match=re.escape(str(path))):
        report.run(root / "config" / "study.json", root, root / "report")
    assert not (root / "report" / "report.html").exists()


# Writes what it finds into its own title, which the browser then dumps: the page's own width against the window's, and
# the width of each figure. An iframe has the width asked for; a headless window is never narrower than 500 pixels.
PROBE = """<body style="margin:0">
<iframe id="f" src="report/report.html" style="border:0;width:{width}px;height:900px"></iframe>
<script>addEventListener("load", () => {{
  const page = document.getElementById("f").contentDocument;
  const widths = [...page.querySelectorAll("figure svg")].map(s => Math.round(s.getBoundingClientRect().width));
  document.title = "scroll " + page.documentElement.scrollWidth + " figures " + widths.length + " narrowest " +
    Math.min(...widths) + " widest " + Math.max(...widths);
}});</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_overflows_in_a_browser(study: Path, tmp_path: Path, width: int) -> None:
    (study / "probe.html").write_text(PROBE.format(width=width))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
               "--allow-file-access-from-files", "--enable-logging=stderr", f"--user-data-dir={tmp_path}",
               f"--window-size={max(width, 500)},900", "--dump-dom", (study / "probe.html").as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>scroll (\d+) figures (\d+) narrowest (\d+) widest (\d+)</title>", done.stdout)
    assert found, done.stdout[-500:]
    scroll, figures, narrowest, widest = map(int, found.groups())
    assert scroll <= width
    assert figures >= len(FIGURES)
    assert 250 <= narrowest <= widest <= width
    assert "CONSOLE" not in done.stderr
