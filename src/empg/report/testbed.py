"""The testbed's report: its tables, its figures and a page in Markdown that shows both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import altair as alt
import polars as pl

from empg.analysis.tables import save_table
from empg.config import Study, parse
from empg.errors import ConfigError
from empg.files import read_json, write_text
from empg.provenance import stage
from empg.report import style
from empg.report.style import Panel
from empg.schema import read_parquet
from empg.testbed.summary import tables

CAPTIONS = {
    "compared": "Cosine to the exact gradient times 100, difference to {baseline}, over the mean entropies (nats) of "
    "decisive steps (across) and of other steps (up). A number in bold has a 95 % interval, over worlds, that "
    "leaves out 0. The first panel is {baseline} itself.",
    "map_cosine": "The same for every method.",
    "map_snr": "The same for the signal-to-noise ratio times 100: the mean component along the exact gradient over the "
    "root of the summed variance of all components.",
    "map_learning": "Success after training, difference to {baseline} in points, for each optimiser. Bold as above, "
    "over seeds.",
    "sweeps": "Cosine, difference to {baseline}, with one setting varied at places of the map (decisive / others). "
    "Lines are means, bars 95 % intervals over worlds.",
}


def run(config: Path, results: Path, out: Path) -> None:
    """Write ``out/README.md``, ``out/tables`` (CSV and Parquet) and ``out/figures`` (SVG).

    ``results`` holds a folder for each part of the testbed. Raises :class:`ConfigError` for a study without a testbed.
    """
    study = parse(Study, read_json(config), str(config))
    if study.testbed is None:
        raise ConfigError(f"{config}: testbed: expected the settings of a testbed, found none")
    parts = {name: results / name for name in ("gradients", "learning")}
    with stage("testbed_report", study, out, inputs=parts):
        rows = {name: read_parquet(folder / f"{name}.parquet") for name, folder in parts.items()}
        made = tables(rows["gradients"], rows["learning"], study.baseline)
        for name, table in made.items():
            save_table(table, out / "tables", name)
        drawn = {name: panels for name, panels in figures(study, made).items() if panels}
        for name, panels in drawn.items():
            whole = style.side_by_side(panels, 3, own_colours=name != "sweeps")  # each map has a scale of its own
            write_text(out / "figures" / f"{name}.svg", style.to_svg(whole, themed=False))
        write_text(out / "README.md", page(study, made, list(drawn)))


def figures(study: Study, made: dict[str, pl.DataFrame]) -> dict[str, list[Panel]]:
    """The panels of each figure, by name."""
    assert study.testbed is not None
    cosine = made["map"].filter(quantity="cosine")
    return {
        "compared": list(_maps(study, cosine, (study.baseline, *study.testbed.compared))),
        "map_cosine": list(_maps(study, cosine, tuple(study.methods))),
        "map_snr": list(_maps(study, made["map"].filter(quantity="snr"), tuple(study.methods))),
        "map_learning": list(_learning(study, made["learning"].filter(quantity="success"))),
        "sweeps": list(_sweeps(study, made["sweeps"])) if "sweeps" in made else [],
    }


def _maps(study: Study, table: pl.DataFrame, methods: tuple[str, ...]) -> Iterator[Panel]:
    for name in methods:
        rows = table.filter(method=name)
        if name == study.baseline:
            yield entropy_map(rows.with_columns(shown="mean", sure=pl.lit(False)), f"{name}: itself")
        else:
            yield entropy_map(_differences(rows), f"{name} − {study.baseline}")


def _learning(study: Study, table: pl.DataFrame) -> Iterator[Panel]:
    assert study.testbed is not None
    for name in (study.baseline, *study.testbed.compared):
        for (rule,), part in table.filter(method=name).group_by("optimiser", maintain_order=True):
            if name == study.baseline:
                yield entropy_map(part.with_columns(shown="mean", sure=pl.lit(False)), f"{name}, {rule}: itself")
            else:
                yield entropy_map(_differences(part), f"{name} − {study.baseline}, {rule}")


def _differences(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(shown="difference", sure=(pl.col("difference_low") > 0) | (pl.col("difference_high") < 0))


def _sweeps(study: Study, table: pl.DataFrame) -> Iterator[Panel]:
    assert study.testbed is not None
    compared = list(study.testbed.compared)
    shown = table.filter(pl.col("method") != study.baseline).with_columns(
        place=pl.format("{} / {}", "decisive_entropy", "other_entropy")
    )
    for (sweep,), part in shown.group_by("sweep", maintain_order=True):
        for (place,), rows in part.group_by("place", maintain_order=True):
            yield sweep_panel(rows, compared, f"{sweep} at {place}", str(sweep))


def entropy_map(frame: pl.DataFrame, title: str) -> Panel:
    """Columns decisive_entropy, other_entropy, ``shown`` and sure: a cell with its number for each pair.

    Numbers are 100 times the value, bold where ``sure``. Blue is better, orange worse than 0.
    """
    base = alt.Chart(frame).encode(
        x=alt.X("decisive_entropy:O", title="entropy of decisive steps", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("other_entropy:O", title="of other steps", sort="descending"),
    )
    reach = max(1e-9, float(frame["shown"].abs().max() or 0.0))  # type: ignore[arg-type]
    colour = alt.Scale(domain=[-reach, 0, reach], range=["#e9a66b", "#f7f7f5", "#7fb2e6"])
    cells = base.mark_rect().encode(color=alt.Color("shown:Q", scale=colour, legend=None))
    text = alt.Text("number:N")
    signs = "" if not frame["sure"].any() and float(frame["shown"].min() or 0) >= 0 else "+"  # type: ignore[arg-type]
    numbered = frame.with_columns(
        number=pl.col("shown").map_elements(lambda v: f"{100 * v:{signs}.1f}".replace("-", "−"), return_dtype=pl.String)
    )
    plain = alt.Chart(numbered).encode(x=base.encoding.x, y=base.encoding.y, text=text)
    light = plain.transform_filter("!datum.sure").mark_text(color="#0b1320", fontSize=11)
    bold = plain.transform_filter("datum.sure").mark_text(color="#0b1320", fontSize=11, fontWeight="bold")
    return alt.layer(cells, light, bold).properties(width=190, height=150, title=title)


def sweep_panel(frame: pl.DataFrame, methods: list[str], title: str, x_title: str) -> Panel:
    """Columns value, method, difference, difference_low, difference_high: a line with intervals for each method."""
    base = alt.Chart(frame).encode(
        x=alt.X("value:Q", title=x_title, axis=alt.Axis(tickCount=4)),
        color=alt.Color("method:N", scale=alt.Scale(domain=methods, range=list(style.COLOURS[: len(methods)]))),
    )
    title_y = "cosine, difference"
    zero = alt.Chart(pl.DataFrame({"y": [0.0]})).mark_rule(color=style.MUTED, strokeDash=[3, 3]).encode(y="y:Q")
    bars = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("difference_low:Q", title=title_y), y2="difference_high:Q")
    line = base.mark_line(point=True, strokeWidth=1.5).encode(y=alt.Y("difference:Q", title=title_y))
    return alt.layer(zero, bars, line).properties(width=190, height=150, title=title)


def page(study: Study, made: dict[str, pl.DataFrame], drawn: list[str]) -> str:
    """The page in Markdown: the methods over the whole map, training at the places, and every figure."""
    lines = [f"# Testbed: the study `{study.study}`", "", study.description, "", "## Over the whole map", ""]
    lines += [
        f"Cosine to the exact gradient, difference to `{study.baseline}`: its mean over the map with a 95 % "
        "interval over worlds, the worst place (decisive / other entropy, nats), and the places where a 95 % interval "
        "lies above or below 0.",
        "",
        "| method | mean difference | worst | better | worse |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['method']} | {row['difference']:+.3f} ({row['difference_low']:+.3f} to {row['difference_high']:+.3f}) "
        f"| {row['worst']:+.3f} at {row['worst_decisive_entropy']} / {row['worst_other_entropy']} "
        f"| {row['better']} of {row['places']} | {row['worse']} of {row['places']} |"
        for row in made["area"].filter(pl.col("method") != study.baseline).iter_rows(named=True)
    ]
    lines += ["", "## After training", "", *_trained(study, made["learning"]), "", "## Figures", ""]
    for name in drawn:
        lines += [f"![{name}](figures/{name}.svg)", "", CAPTIONS[name].format(baseline=study.baseline), ""]
    lines += ["Tables: " + ", ".join(f"[{name}](tables/{name}.csv)" for name in made)]
    return re.sub(r"(?<=[ (])-(?=\d)", "−", "\n".join(lines)) + "\n"


def _trained(study: Study, learning: pl.DataFrame) -> Iterator[str]:
    """A table of success after training at each place for each method and optimiser."""
    assert study.testbed is not None
    yield "Success after training in %, and its difference to the baseline in points (95 % interval over seeds)."
    for decisive, other in study.testbed.places:
        here = learning.filter(quantity="success", decisive_entropy=decisive, other_entropy=other)
        rules = here["optimiser"].unique(maintain_order=True).to_list()
        yield from ("", f"Decisive steps {decisive} nats, others {other}:", "")
        yield from (f"| method | {' | '.join(rules)} |", f"|---|{'---|' * len(rules)}")
        for name in study.methods:
            cells = [_cell(here.filter(method=name, optimiser=rule), name == study.baseline) for rule in rules]
            yield f"| {name} | {' | '.join(cells)} |"


def _cell(rows: pl.DataFrame, is_baseline: bool) -> str:
    row = rows.row(0, named=True)
    if is_baseline:
        return f"{100 * row['mean']:.1f}"
    low, high = 100 * row["difference_low"], 100 * row["difference_high"]
    return f"{100 * row['mean']:.1f}: {100 * row['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
