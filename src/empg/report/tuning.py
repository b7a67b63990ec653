"""What a search found: a page in Markdown, a figure of its history and one of what mattered."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import polars as pl

from empg.config import Study
from empg.files import write_text
from empg.report import style
from empg.report.names import titles
from empg.report.style import COLOURS, MUTED, Panel

PAGE = "README.md"


def write(study: Study, tables: dict[str, pl.DataFrame], folder: Path) -> None:
    """Write ``README.md`` and ``figures/`` beside ``tables/``: those of :func:`empg.tuning.search.run`."""
    names = titles(study)
    drawn = {
        "history": [history(rows, f"{key[0]}, {names[key[1]]}") for key, rows in _by_method(tables["trials"])],
        "importance": [
            importance(rows, f"{key[0]}, {names[key[1]]}") for key, rows in _by_method(tables["importance"])
        ],
    }
    drawn = {name: panels for name, panels in drawn.items() if panels}
    for name, panels in drawn.items():
        write_text(folder / "figures" / f"{name}.svg", style.to_svg(style.side_by_side(panels, 2), themed=False))
    lines = [f"# {study.study}: a search on `tune`", "", *sections(study, tables["trials"], list(drawn))]
    write_text(folder / PAGE, "\n".join(lines) + "\n")


def sections(study: Study, trials: pl.DataFrame, figures: list[str]) -> list[str]:
    """The page without its title; links are relative to the search's folder."""
    assert study.tune is not None
    names = titles(study)
    space = ", ".join(
        f"`{path}` from {limits.low:g} to {limits.high:g}{' in its logarithm' if limits.log else ''}"
        for path, limits in study.tune.space.items()
    )
    lines = [
        f"{study.tune.trials} trials of each method by Optuna's {study.tune.sampler.name}, with "
        f"{study.tune.pruner.name}: {space}. All trials train with seed {study.tune.seed}. Success is on the panel "
        "`tune`, which no report reads. Trial 0 has the study's own values. The best of many is better on `tune` "
        "than it is elsewhere.",
        "",
    ]
    paths = [path for path in study.tune.space if path in trials.columns]
    heads = ("environment", "method", "", *(path.removeprefix("method.") for path in paths), "sampled", "greedy")
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (environment, method), rows in _by_method(trials):
        done = rows.drop_nulls("sampled").sort("sampled", descending=True, maintain_order=True)
        pruned = len(rows) - len(done)
        for name, chosen in (("own", done.filter(trial=0)), (f"best of {len(rows)}, {pruned} pruned", done)):
            for row in chosen.head(1).iter_rows(named=True):
                values = ["" if row[path] is None else f"{row[path]:.3g}" for path in paths]
                success = [f"{100 * row[mode]:.1f}" for mode in ("sampled", "greedy")]
                lines.append(f"| {' | '.join([environment, names[method], name, *values, *success])} |")
    lines += ["", "Every trial: [trials.csv](tables/trials.csv)."]
    for name in figures:
        lines += ["", f"![{CAPTIONS[name]}](figures/{name}.svg)", "", CAPTIONS[name]]
    return lines


CAPTIONS = {
    "history": "Sampled success on `tune`, trial by trial. The line is the best so far; grey marks are pruned trials.",
    "importance": "The share of the variance of success that each setting explains (fANOVA of the finished trials).",
}


def history(trials: pl.DataFrame, title: str) -> Panel:
    """Columns trial, state, sampled: a point for each trial, the best so far as a line, a tick for a pruned one."""
    done = trials.drop_nulls("sampled").sort("trial").with_columns(best=pl.col("sampled").cum_max())
    x = alt.X("trial:Q", title="trial", axis=alt.Axis(tickMinStep=1, format="d", tickCount=6))
    y = alt.Y("sampled:Q", title="success", axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(zero=False))
    points = alt.Chart(done).mark_point(filled=True, size=36, opacity=1, color=COLOURS[0]).encode(x=x, y=y)
    line = (
        alt.Chart(done).mark_line(interpolate="step-after", color=COLOURS[0], strokeWidth=1.5).encode(x=x, y="best:Q")
    )
    pruned = (
        alt.Chart(trials.filter(state="pruned")).mark_tick(color=MUTED, orient="vertical").encode(x=x, y=alt.value(186))
    )
    return alt.layer(line, points, pruned).properties(width=300, height=190, title=title)


def importance(shares: pl.DataFrame, title: str) -> Panel:
    """Columns setting, importance: a bar for each setting."""
    base = alt.Chart(shares).encode(
        x=alt.X(
            "importance:Q", title="share of the variance", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])
        ),
        y=alt.Y("setting:N", sort="-x", title=None, axis=alt.Axis(labelLimit=200)),
    )
    return base.mark_bar(color=COLOURS[0]).properties(width=300, height=alt.Step(24), title=title)


def _by_method(table: pl.DataFrame) -> list[tuple[tuple[str, str], pl.DataFrame]]:
    found = table.group_by("environment", "method", maintain_order=True)
    return [((str(environment), str(method)), rows) for (environment, method), rows in found]
