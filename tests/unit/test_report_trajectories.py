"""What the pages of training episodes say: credit, groups that nothing moves, and how a text is marked."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from empg.analysis.results import Results
from empg.config import Study, parse, read_yaml
from empg.policy.chat import Chat
from empg.report import listing, trajectories
from empg.report.page import environment
from empg.report.tokens import MarkedText
from empg.schema import CREDITED_STEPS, write_table


@pytest.fixture
def results(study_results: Path, tmp_path: Path) -> Results:
    root = shutil.copytree(study_results, tmp_path / "results" / "made_up")
    path = root / "config" / "study.json"
    return Results(parse(Study, read_yaml(path), str(path)), root)


def page(results: Results, method: str = "grpo_empg", **columns: pl.Expr) -> tuple[str, pl.DataFrame]:
    """The page of the method's first run, whose last rollouts get these columns, with every step in plain HTML."""
    run = next(run for run in results.trained() if run.method == method)
    path = results.rollout_files(run)[-1]
    table = pl.read_parquet(path).with_columns(**columns).cast(CREDITED_STEPS)  # type: ignore[arg-type]
    write_table(table, CREDITED_STEPS, path)
    return trajectories.render(results, run, environment()), table


@pytest.fixture(autouse=True)
def _all_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SAMPLE", 1000)


def test_steps_show_their_credit(results: Results) -> None:
    html, table = page(results)
    for row in table.head(3).iter_rows(named=True):
        signed = [f"{row[name]:+{form}}" for name, form in (("advantage", ".3f"), ("outcome_advantage", ".2f"))]
        final, outcome = (text.replace("-", "−") for text in signed)
        word = "up" if row["advantage"] > 0 else "down"
        shown = f"A {outcome} · g {row['gradient_scale']:.2f} · f {row['clarity_bonus']:.2f} · "
        assert f"<b>{final}</b> pushed {word} <small>{shown}entropy {row['step_entropy']:.3f}</small>" in html
    assert html.count('<li class="minus"') == (table["advantage"] < 0).sum()


def test_a_group_with_equal_rewards_says_what_moves_it(results: Results) -> None:
    """The made-up study never solves task 0."""
    html, _ = page(results)
    section = html[html.index("Task 0 ") : html.index("Task 1 ")]
    assert "A is 0 and g has nothing to scale. Only the clarity bonus moves these steps" in section
    html, _ = page(results, "grpo")
    section = html[html.index("Task 0 ") : html.index("Task 1 ")]
    assert "A is 0 and this group moves nothing" in section
    nothing = {name: pl.lit(None) for name in ("outcome_advantage", "step_entropy", "gradient_scale")}
    html, _ = page(results, trained=pl.lit(False), clarity_bonus=pl.lit(None), advantage=pl.lit(None), **nothing)
    assert html.count("Left out of training: dynamic sampling") == 4
    assert "<b>–</b> <small>A – · g – · f – · entropy –</small>" in html
    assert "pushed up <small>" not in html


def test_terms_are_explained_for_the_method(results: Results) -> None:
    html, _ = page(results)
    assert "added with the weight ζ = 0.05" in html
    assert "g · A + ζ · f, minus the mean" in html
    html, _ = page(results, "grpo")
    assert "1 everywhere, because this method has no modulation" in html


def test_sample_is_whole_groups_and_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SAMPLE", 6)
    groups = [number // 4 for number in range(16)]
    drawn = listing.drawn_first(groups, "a run")
    assert drawn == listing.drawn_first(groups, "a run")
    assert sorted(groups[i] for i in drawn) in [[a] * 4 + [b] * 4 for a in range(4) for b in range(a + 1, 4)]
    assert len({frozenset(listing.drawn_first(groups, f"run {i}")) for i in range(20)}) > 1


def test_uncertain_tokens_are_marked(study_results: Path) -> None:
    chat = Chat.load(study_results / "alfworld" / "warmstart" / "model", "")
    mark, text = MarkedText(chat), "a<b"
    ids = chat.agent(text)
    entropies = [0.05, 0.7, 1.2, 9.0]  # the last is that of the end of turn
    assert str(mark(text, ids, entropies)) == (
        'a<mark class="u2" title="0.70 nats">&lt;</mark><mark class="u3" title="1.20 nats">b</mark>'
    )
    assert str(mark("<other>", ids, entropies)) == "&lt;other&gt;"
    assert str(mark("é", chat.agent("é"), [2.0] * 3)) == "é"  # two tokens, neither of which is a character
