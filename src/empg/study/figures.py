"""Figures: a table in, a chart out; saving is the caller's. Charts are small, so that a phone shows them unshrunk.

Colours come from one palette. In the page they become CSS variables (:func:`to_svg`), so that the same figure is light
or dark as its reader prefers; in a file they stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

Panel = Any  # one of altair's chart classes, which share no base that says what they can do

WIDTH, HEIGHT = 300, 200

INK, MUTED, GRID, PAPER = "#1c2733", "#5a6875", "#d8dee4", "#ffffff"
COLOURS = ("#2563a8", "#d2691e", "#2a8a62", "#8a4fb0", "#b3325c", "#7a6a12", "#1c8ca0", "#55606b")
CSS_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {c: f"c{i}" for i, c in enumerate(COLOURS)}

CONFIG: dict[str, Any] = {
    "font": "system-ui, sans-serif",
    "padding": {"left": 14, "top": 5, "right": 8, "bottom": 5},  # a browser's font may be wider than the one measured
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED, "titleColor": MUTED, "gridColor": GRID, "domainColor": MUTED, "tickColor": MUTED,
        "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal",
    },
    "legend": {
        "labelColor": INK, "orient": "bottom", "title": None, "labelFontSize": 11, "symbolStrokeWidth": 2, "columns": 2,
        "labelLimit": 220, "columnPadding": 18, "symbolOpacity": 1,
    },
    "title": {"color": INK, "fontSize": 12, "fontWeight": 600, "anchor": "start", "offset": 8},
    "range": {"category": list(COLOURS)},
}  # fmt: skip


def to_svg(chart: Panel, *, themed: bool) -> str:
    """The chart as SVG text. ``themed``: colours as CSS variables, for a page."""
    import vl_convert

    background = "transparent" if themed else PAPER
    specification = chart.configure(**CONFIG, background=background).to_dict()
    svg = str(vl_convert.vegalite_to_svg(specification))
    if not themed:
        return svg
    for colour, name in CSS_NAMES.items():
        svg = svg.replace(f'"{colour}"', f'"var(--{name})"')
    return svg.replace("<svg ", '<svg role="img" ', 1)


def side_by_side(charts: Sequence[Panel]) -> Panel:
    """All panels of a figure as one chart, for its file."""
    return alt.concat(*charts, columns=2).resolve_scale(color="independent")


def nothing(message: str) -> Panel:
    """A panel that says why it is empty."""
    text = alt.Chart(pl.DataFrame({"text": [message]})).mark_text(color=MUTED, lineBreak="\n").encode(text="text:N")
    return alt.layer(text).properties(width=WIDTH, height=60)


def _method(methods: Sequence[str]) -> alt.Color:
    """The same colour for a method in every figure."""
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(methods))]
    return alt.Color("method:N", scale=alt.Scale(domain=list(methods), range=colours))


def _base(frame: pl.DataFrame, title: str) -> Panel:
    return alt.Chart(frame).properties(width=WIDTH, height=HEIGHT, title=title)


def _layer(title: str, *charts: Panel) -> Panel:
    return alt.layer(*charts).properties(width=WIDTH, height=HEIGHT, title=title)


def _success(name: str = "success") -> alt.Y:
    return alt.Y(f"{name}:Q", title="success", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))


def _iteration() -> alt.X:
    return alt.X("iteration:Q", title="iteration", axis=alt.Axis(tickMinStep=1, format="d"))


def learning_curve(frame: pl.DataFrame, methods: Sequence[str], title: str) -> Panel:
    """Columns iteration, method, success, low, high: a line with a band for each method."""
    base = alt.Chart(frame).encode(x=_iteration(), color=_method(methods))
    band = base.mark_area(opacity=0.18, strokeWidth=0).encode(y=_success("low"), y2="high:Q")
    return _layer(title, band, base.mark_line(strokeWidth=2).encode(y=_success()))


def seed_curves(frame: pl.DataFrame, methods: Sequence[str], title: str) -> Panel:
    """Columns iteration, method, seed, success: a line for each run."""
    line = _base(frame, title).mark_line(strokeWidth=1, opacity=0.8)
    return line.encode(x=_iteration(), y=_success(), detail="seed:N", color=_method(methods))


def success(frame: pl.DataFrame, methods: Sequence[str], title: str) -> Panel:
    """Columns run, method, success, success_low, success_high: a point with its interval for each policy.

    A policy of none of the methods (the warm start) is grey.
    """
    order = frame["run"].to_list()
    colour = alt.condition(
        alt.FieldOneOfPredicate("method", list(methods)), _method(methods).legend(None), alt.value(MUTED)
    )
    base = alt.Chart(frame).encode(y=alt.Y("run:N", sort=order, title=None), color=colour)
    x = alt.X("success_low:Q", title="success", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    interval = base.mark_rule(strokeWidth=2).encode(x=x, x2="success_high:Q")
    point = base.mark_point(filled=True, size=50, opacity=1).encode(x="success:Q")
    return _layer(title, interval, point).properties(height=alt.Step(20))


def histogram(frame: pl.DataFrame, methods: Sequence[str], title: str, x_title: str) -> Panel:
    """Columns method, left (of the bin), share: one outline for each method."""
    line = _base(frame, title).mark_line(interpolate="step-after", strokeWidth=1.5)
    shown = [name for name in methods if name in set(frame["method"])]
    return line.encode(
        x=alt.X("left:Q", title=x_title),
        y=alt.Y("share:Q", title="share of steps", axis=alt.Axis(format="%")),
        color=_method(methods).legend(values=shown),
    )


def lines(frame: pl.DataFrame, methods: Sequence[str], title: str, y_title: str) -> Panel:
    """Columns iteration, method, value (a share): one line for each method."""
    return _base(frame, title).mark_line(strokeWidth=2).encode(
        x=_iteration(),
        y=alt.Y("value:Q", title=y_title, axis=alt.Axis(format="%")),
        color=_method(methods),
    )  # fmt: skip


def proposition(frame: pl.DataFrame, methods: Sequence[str], title: str) -> Panel:
    """Columns method, renyi2, mean, low, high, measured in bins, against the curve 1 − exp(−H₂)."""
    curve_data = alt.sequence(0, float(frame["renyi2"].max() or 1) * 1.05, 0.02, as_="renyi2")  # type: ignore[arg-type]
    curve = alt.Chart(curve_data).transform_calculate(mean="1 - exp(-datum.renyi2)")
    curve = curve.mark_line(color=MUTED, strokeDash=[4, 3], strokeWidth=1.5)
    x = alt.X("renyi2:Q", title="Rényi-2 entropy of the token (nats)")
    y = alt.Y("mean:Q", title="squared score norm")
    points = alt.Chart(frame).encode(x=x, color=_method(methods))
    interval = points.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", title="squared score norm"), y2="high:Q")
    return _layer(
        title, curve.encode(x=x, y=y), interval, points.mark_point(filled=True, size=30, opacity=1).encode(y=y)
    )


def gradient_norm(frame: pl.DataFrame, title: str) -> Panel:
    """Columns step_entropy, quantity, mean, low, high: one line with intervals for each quantity."""
    quantities = frame["quantity"].unique(maintain_order=True).to_list()
    colour = alt.Color("quantity:N", scale=alt.Scale(domain=quantities, range=[COLOURS[0], COLOURS[1], MUTED]))
    base = alt.Chart(frame).encode(
        x=alt.X("step_entropy:Q", title="step entropy (nats)", axis=alt.Axis(tickCount=5)), color=colour
    )
    y_title = "gradient norm"
    interval = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", title=y_title), y2="high:Q")
    line = base.mark_line(point=True, strokeWidth=1.5).encode(y=alt.Y("mean:Q", title=y_title))
    return _layer(title, interval, line)
