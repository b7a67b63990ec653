"""The page of the benchmarks and its figure."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import altair as alt
import polars as pl

from benchmarks.measure import Line
from empg.timing import processor

PAGE, FIGURE = Path("docs/benchmarks.md"), Path("docs/pictures/benchmarks.svg")
PACKAGES = ("torch", "transformers", "trl", "tantivy", "numpy")
LIMIT = 0.4  # of a large product's speed, in the update from ten million parameters on
TEXT = """# Benchmarks

`make bench` writes this page: one script, one run, one thread. It needs the finished default study (`make run`).
The compared sides take turns in one process. A time is CPU seconds, a ratio the median of the turns' ratios.

{date}, {processor}, {cores} cores with a load of {load:.0f}; Python {python}, {versions}; {minutes:.0f} CPU minutes.
Other processes slow all sides down, so a ratio says more than a speed.

## Beside public packages

| what | ours | beside | ratio | target |
|---|---|---|---|---|
{lines}

- TRL replays the same conversations through its `rollout_func`: no sampling, one micro-batch, KL coefficient 0.01.
- `generate` encodes the whole conversation each turn. Both sides play the same episodes with the same random numbers
  and a context that holds whole episodes. The policy is the default one after a short warm start on these rooms.
- An environment's share counts resets with reading the game, reading of actions, steps and searches.
- The public WebShop needs Java and a web stack and is on no package index. Its figure was recorded once, with commit
  64fa2a5 on a thousand real products, and is not measured here.
- {sentence}

## Cost of an update by size

![Tokens per CPU second and share of the limit, by length of conversations and size of groups]({figure})

Gradient of the policy and forward pass of the reference, made-up conversations, untrained policies. Tokens count for
every conversation, shared ones too. The limit is a product of two 2048 × 2048 matrices, measured beside each case:
{limit:.0f} GFLOP/s in the median. The share counts the products that an update cannot do without. From ten million
parameters on it is {lowest:.0%} to {highest:.0%}; the target is at least {target:.0%}.

| million parameters | tokens of a conversation | group | tokens per CPU second | share of the limit |
|---|---|---|---|---|
{rows}
"""


def write(lines: Sequence[Line], sentence: str, sizes: pl.DataFrame, minutes: float) -> None:
    """Write :data:`PAGE` and :data:`FIGURE`."""
    figure(sizes).save(str(FIGURE))
    PAGE.write_text(_page(lines, sentence, sizes, minutes), encoding="utf-8")


def row(line: Line) -> str:
    """A line as a row of a Markdown table."""
    ratio = f"{line.ratio:.1%}" if line.at_most else f"{line.ratio:,.{0 if line.ratio >= 100 else 2}f}"
    target = "" if line.target is None else f"≤ {line.target:.0%}" if line.at_most else f"≥ {line.target:,g}"
    verdict = "" if line.target is None else ": holds" if line.holds else ": **missed**"
    return f"| {line.what} | {line.ours} | {line.other} | {ratio} | {target}{verdict} |"


def _page(lines: Sequence[Line], sentence: str, sizes: pl.DataFrame, minutes: float) -> str:
    large = sizes.filter(pl.col("parameters") > 9)["share"]
    rows = [
        f"| {parameters:.2f} | {length:,} | {group} | {rate:,.0f} | {share:.0%} |"
        for parameters, length, group, rate, share, _ in sizes.iter_rows()
    ]
    return TEXT.format(
        date=datetime.date.today(),
        processor=processor(),
        cores=os.cpu_count(),
        load=os.getloadavg()[1],
        versions=", ".join(f"{name} {version(name)}" for name in PACKAGES),
        python=platform.python_version(),
        minutes=minutes,
        lines="\n".join(map(row, lines)),
        sentence=sentence,
        figure=FIGURE.relative_to("docs"),
        limit=sizes["limit"].median(),
        lowest=large.min(),
        highest=large.max(),
        target=LIMIT,
        rows="\n".join(rows),
    )


def figure(sizes: pl.DataFrame) -> alt.VConcatChart:
    """Speed and share of the limit over the length of conversations, and over the size of groups."""
    named = sizes.with_columns(size=pl.col("parameters").round(2).cast(pl.String) + " M")
    order = named["size"].unique(maintain_order=True).to_list()
    by_length = named.filter(pl.col("group") == named["group"].min())
    by_group = named.filter(pl.col("length") == 500)
    rows = [
        alt.hconcat(
            *(
                _panel(
                    part,
                    alt.X(
                        f"{x}:Q",
                        title=title,
                        scale=alt.Scale(type="log", base=2),
                        axis=alt.Axis(values=part[x].unique().to_list()),
                    ),
                    y,
                    order,
                )
                for part, x, title in (
                    (by_length, "length", "tokens of a conversation, groups of 4"),
                    (by_group, "group", "episodes of a group, 500 tokens each"),
                )
            )
        )
        for y in (
            alt.Y("rate:Q", title="tokens per CPU second", scale=alt.Scale(type="log")),
            alt.Y("share:Q", title="share of the limit", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
        )
    ]
    return alt.vconcat(*rows).configure_view(stroke=None).configure(background="white")


def _panel(frame: pl.DataFrame, x: alt.X, y: alt.Y, order: list[str]) -> alt.Chart:
    color = alt.Color("size:N", sort=order, title="parameters", scale=alt.Scale(scheme="viridis"))
    return alt.Chart(frame).mark_line(point=True).encode(x=x, y=y, color=color).properties(width=300, height=200)
