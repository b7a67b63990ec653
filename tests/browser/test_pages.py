"""Episodes in Chromium: their lists, their steps, their addresses; and text of the data that stays text."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from empg.analysis.results import Results
from empg.config import Study, parse, read_yaml
from empg.files import write_text
from empg.report import panels, trajectories
from empg.report.addresses import episodes_page, trajectories_page
from empg.report.page import environment
from empg.schema import CREDITED_STEPS, EVALUATED_STEPS, write_table

HOSTILE = """</p></details></script><script>document.title = "taken"</script>
<img src=x onerror="document.title='taken'">
<style>* {display: none}</style> {{ 7 * 7 }} &lt;b&gt; "quoted" 'single' <!-- open ]]> \\u003c
\N{RIGHT-TO-LEFT OVERRIDE}backwards"""
SHOWN = "[...document.querySelectorAll('details.episode:not([hidden])')].map((e) => e.id)"
COUNT = "document.getElementById('count').textContent"
LIST = episodes_page("alfworld", "grpo_empg-seed2", "valid_seen", "sampled")


@pytest.fixture
def results(study_results: Path, tmp_path: Path) -> Results:
    """A study whose files a test may write."""
    root = shutil.copytree(study_results, tmp_path / "results" / "made_up")
    path = root / "config" / "study.json"
    return Results(parse(Study, read_yaml(path), str(path)), root)


def written(results: Results) -> Path:
    """The folder of a report of the last run's pages, and of every panel's table."""
    report, run = results.root / "report", results.trained()[-1]
    (report / "episodes").mkdir(parents=True)
    panels.write_lists(results, run, report / "episodes", environment())
    panels.write_tables(results, report / "episodes", environment())
    write_text(report / trajectories_page(**run.key), trajectories.render(results, run, environment()))
    return report


def changed(results: Results, **columns: pl.Expr) -> pl.DataFrame:
    """Change columns of the last run's last rollouts; the table as written."""
    path = results.rollout_files(results.trained()[-1])[-1]
    table = pl.read_parquet(path).with_columns(**columns).cast(CREDITED_STEPS)  # type: ignore[arg-type]
    write_table(table, CREDITED_STEPS, path)
    return table


def choose(tab: Any, name: str, value: str) -> list[str]:
    """The episodes that are shown after a choice in the filter."""
    tab.value(f"{COUNT} = '…'")
    tab.value(
        f"(() => {{ const e = document.forms[0].elements[{name!r}]; e.value = {value!r};"
        " e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    tab.wait_until(f"{COUNT} !== '…'")
    return list(tab.value(SHOWN))


@pytest.mark.parametrize("width", [400, 1000, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_pages_fit_and_do_not_complain(results: Results, tab: Any, width: int, dark: bool) -> None:
    report, run = written(results), results.trained()[-1]
    table = episodes_page("alfworld", None, "valid_seen", "sampled")
    for page in (LIST, table, trajectories_page(**run.key)):
        tab.open(report / page, width=width, dark=dark)
        assert tab.value("document.documentElement.scrollWidth") <= width
        assert tab.console == []
        assert tab.requests == [(report / page).as_uri()]


def test_a_mark_of_the_table_leads_to_the_steps(results: Results, tab: Any) -> None:
    report = written(results)
    tab.open(report / episodes_page("alfworld", None, "valid_seen", "sampled"))
    tab.click(f"#task-7 a[href='{Path(LIST).name}#task-7']")
    tab.wait_until("!!document.querySelector('#task-7[open] .steps')")
    steps = pl.read_parquet(results.trained()[-1].evaluate / "steps.parquet")
    steps = steps.filter(split="valid_seen", mode="sampled", task=7)
    for name, column in (("observation", "observation"), ("said", "text")):
        shown = f"[...document.querySelectorAll('#task-7 .{name}')].map((e) => e.textContent)"
        assert tab.value(shown) == steps[column].to_list()
    marks = tab.value("document.querySelectorAll('#task-7 mark').length")
    assert marks > 0
    assert tab.console == []


def test_an_address_opens_its_episode_and_an_open_episode_has_it(results: Results, tab: Any) -> None:
    report = written(results)
    tab.open(report / LIST, "task-31")
    tab.wait_until("!!document.querySelector('#task-31[open] .steps')")
    tab.click("#task-2 summary")
    tab.wait_until("location.hash === '#task-2'")


def test_filters_and_search_show_what_they_say(results: Results, tab: Any) -> None:
    run = results.trained()[-1]
    path = run.evaluate / "steps.parquet"
    found = pl.when(pl.col("task").is_in([3, 5])).then(pl.lit("a Golden <b>key</b>")).otherwise(pl.col("observation"))
    steps = pl.read_parquet(path).with_columns(observation=found)
    write_table(steps, EVALUATED_STEPS, path)
    rows = pl.read_parquet(run.evaluate / "episodes.parquet").filter(split="valid_seen", mode="sampled")
    solved = {f"task-{task}" for task in rows.filter("success")["task"]}
    tab.open(written(results) / LIST)
    assert len(tab.value(SHOWN)) == 40
    assert set(choose(tab, "solved", "yes")) == solved
    assert tab.value(COUNT) == f"{len(solved)} of 40 episodes"
    assert set(choose(tab, "type", "look_at_obj_in_light")) == {i for i in solved if int(i[5:]) % 2 == 0}
    choose(tab, "type", "")
    assert set(choose(tab, "solved", "")) == {f"task-{task}" for task in rows["task"]}
    assert set(choose(tab, "ended", "step limit")) == {f"task-{task}" for task in rows["task"]} - solved
    choose(tab, "ended", "")
    assert choose(tab, "text", " golden <B>KEY ") == ["task-3", "task-5"]
    assert choose(tab, "text", "golden key") == []


def test_training_groups_are_filtered_whole(results: Results, tab: Any) -> None:
    changed(results, invalid=pl.col("trajectory") == 5)
    tab.open(written(results) / trajectories_page(**results.trained()[-1].key))
    assert tab.value("document.querySelectorAll('section:not([hidden])').length") == 4
    assert choose(tab, "invalid", "yes") == ["task-1-1"]
    assert tab.value("document.querySelectorAll('section:not([hidden])').length") == 1


def test_without_scripts_a_declared_sample_is_readable(results: Results, tab: Any) -> None:
    report = written(results)
    tab.script(on=False)
    for page in (LIST, trajectories_page(**results.trained()[-1].key)):
        tab.open(report / page)
        assert tab.value("document.getElementById('filter').hidden") is True
        said = tab.value("document.querySelectorAll('details.episode .steps').length")
        assert said == tab.value("document.querySelectorAll('.here').length") == 12
        assert tab.value("document.querySelectorAll('details.episode summary').length") in (16, 40)


def test_hostile_text_stays_text_and_runs_nothing(results: Results, tab: Any) -> None:
    run = results.trained()[-1]
    thought = f"<think>{HOSTILE}</think><action>look</action>"
    hostile = {"observation": pl.lit(HOSTILE), "text": pl.lit(thought), "action": pl.lit(HOSTILE)}
    changed(results, **hostile, task_type=pl.lit(HOSTILE))
    path = run.evaluate / "steps.parquet"
    write_table(pl.read_parquet(path).with_columns(**hostile), EVALUATED_STEPS, path)
    report = written(results)
    for page in (report / LIST, report / trajectories_page(**run.key)):
        for guarded in (True, False):  # without the policy, escaping alone must keep text as text
            if not guarded:
                text = page.read_text()
                start, end = text.index("<meta http-equiv"), text.index('<meta name="viewport"')
                page.write_text(text[:start] + text[end:])
            tab.open(page)
            tab.value("(async () => { for (const e of episodes) { await fill(e); e.open = true; } })()")
            assert tab.value("document.querySelectorAll('main img, main style, main script').length") == 0
            count = tab.value("document.querySelectorAll('.steps li').length")
            for name, expected in (("observation", HOSTILE), ("said", thought)):
                shown = f"[...document.querySelectorAll('.steps .{name}')].map((e) => e.textContent)"
                assert tab.value(shown) == [expected] * count
            assert choose(tab, "text", "<img src=x") == tab.value("episodes.map((e) => e.id)")
            assert tab.value("document.title") != "taken"
            assert tab.console == []


def test_its_own_script_is_all_that_may_run(results: Results, tab: Any) -> None:
    report = written(results)
    for page in (report / LIST, report / trajectories_page(**results.trained()[-1].key)):
        page.write_text(page.read_text() + "<script>document.title = 'taken'</script><img src=x onerror=boom()>")
        tab.open(page)
        assert tab.value("document.title").startswith("alfworld grpo_empg seed 2")
        assert all("Content Security Policy" in complaint for complaint in tab.console)
        assert len(tab.console) >= 2  # about the script and the picture
