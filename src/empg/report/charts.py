"""Charts: each function turns a table into one panel of a figure and saves nothing. Style: :mod:`empg.report.style`.

``words`` of a table is what the page shows of a mark under the pointer. Domains are arguments, so that all panels of a
figure share their axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from empg.report.style import COLOURS, INK, MUTED, PAPER, Panel

Domain = tuple[float, float]

WIDTH, HEIGHT = 300, 190


def reach(*columns: pl.Series, least: float = 0.0) -> Domain:
    """From 0 to a little above the largest value of all columns: an axis that all panels of a figure share."""
    return 0.0, 1.04 * max([least, *(float(v) for column in columns for v in column.drop_nulls())])


def span(*columns: pl.Series) -> Domain:
    """A little more than the values of all columns, and 0."""
    values = [0.0, *(float(v) for column in columns for v in column.drop_nulls())]
    room = 0.04 * (max(values) - min(values) or 1.0)
    return min(values) - room, max(values) + room


def _method(methods: Sequence[str]) -> alt.Color:
    """The colour of each method, the same in every figure."""
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(methods))]
    return alt.Color("method:N", scale=alt.Scale(domain=list(methods), range=colours))


def _layer(title: str, *charts: Panel) -> Panel:
    return alt.layer(*charts).properties(width=WIDTH, height=HEIGHT, title=title)


def _readable(chart: Panel, x: Domain, y: Domain, style: str, x_name: str) -> Panel:
    """Tell the page's script how to read values off the lines: domains, style of numbers, name of the x axis."""
    axes = {"x": f"{x[0]:g} {x[1]:g}", "y": f"{y[0]:g} {y[1]:g}", "style": style, "name": x_name}
    return chart.properties(usermeta={**axes, "size": f"{WIDTH} {HEIGHT}"})


def share(name: str, title: str) -> alt.X:
    """A horizontal axis from 0 to 100 %."""
    return alt.X(f"{name}:Q", title=title, axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(domain=[0, 1]))


def amount(name: str, title: str, domain: Domain) -> alt.X:
    """A horizontal axis from 0."""
    return alt.X(f"{name}:Q", title=title, axis=alt.Axis(tickCount=5), scale=alt.Scale(domain=list(domain)))


def _y(name: str, title: str, domain: Domain, *, percent: bool = False) -> alt.Y:
    axis = alt.Axis(format="%", tickCount=5) if percent else alt.Axis(tickCount=5)
    return alt.Y(f"{name}:Q", title=title, axis=axis, scale=alt.Scale(domain=list(domain)))


def _iteration(last: int) -> alt.X:
    axis = alt.Axis(tickMinStep=1, format="d", tickCount=6)
    return alt.X("iteration:Q", title="iteration", axis=axis, scale=alt.Scale(domain=[0, last]))


def learning_curves(frame: pl.DataFrame, band: pl.DataFrame, methods: Sequence[str], title: str, last: int) -> Panel:
    """Columns iteration, method, seed, series, success, recent: a strong line of ``recent`` success for each run, and
    a faint one of each iteration's.

    ``band`` has columns iteration, method, seeds_low, seeds_high; it may have no rows.
    """
    x, whole = _iteration(last), (0.0, 1.0)
    base = alt.Chart(frame).encode(x=x, detail="series:N", color=_method(methods))

    def y(name: str) -> alt.Y:
        return _y(name, "success", whole, percent=True)

    raw = base.mark_line(strokeWidth=0.7, opacity=0.28, aria=False).encode(y=y("success"))
    recent = alt.Chart(frame.drop_nulls("recent")).mark_line(strokeWidth=2.2)
    recent = recent.encode(x=x, y=y("recent"), detail="series:N", color=_method(methods), description="series:N")
    area = alt.Chart(band).mark_area(opacity=0.15, strokeWidth=0, aria=False)
    area = area.encode(x=x, y=y("seeds_low"), y2="seeds_high:Q", color=_method(methods))
    return _readable(
        _layer(title, *([area] if len(band) else []), raw, recent), (0, last), whole, "percent", "iteration"
    )


def success(frame: pl.DataFrame, methods: Sequence[str], title: str) -> Panel:
    """Columns run, method, words, success, success_low, success_high: a point with its interval for each policy.

    A policy that belongs to no method (the warm start) is grey.
    """
    order = frame["run"].to_list()
    colour = alt.condition(
        alt.FieldOneOfPredicate("method", list(methods)), _method(methods).legend(None), alt.value(MUTED)
    )
    base = alt.Chart(frame).encode(
        y=alt.Y("run:N", sort=order, title=None, axis=alt.Axis(labelLimit=150)), color=colour
    )
    base = base.encode(description="words:N")
    interval = base.mark_rule(strokeWidth=2).encode(x=share("success_low", "success"), x2="success_high:Q")
    point = base.mark_point(filled=True, size=50, opacity=1).encode(x="success:Q")
    return _layer(title, interval, point).properties(height=alt.Step(20))


def differences(frame: pl.DataFrame, methods: Sequence[str], title: str, limit: float) -> Panel:
    """Columns panel, series, mode, method, difference, low, high, outer_low, outer_high: a row for each comparison.

    A thick line from ``low`` to ``high``, a thin one for the outer interval where there is one. Greedy dots are hollow.
    Beyond ``limit`` an interval is cut, which a triangle marks.
    """
    scale = alt.Scale(domain=[-limit, limit])
    outer = [pl.col(f"outer_{end}").clip(-limit, limit).alias(f"cut_{end}") for end in ("low", "high")]
    shown = frame.with_columns(*outer)
    base = alt.Chart(shown).encode(
        y=alt.Y("panel:N", sort=None, title=None, axis=alt.Axis(labelLimit=220)),
        yOffset=alt.YOffset("series:N", sort=None),
        color=_method(methods).legend(values=shown["method"].unique(maintain_order=True).to_list()),
    )
    axis = alt.Axis(labelExpr="format(100 * datum.value, '+.0f')", tickCount=7)
    x = alt.X("difference:Q", title="difference in success (points)", axis=axis, scale=scale)

    def along(name: str) -> alt.X:
        return alt.X(f"{name}:Q", scale=scale)

    thin = base.mark_rule(strokeWidth=1.2).encode(x=along("cut_low"), x2="cut_high:Q")
    thick = base.mark_rule(strokeWidth=4, opacity=0.5).encode(x=along("low"), x2="high:Q")
    hollow = alt.condition(alt.datum.mode == "greedy", alt.value(PAPER), _method(methods).legend(None))
    dot = base.mark_point(size=45, opacity=1, filled=True).encode(
        x=x, fill=hollow, stroke=_method(methods).legend(None)
    )
    marks = [
        base.transform_filter(f"datum.outer_{end} {sign} {limit}")
        .mark_point(shape=f"triangle-{side}", size=40, filled=True, opacity=1)
        .encode(x=along(f"cut_{end}"))
        for end, sign, side in (("low", "< -", "left"), ("high", ">", "right"))
    ]
    zero = alt.Chart(pl.DataFrame({"x": [0.0]})).mark_rule(color=MUTED).encode(x=along("x"))
    layers = [zero, *([thin, *marks] if shown["outer_low"].count() else []), thick, dot]
    return _layer(title, *layers).properties(height=alt.Step(15, **{"for": "offset"}), width=1.5 * WIDTH)


def histogram(frame: pl.DataFrame, methods: Sequence[str], title: str, x_title: str, *, x: Domain, y: Domain) -> Panel:
    """Columns method, left (of the bin), share: one outline for each method."""
    base = alt.Chart(frame).mark_line(interpolate="step-after", strokeWidth=1.5)
    line = base.encode(
        x=alt.X("left:Q", title=x_title, scale=alt.Scale(domain=list(x)), axis=alt.Axis(tickCount=6)),
        y=_y("share", "share of steps", y, percent=True),
        color=_method(methods),
        description="method:N",
    )
    return _readable(_layer(title, line), x, y, "percent", x_title)


def spread(
    frame: pl.DataFrame, methods: Sequence[str], title: str, y_title: str, y: Domain, *, percent: bool = False
) -> Panel:
    """Columns iteration, method, mean, lowest, highest: a line with a band for each method that has rows."""
    last = int(frame["iteration"].max())  # type: ignore[arg-type]
    base = alt.Chart(frame).encode(x=_iteration(last), color=_method(methods))
    band = base.mark_area(opacity=0.18, strokeWidth=0, aria=False)
    band = band.encode(y=_y("lowest", y_title, y, percent=percent), y2="highest:Q")
    line = base.mark_line(strokeWidth=1.5).encode(y=_y("mean", y_title, y, percent=percent), description="method:N")
    layers = [band, line] if (frame["lowest"] != frame["highest"]).any() else [line]
    return _readable(_layer(title, *layers), (0, last), y, "percent" if percent else "plain", "iteration")


def percentiles(frame: pl.DataFrame, methods: Sequence[str], title: str, y: Domain) -> Panel:
    """Columns method, percentile, value, lowest_seed, highest_seed: a line with a band for each method, about 0."""
    base = alt.Chart(frame).encode(
        x=alt.X("percentile:Q", title="percentile of step entropy before", scale=alt.Scale(domain=[0, 100])),
        color=_method(methods),
    )
    y_title = "change of step entropy (nats)"
    zero = alt.Chart(pl.DataFrame({"y": [0.0]})).mark_rule(color=MUTED, strokeDash=[3, 3], aria=False)
    band = base.mark_area(opacity=0.18, strokeWidth=0, aria=False)
    band = band.encode(y=_y("lowest_seed", y_title, y), y2="highest_seed:Q")
    line = base.mark_line(strokeWidth=1.5).encode(y=_y("value", y_title, y), description="method:N")
    return _readable(_layer(title, zero.encode(y=_y("y", y_title, y)), band, line), (0, 100), y, "plain", "percentile")


def proposition(frame: pl.DataFrame, methods: Sequence[str], title: str, x_end: float, y_end: float) -> Panel:
    """Columns method, renyi2, mean, low, high: a point with its interval for each bin, and the curve 1 − exp(−H₂)."""
    curve = alt.Chart(alt.sequence(0, x_end, 0.02, as_="renyi2")).transform_calculate(mean="1 - exp(-datum.renyi2)")
    curve = curve.mark_line(color=MUTED, strokeDash=[4, 3], strokeWidth=1.5, aria=False)
    x = alt.X("renyi2:Q", title="Rényi-2 entropy of the token (nats)", scale=alt.Scale(domain=[0, x_end]))
    y_title, whole = "squared score norm", (0.0, y_end)
    points = alt.Chart(frame).encode(x=x, color=_method(methods), description="words:N")
    interval = points.mark_rule(strokeWidth=1.5).encode(y=_y("low", y_title, whole), y2="high:Q")
    y = _y("mean", y_title, whole)
    dots = points.mark_point(filled=True, size=30, opacity=1).encode(y=y)
    return _layer(title, curve.encode(x=x, y=y), interval, dots)


def gradient_norm(frame: pl.DataFrame, title: str, colour: str, x: Domain, y: Domain) -> Panel:
    """Columns step_entropy, quantity, words, mean, low, high: one line with intervals for each quantity.

    The last quantity, after modulation, has the ``colour`` of the method.
    """
    quantities = frame["quantity"].unique(maintain_order=True).to_list()
    scale = alt.Scale(domain=quantities, range=[MUTED, INK, colour])
    base = alt.Chart(frame).encode(
        x=alt.X("step_entropy:Q", title="step entropy (nats)", axis=alt.Axis(tickCount=5), scale=alt.Scale(domain=x)),
        color=alt.Color("quantity:N", scale=scale),
    )
    y_title = "gradient norm"
    interval = base.mark_rule(strokeWidth=1.5).encode(y=_y("low", y_title, y), y2="high:Q", description="words:N")
    line = base.mark_line(strokeWidth=1.5).encode(y=_y("mean", y_title, y), description="quantity:N")
    return _readable(_layer(title, interval, line), x, y, "plain", "step entropy")


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
    numbers = base.mark_text(color="#0b1320", fontSize=11, aria=False).encode(text=alt.Text("success:Q", format=".1%"))
    return _layer(title, cells, numbers).properties(height=HEIGHT * 0.8)


def stacked(frame: pl.DataFrame, by: str, colours: dict[str, str], x: alt.X, title: str) -> Panel:
    """Columns method, ``by``, words and that of ``x``: a bar for each method, whose parts are in ``colours``' order."""
    order = pl.col(by).replace_strict(list(colours), range(len(colours)))
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    bars = (
        alt.Chart(frame.with_columns(order=order))
        .mark_bar()
        .encode(
            x=x.stack("zero"),
            y=alt.Y("method:N", sort=None, title=None, axis=alt.Axis(labelLimit=150)),
            color=alt.Color(f"{by}:N", scale=scale).legend(columns=3),
            order=alt.Order("order:Q"),
            description="words:N",
        )
    )
    return alt.layer(bars).properties(width=WIDTH, height=alt.Step(24), title=title)
