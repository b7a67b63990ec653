"""Charts: each function turns a table into one panel of a figure and saves nothing. A panel fits the width of a phone.

Colours come from one palette. In the page :func:`to_svg` makes them CSS variables, so that a figure is light or dark as
the reader prefers. In a file they stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import altair as alt
import polars as pl

Panel = Any  # one of altair's chart classes; they have no common base with the methods used here

WIDTH, HEIGHT = 300, 200
LIMIT = 0.5  # intervals over seeds are cut off here, so that the wide one of two seeds does not hide the rest

INK, MUTED, GRID, PAPER = "#1c2733", "#5a6875", "#d8dee4", "#ffffff"
COLOURS = ("#2563a8", "#d2691e", "#2a8a62", "#8a4fb0", "#b3325c", "#7a6a12", "#1c8ca0", "#55606b")
CSS_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {c: f"c{i}" for i, c in enumerate(COLOURS)}

CONFIG: dict[str, Any] = {
    "font": "system-ui, sans-serif",
    "padding": {"left": 14, "top": 5, "right": 8, "bottom": 5},  # a browser's font may be wider than the one measured
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "gridColor": GRID,
        "domainColor": MUTED,
        "tickColor": MUTED,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 9,
        "labelFlush": False,
    },
    "legend": {
        "labelColor": INK,
        "orient": "bottom",
        "title": None,
        "labelFontSize": 11,
        "symbolStrokeWidth": 2,
        "columns": 2,
        "labelLimit": 220,
        "columnPadding": 18,
        "symbolOpacity": 1,
    },
    "title": {"color": INK, "fontSize": 12, "fontWeight": 600, "anchor": "start", "offset": 8},
    "range": {"category": list(COLOURS)},
}


def to_svg(chart: Panel, *, themed: bool) -> str:
    """The chart as SVG text. For a page, ``themed`` makes colours CSS variables and the title the accessible name."""
    import vl_convert

    # Validating a chart, or copying it to configure it, would cost as much as drawing it.
    specification = chart.to_dict(validate=False)
    specification["config"] = {**CONFIG, "background": "transparent" if themed else PAPER}
    svg = str(vl_convert.vegalite_to_svg(specification))
    if not themed:
        return svg
    for colour, name in CSS_NAMES.items():
        svg = svg.replace(f'"{colour}"', f'"var(--{name})"')
    name = escape(str(specification.get("title", "")), quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)


def side_by_side(charts: Sequence[Panel], columns: int) -> Panel:
    """All panels of a figure as one chart, for the figure's file."""
    return alt.concat(*charts, columns=columns).resolve_scale(color="independent")


def _method(methods: Sequence[str]) -> alt.Color:
    """The colour of each method, the same in every figure."""
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(methods))]
    return alt.Color("method:N", scale=alt.Scale(domain=list(methods), range=colours))


def _base(frame: pl.DataFrame, title: str) -> Panel:
    return alt.Chart(frame).properties(width=WIDTH, height=HEIGHT, title=title)


def _layer(title: str, *charts: Panel) -> Panel:
    return alt.layer(*charts).properties(width=WIDTH, height=HEIGHT, title=title)


def share(name: str, title: str) -> alt.X:
    """A horizontal axis from 0 to 100 %."""
    return alt.X(f"{name}:Q", title=title, axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(domain=[0, 1]))


def amount(name: str, title: str) -> alt.X:
    """A horizontal axis from 0."""
    return alt.X(f"{name}:Q", title=title, axis=alt.Axis(tickCount=5))


def _success(name: str = "success") -> alt.Y:
    return alt.Y(f"{name}:Q", title="success", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))


def _iteration() -> alt.X:
    return alt.X("iteration:Q", title="iteration", axis=alt.Axis(tickMinStep=1, format="d"))


def learning_curve(frame: pl.DataFrame, methods: Sequence[str], title: str) -> Panel:
    """Columns iteration, method, success, low, high: a line with a band for each method."""
    base = alt.Chart(frame).encode(x=_iteration(), color=_method(methods))
    band = base.mark_area(opacity=0.18, strokeWidth=0).encode(y=_success("low"), y2="high:Q")
    return _layer(title, band, base.mark_line(strokeWidth=2).encode(y=_success()))


def seed_curves(frame: pl.DataFrame, interval: pl.DataFrame, methods: Sequence[str], title: str) -> Panel:
    """Columns iteration, method, seed, success: a line for each run.

    ``interval`` has columns iteration, method, seeds_low, seeds_high: a band for each method. It may have no rows.
    """
    line = alt.Chart(frame).mark_line(strokeWidth=1, opacity=0.8)
    lines = line.encode(x=_iteration(), y=_success(), detail="seed:N", color=_method(methods))
    band = alt.Chart(interval).mark_area(opacity=0.18, strokeWidth=0)
    return _layer(
        title,
        band.encode(x=_iteration(), y=_success("seeds_low"), y2="seeds_high:Q", color=_method(methods)),
        lines,
    )


def success(frame: pl.DataFrame, methods: Sequence[str], title: str) -> Panel:
    """Columns run, method, success, success_low, success_high: a point with its interval for each policy.

    A policy that belongs to no method (the warm start) is grey.
    """
    order = frame["run"].to_list()
    colour = alt.condition(
        alt.FieldOneOfPredicate("method", list(methods)), _method(methods).legend(None), alt.value(MUTED)
    )
    base = alt.Chart(frame).encode(y=alt.Y("run:N", sort=order, title=None), color=colour)
    interval = base.mark_rule(strokeWidth=2).encode(x=share("success_low", "success"), x2="success_high:Q")
    point = base.mark_point(filled=True, size=50, opacity=1).encode(x="success:Q")
    return _layer(title, interval, point).properties(height=alt.Step(20))


def differences(frame: pl.DataFrame, methods: Sequence[str], title: str) -> Panel:
    """Columns panel, method, difference, difference_{seeds,tasks}_{low,high}: a point with both intervals for each row.

    An interval over seeds that is null (one seed) is not drawn.
    """
    cut = [pl.col(f"difference_{end}").cast(pl.Float64).clip(-LIMIT, LIMIT) for end in ("seeds_low", "seeds_high")]
    shown = frame.with_columns(cut)
    reach = max(0.02, *(abs(v) for c in shown.columns if c.startswith("difference") for v in shown[c].drop_nulls()))
    scale = alt.Scale(domain=[-1.05 * reach, 1.05 * reach])
    several = shown["method"].n_unique() > 1
    base = alt.Chart(shown).encode(
        y=alt.Y("panel:N", sort=None, title=None, axis=alt.Axis(labelLimit=150)),
        yOffset=alt.YOffset("method:N", sort=list(methods)),
        color=_method(methods).legend(values=[m for m in methods if m in set(shown["method"])]),
    )
    axis = alt.Axis(labelExpr="format(100 * datum.value, '+.0f')", tickCount=5)
    x = alt.X("difference:Q", title="difference in success (points)", axis=axis, scale=scale)
    seeds = base.mark_rule(strokeWidth=1.5).encode(
        x=alt.X("difference_seeds_low:Q", scale=scale), x2="difference_seeds_high:Q"
    )
    tasks = base.mark_rule(strokeWidth=5, opacity=0.55).encode(
        x=alt.X("difference_tasks_low:Q", scale=scale), x2="difference_tasks_high:Q"
    )
    point = base.mark_point(filled=True, size=60, opacity=1).encode(x=x)
    zero = (
        alt.Chart(pl.DataFrame({"x": [0.0]}))
        .mark_rule(color=MUTED, strokeDash=[3, 3])
        .encode(x=alt.X("x:Q", scale=scale))
    )
    step = alt.Step(16 if several else 26, **{"for": "offset" if several else "position"})
    # narrower than other charts, so that two fit side by side despite long labels
    return _layer(title, zero, seeds, tasks, point).properties(height=step, width=WIDTH - 40)


def histogram(frame: pl.DataFrame, methods: Sequence[str], title: str, x_title: str) -> Panel:
    """Columns method, left (of the bin), share: one outline for each method."""
    line = _base(frame, title).mark_line(interpolate="step-after", strokeWidth=1.5)
    shown = [name for name in methods if name in set(frame["method"])]
    return line.encode(
        x=alt.X("left:Q", title=x_title),
        y=alt.Y("share:Q", title="share of steps", axis=alt.Axis(format="%")),
        color=_method(methods).legend(values=shown),
    )


def spread(frame: pl.DataFrame, methods: Sequence[str], title: str, y_title: str, *, percent: bool = False) -> Panel:
    """Columns iteration, method, mean, lowest, highest: a line with a band for each method that has rows."""
    shown = [name for name in methods if name in set(frame["method"])]
    axis = alt.Axis(format="%") if percent else alt.Axis()
    base = alt.Chart(frame).encode(x=_iteration(), color=_method(methods).legend(values=shown))
    low = alt.Y("lowest:Q", title=y_title, axis=axis)
    band = base.mark_area(opacity=0.18, strokeWidth=0).encode(y=low, y2="highest:Q")
    return _layer(title, band, base.mark_line(strokeWidth=1.5).encode(y=alt.Y("mean:Q", title=y_title, axis=axis)))


def percentiles(frame: pl.DataFrame, methods: Sequence[str], title: str) -> Panel:
    """Columns method, percentile, value, lowest_seed, highest_seed: a line with a band for each method, about 0."""
    base = alt.Chart(frame).encode(
        x=alt.X("percentile:Q", title="percentile of step entropy before", scale=alt.Scale(domain=[0, 100])),
        color=_method(methods),
    )
    y_title = "change of step entropy (nats)"
    zero = alt.Chart(pl.DataFrame({"y": [0.0]})).mark_rule(color=MUTED, strokeDash=[3, 3]).encode(y="y:Q")
    lowest = alt.Y("lowest_seed:Q", title=y_title)
    band = base.mark_area(opacity=0.18, strokeWidth=0).encode(y=lowest, y2="highest_seed:Q")
    line = base.mark_line(point=True, strokeWidth=1.5).encode(y=alt.Y("value:Q", title=y_title))
    return _layer(title, zero, band, line)


def proposition(frame: pl.DataFrame, methods: Sequence[str], title: str) -> Panel:
    """Columns method, renyi2, mean, low, high: a point with its interval for each bin, and the curve 1 − exp(−H₂)."""
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


def ratios(frame: pl.DataFrame, name: str, title: str) -> Panel:
    """Columns method, weight and ``name``, a ratio: a point for each run, in one line for each method and weight."""
    weights = frame["weight"].unique(maintain_order=True).to_list()
    colour = alt.Color("weight:N", scale=alt.Scale(domain=weights, range=list(COLOURS[: len(weights)])))
    one = alt.Chart(pl.DataFrame({"x": [1.0]})).mark_rule(color=MUTED, strokeDash=[3, 3]).encode(x="x:Q")
    points = alt.Chart(frame).mark_point(filled=True, size=50, opacity=0.85)
    points = points.encode(
        x=alt.X(f"{name}:Q", title="variance over the unscaled", axis=alt.Axis(tickCount=5)),
        y=alt.Y("method:N", sort=None, title=None, axis=alt.Axis(labelLimit=150)),
        yOffset=alt.YOffset("weight:N", sort=weights),
        color=colour.legend(columns=1),
    )
    return _layer(title, one, points).properties(height=alt.Step(16, **{"for": "offset"}))


def heat_map(frame: pl.DataFrame, x: str, y: str, names: dict[str, str], title: str) -> Panel:
    """Columns ``x``, ``y``, success: a cell with its number for each pair of values.

    In both themes of the page, cells are light and their numbers dark.
    """
    base = alt.Chart(frame).encode(
        x=alt.X(f"{x}:O", title=names[x], axis=alt.Axis(labelAngle=0)),
        y=alt.Y(f"{y}:O", title=names[y], sort="descending"),
    )
    scale = alt.Scale(range=["#eef4fb", "#7fb2e6"])
    cells = base.mark_rect().encode(color=alt.Color("success:Q", scale=scale, legend=None))
    numbers = base.mark_text(color="#0b1320", fontSize=11).encode(text=alt.Text("success:Q", format=".1%"))
    return _layer(title, cells, numbers).properties(height=HEIGHT * 0.8)


def stacked(frame: pl.DataFrame, by: str, colours: dict[str, str], x: alt.X, title: str) -> Panel:
    """Columns method, ``by`` and that of ``x``: a bar for each method, split by ``by`` in the order of ``colours``."""
    order = pl.col(by).replace_strict(list(colours), range(len(colours)))
    shown = [part for part in colours if part in set(frame[by])]
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    bars = (
        alt.Chart(frame.with_columns(order=order))
        .mark_bar()
        .encode(
            x=x.stack("zero"),
            y=alt.Y("method:N", sort=None, title=None, axis=alt.Axis(labelLimit=150)),
            color=alt.Color(f"{by}:N", scale=scale).legend(values=shown, columns=3),
            order=alt.Order("order:Q"),
        )
    )
    return alt.layer(bars).properties(width=WIDTH, height=alt.Step(24), title=title)
