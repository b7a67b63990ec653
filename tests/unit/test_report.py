"""The report in a browser without a network: its links, numbers, figures and tables; and the published page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from empg.config import Study, parse, read_yaml
from empg.errors import DataError
from empg.files import read_json, write_json, write_text
from empg.report import publish
from empg.report.addresses import episodes_page, run_name
from empg.report.captions import CAPTIONS
from empg.report.overview import comparisons
from empg.report.page import environment
from empg.report.page import run as write_report

pytestmark = pytest.mark.xdist_group("made_up")

FIGURES = [name for name in CAPTIONS if name != "sensitivity"]  # the study has no grid of settings


@pytest.fixture(name="study")
def _study(study_report: Path) -> Path:
    return study_report


@pytest.fixture
def page(study: Path) -> str:
    return (study / "report" / "report.html").read_text()


def test_page_needs_no_network(page: str) -> None:
    assert page.count("<script>") == page.count("<script") == 1
    assert not re.search(r"\ssrc=|@import|url\(", page)
    outside = {link for link in re.findall(r'href="([^"]+)"', page) if "://" in link}
    assert outside == {"https://arxiv.org/abs/2509.09265", "https://arxiv.org/abs/2108.13264"}


def test_every_link_leads_to_a_file(study: Path, page: str) -> None:
    links = {link for link in re.findall(r'href="([^"#]+)"', page) if ":" not in link}
    assert len(links) > 40
    assert [link for link in links if not (study / "report" / link).is_file()] == []


def test_each_success_leads_to_its_episodes(study: Path, page: str) -> None:
    """Two seeds: every run of a method by itself, under what people call it, with its own list of episodes."""
    table = pl.read_csv(study / "report" / "tables" / "panels.csv")
    numbers = page[page.index('aria-label="success of every policy"') :].partition("</table>")[0]
    assert re.findall("<th>([^<]+)</th>", numbers) == ["success", "tasks", "warm start", "GRPO", "GRPO + EMPG"]
    for row in table.iter_rows(named=True):
        address = episodes_page("alfworld", run_name(row["method"], row["seed"]), row["split"], row["mode"])
        assert f'<a href="{address}">{100 * row["success"]:.1f}\N{NO-BREAK SPACE}%</a>' in numbers
    assert len(table) == numbers.count("<b>") == 20


def test_no_interval_over_two_seeds_is_printed(study: Path, page: str) -> None:
    assert "one by one" in page
    assert not re.search(
        "Student|interval for other seeds|other seeds and tasks",
        re.sub("<figcaption>.*?</figcaption>", "", page, flags=re.S),
    )
    for name in ("results", "stability", "entropy_change", "aggregates"):
        table = pl.read_parquet(study / "report" / "tables" / f"{name}.parquet")
        over_tasks = ("difference_tasks_low", "difference_low") if name == "results" else ()
        lows = [column for column in table.columns if column.endswith("low") and column not in over_tasks]
        assert lows
        assert table.select(lows).null_count().row(0) == (len(table),) * len(lows)


def test_the_first_screen_compares_both_decodings_on_one_axis(page: str) -> None:
    forest = page[page.index('<table class="forest">') :].partition("</table>")[0]
    lines = re.findall(r'<svg role="img" aria-label="alfworld ([^"]+)"', forest)
    assert len(lines) == 8
    assert lines[0].startswith("valid_seen, sampled, seed 1: GRPO + EMPG minus GRPO ")
    assert {line.split(", ")[1] for line in lines} == {"sampled", "greedy"}
    assert len(set(re.findall(r'<line class="zero" x1="([^"]+)"', forest))) == 1
    assert "This study could have detected" in page
    assert "made up, AVX2" in page


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
        assert page.count(f'<div id="{name}">' if name == "difference" else f'<figure id="{name}"') == 1
    assert page.count("<svg") >= len(FIGURES)
    assert "var(--c1)" in page


def test_tables_are_the_same_as_csv_and_parquet(study: Path) -> None:
    files = sorted((study / "report" / "tables").glob("*.parquet"))
    assert len(files) >= 20
    for path in files:
        assert pl.read_csv(path.with_suffix(".csv")).shape == pl.read_parquet(path).shape


def test_report_is_the_same_again(study: Path, page: str) -> None:
    before = (study / "report" / "manifest.json").read_text()
    write_report(study / "config" / "study.json", study, study / "report")
    assert (study / "report" / "report.html").read_text() == page
    assert (study / "report" / "manifest.json").read_text() == before


def test_missing_evaluation_is_named(study_results: Path, tmp_path: Path) -> None:
    root = tmp_path / "made_up"
    shutil.copytree(study_results, root)
    path = root / "alfworld" / "grpo" / "seed2" / "evaluate" / "summary.json"
    path.unlink()
    with pytest.raises(DataError, match=re.escape(str(path))):
        write_report(root / "config" / "study.json", root, root / "report")
    assert not (root / "report" / "report.html").exists()


def test_one_method_and_one_seed_are_enough(study_results: Path, tmp_path: Path) -> None:
    """Nothing to compare with, no interval over seeds: such numbers are left out, not made up."""
    given = read_yaml(study_results / "config" / "study.json")
    methods = {"grpo": given["methods"]["grpo"]}
    write_json(tmp_path / "study.json", given | {"methods": methods, "seeds": [1]})
    write_report(tmp_path / "study.json", study_results, tmp_path / "report")
    table = pl.read_parquet(tmp_path / "report" / "tables" / "results.parquet")
    assert table.select("low", "high", "difference").null_count().row(0) == (4, 4, 4)
    panel = read_json(tmp_path / "report" / "metrics.json")["alfworld"]["valid_seen"]["sampled"]["grpo"]
    assert set(panel) == {"success", "lift", "interquartile_mean"}
    assert not (tmp_path / "report" / "figures" / "difference.svg").exists()


def test_a_pool_is_reported_and_published(study_results: Path, tmp_path: Path) -> None:
    """Two environments that differ in their warm start: verdict, comparisons and published page speak of the pool."""
    root = tmp_path / "made_up"
    shutil.copytree(study_results, root)
    shutil.copytree(root / "alfworld", root / "again")
    given = read_yaml(study_results / "config" / "study.json")
    both = dict.fromkeys(("alfworld", "again"), given["environments"]["alfworld"] | {"data": "alfworld"})
    given |= {"environments": both, "pools": {"rooms": [*both]}}
    write_json(root / "config" / "study.json", given)
    write_report(root / "config" / "study.json", root, root / "report")
    verdict = pl.read_parquet(root / "report" / "tables" / "verdict.parquet")
    assert set(verdict["environment"]) == {"rooms", "all"}
    assert set(verdict["seeds"]) == {4}
    text = (root / "report" / "report.html").read_text(encoding="utf-8")
    assert "4 seeds a method" in text
    publish.run(root, tmp_path / "out")
    published = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "rooms valid_seen" in published
    assert "\n## rooms\n" in published
    assert "\n## alfworld\n" not in published
    tables = {name: pl.read_parquet(root / "report" / "tables" / f"{name}.parquet") for name in ("pools", "results")}
    pool, member = tables["pools"], tables["results"].filter(environment="alfworld")
    assert set(pool["environment"]) == {"rooms"}
    assert pool["seeds"].unique().to_list() == [4]
    for name in ("success", "warm_start", "lift", "difference"):  # the second is a copy of the first
        assert pool[name].to_list() == pytest.approx(member[name].to_list())
    shown = comparisons(parse(Study, given, "test"), tables)
    assert set(shown["environment"]) == {"rooms"}
    assert shown["outer_low"].null_count() == 0


def test_every_figure_says_how_it_was_made_and_links_to_its_data(page: str) -> None:
    for name in FIGURES[1:]:  # the first, of differences, is drawn as a table
        figure = page[page.index(f'<figure id="{name}"') :].partition("</figure>")[0]
        assert len(re.sub("<[^>]+>", "", figure.partition("<figcaption>")[2])) > 100
        assert re.search(r'href="tables/\w+\.csv".*href="tables/\w+\.parquet"', figure)
        assert f'href="figures/{name}.svg"' in figure


def test_sections_stand_in_the_order_of_their_captions(page: str) -> None:
    sections = list(dict.fromkeys(caption.section for name, caption in CAPTIONS.items() if name in FIGURES))
    assert re.findall(r"<h2 id[^>]*>([^<]+)</h2>", page) == [*sections, "Runs and files"]


def _aggregates(seeds: int) -> str:
    """The section of a study of two environments, as text: a row of one panel, and one over both."""
    bounds = {
        f"{name}_{end}": None if seeds < 3 else value
        for name in ("success", "interquartile_mean", "difference", "improvement")
        for end, value in (("low", 0.25), ("high", 0.75))
    }
    values = {"success": 0.512, "interquartile_mean": 0.623, "difference": 0.034, "improvement": 0.545}
    row = {"split": "valid_seen", "mode": "greedy", "method": "grpo_empg", "seeds": seeds, **values, **bounds}
    rows = [{"environment": "alfworld", **row}, {"environment": "all", **row, "split": "all"}]
    methods = {"grpo": {"advantage": "grpo"}, "grpo_empg": {"advantage": "grpo", "modulation": "empg"}}
    names = ["alfworld", "webshop"]
    given = {"environments": {name: {} for name in names}, "methods": methods, "seeds": list(range(seeds))}
    html = (
        environment()
        .get_template("section_results.html.j2")
        .render(
            study=parse(Study, given, "test"),
            environments=[{"name": name, "panels": []} for name in names],
            statistics={"aggregates": rows},
            few=seeds < 3,
            bases={"grpo_empg": "grpo"},
            base_name="grpo",
        )
    )
    table = html[html.index("<tbody>") : html.index("</tbody>")].replace("\N{NO-BREAK SPACE}", " ")
    return re.sub(r"\s+", " ", re.sub(r"</td>", "|", re.sub(r"<(?!/td)[^>]+>", "", table)))


def test_aggregates_have_intervals_from_three_seeds_on() -> None:
    interval = "(25.0 % to 75.0 %)"
    text = _aggregates(3)
    assert text.strip().startswith("alfworld, valid_seen, greedy|grpo_empg|3|")
    assert "all panels, greedy|grpo_empg|3|" in text
    for value in ("51.2 %", "62.3 %", "54.5 %"):
        assert text.count(f"{value} {interval}") == 2
    assert text.count("+3.4 (+25.0 to +75.0)") == 2


def test_aggregates_of_two_seeds_say_nothing_twice() -> None:
    """Success and difference of a panel are in the tables above. Those over all environments are only here."""
    text = _aggregates(2)
    assert " to " not in text
    assert (text.count("62.3 %"), text.count("51.2 %"), text.count("+3.4")) == (2, 1, 1)


def test_published_results_have_their_numbers_and_files(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "docs" / "results" / "made_up"
    (out / "tables").mkdir(parents=True)
    (out / "tables" / "old.csv").touch()
    with pytest.raises(DataError, match="expected a new folder or a published page"):
        publish.run(study, out)
    with pytest.raises(DataError, match="expected a folder that does not hold the results"):
        publish.run(study, study.parent)
    (out / "study.json").touch()
    publish.run(study, out)
    text = (out / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 30
    assert [link for link in links if not (out / link).is_file()] == []
    assert not (out / "tables" / "old.csv").exists()
    assert read_json(out / "study.json") == read_json(study / "config" / "study.json")
    table = pl.read_csv(study / "report" / "tables" / "results.csv")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("|  | GRPO + EMPG |")]
    assert text.count("| cooled warm start, temperature 0.5 | 1 | 43.2 |") == 2
    compared = table.filter(method="grpo_empg")
    assert [row[3] for row in rows] == [f"{100 * value:.1f}" for value in compared["success"]]
    assert [row[6] for row in rows] == [f"{100 * d:+.1f} to GRPO".replace("-", "−") for d in compared["difference"]]
    assert "For these 2 runs of each method only: GRPO + EMPG is" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {9}


def test_a_search_is_published_with_the_rest(study: Path, tmp_path: Path) -> None:
    search = study.parent / "tune" / study.name
    for name in ("README.md", "tables/trials.csv", "figures/history.svg", "optuna.db"):
        (search / name).parent.mkdir(parents=True, exist_ok=True)
        (search / name).write_text(name)
    publish.run(study, tmp_path / "out")
    assert "[the search](search/README.md)" in (tmp_path / "out" / "README.md").read_text()
    found = {str(path.relative_to(tmp_path / "out" / "search")) for path in (tmp_path / "out" / "search").rglob("*.*")}
    assert found == {"README.md", "tables/trials.csv", "figures/history.svg"}
    shutil.rmtree(search)


def test_large_tables_are_named_and_left_out(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "LARGEST", 1000)
    publish.run(study, tmp_path / "out")
    left = {path.name for path in (study / "report" / "tables").glob("*.csv")}
    left -= {path.name for path in (tmp_path / "out" / "tables").iterdir()}
    assert "training.csv" in left
    text = (tmp_path / "out" / "README.md").read_text()
    assert all(name in text.partition("Too large")[2] for name in left)


def test_the_page_on_decisiveness_is_published_with_the_rest(study: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(study, tmp_path / "made_up"))
    write_json(root / "config/study.json", read_json(root / "config/study.json") | {"decisiveness": {}})
    with pytest.raises(DataError, match="decisiveness/report: expected the report on decisiveness, found none"):
        publish.run(root, tmp_path / "out")
    for name in ("README.md", "figures/curve.svg", "tables/curve.csv", "tables/curve.parquet"):
        write_text(root / "decisiveness/report" / name, name)
    write_json(root / "decisiveness/report/manifest.json", {"stage": "decisiveness_report"})
    publish.run(root, tmp_path / "out")
    copied = {
        path.relative_to(tmp_path / "out/decisiveness").as_posix(): path.read_text()
        for path in (tmp_path / "out/decisiveness").rglob("*")
        if path.is_file()
    }
    assert copied == {name: name for name in ("README.md", "figures/curve.svg", "tables/curve.csv")}
    assert "[decisiveness](decisiveness/README.md)" in (tmp_path / "out/README.md").read_text()


def test_nothing_is_published_without_a_report(study_results: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the study's report"):
        publish.run(study_results, tmp_path / "out")
    assert not (tmp_path / "out").exists()
