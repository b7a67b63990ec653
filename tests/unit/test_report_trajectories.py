"""The trajectory pages in a real browser: what they show, that filters work, and that text stays text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from empg.analysis.results import Results
from empg.config import Study, parse, read_yaml
from empg.report import trajectories
from empg.report.page import environment
from empg.schema import CREDITED_STEPS, write_table

Browser = Callable[[Path, int], tuple[str, list[str]]]
HOSTILE = """</p></details><script>document.title = "taken"</script><img src=x onerror="document.title='taken'">
<style>* {display: none}</style> {{ 7 * 7 }} &lt;b&gt; "quoted" 'single' <!-- open ]]>
\N{RIGHT-TO-LEFT OVERRIDE}backwards"""
# Puts what the page shows, before and after each choice of a filter, into its title.
PROBE = """<script>addEventListener("load", () => {
  const texts = (what) => [...document.querySelectorAll(what)].map((e) => e.textContent);
  const choose = (name, value) => { const f = document.forms[0]; f.elements[name].value = value;
    f.dispatchEvent(new Event("change", {bubbles: true}));
    return [...document.querySelectorAll("details.episode:not([hidden])")].map((e) => e.id); };
  const answer = {
    hidden: document.getElementById("filter").hidden, scroll: document.documentElement.scrollWidth,
    observations: texts(".observation"), thoughts: texts(".thought"), actions: texts(".action"),
    foreign: document.querySelectorAll("main img, main style, main script").length,
    solved: choose("solved", "yes"), unsolved: choose("solved", "no"), all: choose("solved", ""),
    invalid: choose("invalid", "yes"), both: choose("type", "look"),
    count: document.getElementById("count").textContent,
  };
  document.title = JSON.stringify(answer);
});</script>"""


@pytest.fixture
def results(study_results: Path, tmp_path: Path) -> Results:
    """A study whose last rollouts a test may write."""
    root = shutil.copytree(study_results, tmp_path / "results" / "made_up")
    path = root / "config" / "study.json"
    return Results(parse(Study, read_yaml(path), str(path)), root)


def _write(results: Results, **columns: pl.Expr) -> pl.DataFrame:
    """Change columns of the last run's last rollouts; the table as written."""
    path = results.rollout_files(results.trained()[-1])[-1]
    table = pl.read_parquet(path).with_columns(**columns).cast(CREDITED_STEPS)
    write_table(table, CREDITED_STEPS, path)
    return table


def _page(results: Results, place: Path) -> Path:
    place.write_text(trajectories.render(results, results.trained()[-1], environment()))
    return place


def _probed(page: Path) -> Path:
    """The page with the probe at its end and without its script policy: escaping alone must keep text as text."""
    text = page.read_text()
    start, end = text.index("<meta http-equiv"), text.index('<meta name="viewport"')
    page.write_text(text[:start] + text[end:] + PROBE)
    return page


def test_hostile_text_stays_text(results: Results, tmp_path: Path, browser: Browser) -> None:
    thought = f"<think>{HOSTILE}</think><action>look</action>"
    written = _write(results, observation=pl.lit(HOSTILE), text=pl.lit(thought), action=pl.lit(HOSTILE))
    title, complaints = browser(_probed(_page(results, tmp_path / "page.html")), 1000)
    found = json.loads(title)
    assert found["observations"] == [HOSTILE] * len(written)
    assert found["thoughts"] == [HOSTILE] * len(written)
    assert {action.split(" invalid")[0] for action in found["actions"]} == {HOSTILE}
    assert found["foreign"] == 0
    assert complaints == []


@pytest.mark.parametrize("width", [400, 1600])
def test_filters_show_what_they_say(results: Results, tmp_path: Path, browser: Browser, width: int) -> None:
    table = pl.read_parquet(results.rollout_files(results.trained()[-1])[-1])
    own = pl.when(pl.col("trajectory") < 8).then(pl.lit("look")).otherwise(pl.lit("pick"))
    table = _write(results, task_type=own, invalid=pl.col("trajectory") % 2 == 1)
    page = _probed(_page(results, tmp_path / "page.html"))
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<body style="margin:0"><iframe src="page.html" style="border:0;width:{width}px;height:900px">'
        "</iframe><script>addEventListener('load', () => document.title = "
        "document.querySelector('iframe').contentDocument.title)</script>"
    )
    title, complaints = browser(frame, width)
    found = json.loads(title)
    episodes = table.group_by("trajectory").agg(pl.col("reward").first()).sort("trajectory")
    ids = {solved: [f"t{i}" for i, r in episodes.iter_rows() if (r == 1.0) == solved] for solved in (True, False)}
    assert page.exists()
    assert found["hidden"] is False
    assert found["scroll"] <= width
    assert sorted(found["solved"]) == sorted(ids[True])
    assert sorted(found["unsolved"]) == sorted(ids[False])
    assert len(found["all"]) == 16
    assert sorted(found["invalid"]) == sorted(f"t{i}" for i in range(1, 16, 2))
    assert sorted(found["both"]) == ["t1", "t3", "t5", "t7"]  # of the type look, with invalid steps
    assert found["count"] == "4 of 16 episodes"
    assert complaints == []


def test_its_own_script_is_all_that_may_run(results: Results, tmp_path: Path, browser: Browser) -> None:
    """With its policy in place the page works, and a script that got in somehow does not run."""
    page = _page(results, tmp_path / "page.html")
    page.write_text(page.read_text() + "<script>document.title = 'taken'</script>")
    title, complaints = browser(page, 1000)
    assert title.startswith("alfworld grpo_empg seed 2")
    (complaint,) = complaints  # about the intruding script and nothing else
    assert "Content Security Policy" in complaint


def test_steps_show_their_credit(results: Results) -> None:
    table = _write(results)
    html = trajectories.render(results, results.trained()[-1], environment())
    row = table.row(0, named=True)
    assert f"<dt>entropy</dt><dd>{row['step_entropy']:.3f}</dd>" in html
    assert f"<dt>scale g</dt><dd>{row['gradient_scale']:.2f}</dd>" in html
    assert f"<dt>bonus f</dt><dd>{row['clarity_bonus']:.2f}</dd>" in html
    assert f"{row['advantage']:+.3f}".replace("-", "−") in html
    assert html.count('class="mark minus"') == (table["advantage"] < 0).sum()


def test_steps_that_were_not_trained_on_have_no_credit(results: Results) -> None:
    credit = [
        name for name in CREDITED_STEPS if name in ("step_entropy", "gradient_scale", "clarity_bonus", "advantage")
    ]
    _write(results, trained=pl.lit(False), **{name: pl.lit(None) for name in [*credit, "outcome_advantage"]})
    html = trajectories.render(results, results.trained()[-1], environment())
    assert "dropped by dynamic sampling" in html
    assert "<dt>entropy</dt><dd>–</dd>" in html


def test_sample_is_whole_groups_and_declared(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    table = _write(results)
    monkeypatch.setattr(trajectories, "EPISODES", 8)
    drawn = trajectories.sample(table, seed=1)
    sizes = drawn.group_by("group").agg(pl.col("trajectory").n_unique())["trajectory"].to_list()
    assert sizes == [4, 4]
    assert drawn.equals(trajectories.sample(table, seed=1))
    assert {tuple(sorted(trajectories.sample(table, seed=s)["group"].unique())) for s in range(20)} != {(0, 1)}


def test_a_page_stays_below_a_megabyte(results: Results) -> None:
    _write(results, observation=pl.lit("<x> " * 2500), text=pl.lit("word " * 2000))  # 20 kB a step
    html = trajectories.render(results, results.trained()[-1], environment())
    assert 300_000 < len(html.encode()) < 1_000_000
