"""The report on decisiveness: tables, figures and a page in Markdown for the policies of a study that were measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from empg.analysis.decisiveness import STATES
from empg.analysis.decisiveness_summary import tables, together
from empg.analysis.tables import save_table
from empg.config import Study, parse
from empg.config.slices import WARM_START
from empg.errors import ConfigError
from empg.files import read_json, write_text
from empg.provenance import stage
from empg.report import style
from empg.report.style import Panel
from empg.schema import read_table

CAPTIONS = {
    "curve": "Mean decisiveness of a step over its entropy (nats): the states of each policy in four quarters by "
    "entropy, each at the mean entropy of its quarter. Bars are 95 % intervals over episodes; a quarter with states of "
    "fewer than ten episodes has none.",
    "signal": "The signal ratio S of EMPG with k = 1 and its 95 % interval (Fieller) over episodes. In the testbed "
    "EMPG helps where it is above 1 and hurts where it is below 1.",
    "gradients": "Mean cosine of each method's gradient estimate, of one batch of the training size, to the gradient "
    "of the expected return. Bars are 95 % intervals over batches and over the reference's episodes. REINFORCE is the "
    "unbiased estimator.",
}
WORDS = {"+": "EMPG helps", "−": "EMPG hurts", "none": "no sign"}


def run(config: Path, results: Path, out: Path) -> None:
    """Write ``out/README.md``, ``out/tables`` (CSV and Parquet) and ``out/figures`` (SVG).

    ``results`` is the study's folder. Raises :class:`ConfigError` for a study that does not measure decisiveness.
    """
    study = parse(Study, read_json(config), str(config))
    if study.decisiveness is None:
        raise ConfigError(f"{config}: decisiveness: expected the settings of a measurement, found none")
    inputs = {folder.relative_to(results).as_posix(): folder for folder in folders(study, results)}
    with stage("decisiveness_report", study, out, inputs=inputs):
        summaries = [read_json(folder / "summary.json") for folder in inputs.values()]
        made = tables([*summaries, *of_pools(study, results)])
        for name, table in made.items():
            if len(table):
                save_table(table, out / "tables", name)
        drawn = {"curve": [*_curves(made["curve"])], "signal": [signal(made["policies"])]}
        if len(made["gradients"]):
            drawn["gradients"] = [*_cosines(made["gradients"])]
        for name, panels in drawn.items():
            whole = style.side_by_side(panels, 3)
            write_text(out / "figures" / f"{name}.svg", style.to_svg(whole, themed=False))
        write_text(out / "README.md", page(study, made["policies"], made["gradients"]))


def folders(study: Study, results: Path) -> Iterator[Path]:
    """The folder of each measurement: of an environment's warm start, then of its runs' policies, half-way and at
    the end."""
    for environment in study.environments:
        yield results / environment / "warmstart_decisiveness"
        for method in study.measured:
            for seed in study.seeds:
                run = results / environment / method / f"seed{seed}"
                if method in study.measured_halfway(environment):
                    yield run / "decisiveness_halfway"
                yield run / "decisiveness"


def of_pools(study: Study, results: Path) -> Iterator[dict[str, Any]]:
    """A summary for each pool: the warm starts of its environments together."""
    for pool, members in study.pools.items():
        measured = [results / environment / "warmstart_decisiveness" for environment in members]
        parts = [(read_table(f / "states.parquet", STATES), read_json(f / "summary.json")["batch"]) for f in measured]
        yield {"environment": pool, "method": WARM_START, "seed": None, "halfway": False} | together(parts)


def policy(row: dict[str, Any]) -> str:
    """What a measured policy is called."""
    if row["method"] == WARM_START:
        return "warm start"
    return f"{'half-way of' if row['halfway'] else 'after'} {row['method']}, seed {row['seed']}"


def _named(table: pl.DataFrame) -> pl.DataFrame:
    names = [policy(row) for row in table.iter_rows(named=True)]
    return table.with_columns(policy=pl.Series("policy", names, dtype=pl.String))


def _curves(table: pl.DataFrame) -> Iterator[Panel]:
    for (environment,), rows in _named(table).group_by("environment", maintain_order=True):
        yield curve(rows, str(environment))


def curve(frame: pl.DataFrame, title: str) -> Panel:
    """Columns policy, entropy, value, low, high: a line with intervals for each policy."""
    base = alt.Chart(frame).encode(
        x=alt.X("entropy:Q", title="entropy of the step (nats)", axis=alt.Axis(tickCount=4)),
        color=alt.Color("policy:N", sort=None),
    )
    zero = alt.Chart(pl.DataFrame({"y": [0.0]})).mark_rule(color=style.MUTED, strokeDash=[3, 3]).encode(y="y:Q")
    known = base.transform_filter("datum.low != null")
    bars = known.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", title="decisiveness"), y2="high:Q")
    line = base.mark_line(point=True, strokeWidth=1.5).encode(y=alt.Y("value:Q", title="decisiveness"))
    return alt.layer(zero, bars, line).properties(width=210, height=160, title=title)


def signal(table: pl.DataFrame) -> Panel:
    """The signal ratio of each policy: a dot with its interval, where it is known."""
    frame = _named(table).with_columns(place=pl.format("{}: {}", "environment", "policy"))
    base = alt.Chart(frame).encode(y=alt.Y("place:N", sort=None, title=None, axis=alt.Axis(labelLimit=240)))
    one = alt.Chart(pl.DataFrame({"x": [1.0]})).mark_rule(color=style.MUTED, strokeDash=[3, 3]).encode(x="x:Q")
    scale, title = alt.Scale(zero=False), "signal ratio S"
    known = base.transform_filter("datum.signal_ratio_low != null")
    bars = known.mark_rule(strokeWidth=2, color=style.COLOURS[0]).encode(
        x=alt.X("signal_ratio_low:Q", scale=scale, title=title), x2="signal_ratio_high:Q"
    )
    dots = base.mark_point(filled=True, size=50, color=style.COLOURS[0], opacity=1).encode(
        x=alt.X("signal_ratio:Q", scale=scale, title=title)
    )
    return alt.layer(one, bars, dots).properties(width=330, height=alt.Step(24), title="")


def _cosines(table: pl.DataFrame) -> Iterator[Panel]:
    for (environment,), found in _named(table).group_by("environment", maintain_order=True):
        yield cosines(found, str(environment))


def cosines(frame: pl.DataFrame, title: str) -> Panel:
    """Columns policy, estimator, cosine, cosine_low, cosine_high: a dot with its interval for each estimator."""
    base = alt.Chart(frame).encode(
        y=alt.Y("estimator:N", sort=None, title=None),
        yOffset=alt.YOffset("policy:N", sort=None),
        color=alt.Color("policy:N", sort=None),
    )
    scale, axis = alt.Scale(zero=False), "cosine to the true gradient"
    known = base.transform_filter("datum.cosine_low != null")
    bars = known.mark_rule(strokeWidth=1.5).encode(x=alt.X("cosine_low:Q", scale=scale, title=axis), x2="cosine_high:Q")
    dots = base.mark_point(filled=True, size=40, opacity=1).encode(x=alt.X("cosine:Q", scale=scale, title=axis))
    return alt.layer(bars, dots).properties(width=210, height=alt.Step(15, **{"for": "offset"}), title=title)


def page(study: Study, table: pl.DataFrame, gradients: pl.DataFrame) -> str:
    """The page in Markdown: a table of the policies, what each predicts, figures, and the estimates of gradients."""
    assert study.decisiveness is not None
    settings = study.decisiveness
    lines = [
        f"# Decisiveness: the study `{study.study}`",
        "",
        f"Each policy plays {settings.episodes} training tasks. At each state, {settings.responses} responses of the "
        f"policy, each continued {settings.continuations} times. Decisiveness is the variance, over responses, of the "
        "expected return, in units of 0.01 (a step that decides all of a fair bet has 25). Intervals are 95 % "
        f"intervals over episodes{', those of pools over the tasks that they share' if study.pools else ''}.",
        "",
        "| environment | policy | states | success % | decisiveness | luck | entropy of decisive steps / of all, nats "
        "| slope on entropy rank | rank correlation | signal ratio S | S without v | prediction |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.iter_rows(named=True):
        cells = [
            row["environment"],
            policy(row),
            f"{row['states']} of {row['episodes']} episodes",
            f"{100 * row['success']:.0f}",
            interval(row, "decisiveness", 100, ".2f"),
            f"{100 * row['luck']:.1f}",
            f"{interval(row, 'decisive_entropy', 1, '.3f')} / {row['entropy']:.3f}",
            interval(row, "slope", 100, "+.2f"),
            interval(row, "rank_correlation", 1, "+.2f"),
            interval(row, "signal_ratio", 1, ".3f"),
            interval(row, "signal_ratio_equal", 1, ".3f"),
            WORDS[row["prediction"]],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += _drawn("curve", "signal")
    if len(gradients):
        lines += _quality(gradients)
    names = ["policies", "curve", *(["gradients"] if len(gradients) else [])]
    lines += ["", f"Tables: {', '.join(f'[{name}](tables/{name}.csv)' for name in names)}"]
    return re.sub(r"(?<=[ (|])-(?=\d)", "−", "\n".join(lines)) + "\n"


def _drawn(*names: str) -> list[str]:
    return [line for name in names for line in ("", f"![{name}](figures/{name}.svg)", "", CAPTIONS[name])]


def _quality(table: pl.DataFrame) -> list[str]:
    """The section on estimates of the gradient."""
    lines = [
        "",
        "## Estimates of the gradient",
        "",
        f"Each estimate is of one batch of the training size; there are {table['batches'][0]} batches and a reference "
        f"of {table['parts'][0]} others. Cosine: of an estimate to the true gradient, mean over batches. Difference: "
        "to the cosine of the method that it is compared with. Direction: the cosine of the mean estimate. Noise: the "
        "trace of the covariance over the squared norm of the mean. Cosines are times 100. Intervals are 95 % "
        "intervals over batches and the reference.",
        "",
        "| environment | policy | estimator | cosine | difference | direction | noise |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table.iter_rows(named=True):
        difference = "" if row["compared"] is None else interval(row, "difference", 100, "+.1f")
        cells = [
            row["environment"],
            policy(row),
            row["estimator"],
            interval(row, "cosine", 100, ".1f"),
            difference and f"{difference} to {row['compared']}",
            interval(row, "direction", 100, ".0f"),
            interval(row, "noise", 1, ".1f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines + _drawn("gradients")


def interval(row: dict[str, Any], name: str, times: float, form: str) -> str:
    """A value with its interval, as text."""
    if row[name] is None:
        return "not known"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    ends = "not known" if low is None else f"{times * low:{form}} to {times * high:{form}}"
    return f"{times * row[name]:{form}} ({ends})"
