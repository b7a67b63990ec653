"""How charts look, in the page and in files.

A colour means one method throughout; what is not a method (endings, parts of a cost) has colours of another family. In
the page :func:`to_svg` makes colours CSS variables, so that a figure is light or dark as the reader prefers, and leaves
what a mark shows in ``data-v`` for the page's script. In a file colours stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import altair as alt

Panel = Any  # one of altair's chart classes; they have no common base with the methods used here

INK, MUTED, GRID, PAPER = "#1c2733", "#556270", "#d8dee4", "#ffffff"
COLOURS = ("#2563a8", "#c65d12", "#2a8a62", "#8a4fb0", "#b3325c", "#7a6a12", "#1c8ca0", "#55606b")  # of methods
SOFT = ("#7fbf9b", "#d8a0b0", "#e0c079", "#b3a5d6", "#9fbbd8", "#c9b39a", "#b8c0c8")  # of endings
SHADES = ("#33475b", "#5b7086", "#8b9cad", "#b5c1cc", "#d9e0e7")  # of parts of a cost
CSS_NAMES = (
    {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}
    | {c: f"c{i}" for i, c in enumerate(COLOURS)}
    | {c: f"s{i}" for i, c in enumerate(SOFT)}
    | {c: f"p{i}" for i, c in enumerate(SHADES)}
)
_LABELLED = re.compile(r' aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="(?:[a-z]+ mark|bar|point)"')
_ARIA = re.compile(r' (?:aria-[a-z]+|role)="[^"]*"')

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
        "aria": False,
    },
    "legend": {
        "labelColor": INK,
        "orient": "bottom",
        "title": None,
        "labelFontSize": 11,
        "symbolStrokeWidth": 2,
        "columns": 3,
        "labelLimit": 220,
        "columnPadding": 18,
        "symbolOpacity": 1,
    },
    "title": {"color": INK, "fontSize": 12, "fontWeight": 600, "anchor": "start", "offset": 8},
    "range": {"category": list(COLOURS)},
}


def css(colour: str) -> str:
    """The CSS variable of a colour in the page."""
    return f"var(--{CSS_NAMES[colour]})"


def to_svg(chart: Panel, *, themed: bool) -> str:
    """The chart as SVG text. For a page, ``themed`` makes colours CSS variables, the title the accessible name, and
    leaves out the legend, which the page has once for each figure."""
    import vl_convert

    # Validating a chart, or copying it to configure it, would cost as much as drawing it.
    specification = chart.to_dict(validate=False)
    axes = specification.pop("usermeta", {})
    specification["config"] = {**CONFIG, "background": "transparent" if themed else PAPER}
    if themed:
        _drop_legends(specification)
    svg = str(vl_convert.vegalite_to_svg(specification))
    if not themed:
        return svg
    for colour, name in CSS_NAMES.items():
        svg = svg.replace(f'"{colour}"', f'"var(--{name})"')
    svg = _ARIA.sub("", _LABELLED.sub(r' data-v="\1"', svg))
    read = "".join(f' data-{key}="{escape(str(value), quote=True)}"' for key, value in axes.items())
    name = escape(str(specification.get("title", "")), quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{name}"{read} ', 1)


def _drop_legends(specification: dict[str, Any]) -> None:
    for channel in specification.get("encoding", {}).values():
        if isinstance(channel, dict) and "scale" in channel:
            channel["legend"] = None
    for layer in specification.get("layer", []):
        _drop_legends(layer)


def side_by_side(charts: Sequence[Panel], columns: int, *, own_colours: bool = False) -> Panel:
    """All panels of a figure as one chart, for the figure's file: with one legend, or with ``own_colours`` of each."""
    together = alt.concat(*charts, columns=columns)
    return together.resolve_scale(color="independent") if own_colours else together
