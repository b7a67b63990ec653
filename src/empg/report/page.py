"""The report stage: an HTML page without network or script, with its tables (CSV, Parquet) and figures (SVG).

Each trained run has a page of its own with a sample of its trajectories.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from empg.analysis import entropy_change, training_summaries
from empg.analysis.aggregates import FEWEST_SEEDS
from empg.analysis.results import WARM_START, Results, Run
from empg.analysis.tables import make_tables, metrics, save_table
from empg.analysis.verdict import percent, points, verdict
from empg.config import Study, parse, read_yaml
from empg.files import atomic_directory, read_json, write_json, write_text
from empg.pipeline.commands import command
from empg.provenance import stage
from empg.report import charts, trajectories
from empg.report.figures import Figure, figures

# The tables of arXiv 2509.09265 by type of environment: title, heads, rows. Numbers are percent.
_TABLE_1 = ("model (paper)", "GRPO", "GRPO + EMPG", "DAPO", "DAPO + EMPG")
PAPER = {
    "alfworld": (
        "Table 1, ALFWorld, success",
        _TABLE_1,
        (("Qwen2.5-1.5B-Instruct", 65.6, 73.7, 80.8, 88.1), ("Qwen2.5-7B-Instruct", 74.8, 78.5, 90.0, 91.6)),
    ),
    "webshop": (
        "Table 1, WebShop, success",
        _TABLE_1,
        (("Qwen2.5-1.5B-Instruct", 58.2, 60.8, 73.2, 73.8), ("Qwen2.5-7B-Instruct", 65.6, 69.3, 79.6, 82.7)),
    ),
    "deepsearch": (
        "Table 2, Deep Search, Qwen2.5-32B-Instruct, in distribution (WebWalker, HotpotQA, 2WikiMultiHopQA) and out of "
        "it (MuSiQue, Bamboogle)",
        ("variant (paper)", "ID", "OOD", "all"),
        (
            ("DAPO", 63.5, 59.8, 62.0),
            ("+ gradient scaling only", 63.7, 63.7, 63.7),
            ("+ future clarity bonus only", 66.1, 61.4, 64.2),
            ("+ EMPG", 66.6, 63.7, 65.3),
        ),
    ),
}
STATISTICS = ("aggregates", "efficiency", "stability", "entropy_change", "gradient_variance")


def run(
    config: Path, results: Path, out: Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Make ``out/report.html``, ``out/metrics.json``, ``out/tables``, ``out/figures`` and ``out/trajectories``.

    ``config`` is the study's file, ``results`` the folder (results/STUDY) with the output of its stages. Calls
    ``progress(parts done, parts in all)``; parts are the rescored steps and the page of each run, the tables and the
    figures. Raises :class:`~empg.errors.DataError` for missing or damaged results.
    """
    study = parse(Study, read_yaml(config), str(config))
    read = Results(study, results)
    inputs = {
        folder.relative_to(results).as_posix(): folder
        for folder in [
            *(folder for run in read.runs() for folder in (run.train, run.evaluate)),
            *(results / environment / "rollouts" for environment in study.environments),
        ]
    }
    with stage("report", study, out, inputs=inputs):
        runs = [*read.trained()]
        parts = 2 * len(runs) + 2
        tables = make_tables(read, lambda done: progress(done, parts))
        for name, table in tables.items():
            save_table(table, out / "tables", name)
        progress(len(runs) + 1, parts)
        drawn = figures(study, tables)
        for figure in drawn:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # altair warns of panels with different legends
                write_text(out / "figures" / f"{figure.name}.svg", charts.to_svg(figure.whole(), themed=False))
        write_json(out / "metrics.json", metrics(tables["results"], tables["aggregates"]))
        templates = environment()
        with atomic_directory(out / "trajectories") as folder:
            for i, run in enumerate(runs, start=len(runs) + 2):
                progress(i, parts)
                write_text(folder / trajectories.page_name(**run.key), trajectories.render(read, run, templates))
        write_text(out / "report.html", render(read, tables, drawn, templates))


def environment() -> Environment:
    """The Jinja environment of the templates, which escapes all values."""
    templates = Environment(
        loader=PackageLoader("empg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "percent": percent,
        "points": points,
        "numeral": numeral,
        "anchor": lambda title: title.lower().replace(" ", "-"),
    }
    return templates


def render(results: Results, tables: dict[str, pl.DataFrame], drawn: list[Figure], templates: Environment) -> str:
    """The page as HTML."""
    bases = {name: base for name in results.study.methods if (base := results.study.compared_with(name))}
    sections: dict[str, list[dict[str, Any]]] = {}
    for figure in drawn:
        panels = [Markup(charts.to_svg(panel, themed=True)) for panel in figure.panels]  # noqa: S704 - escaped by Vega
        sections.setdefault(figure.caption.section, []).append({"figure": figure, "panels": panels})
    return templates.get_template("report.html.j2").render(
        study=results.study,
        verdict=verdict(results.study, tables["results"]),
        environments=[environment_view(results, tables, name) for name in results.study.environments],
        episodes=int(tables["panels"]["n"].sum()),
        sections=sections,
        cost=tables["cost"].to_dicts(),
        paper={name: dict(zip(("title", "heads", "rows"), table, strict=True)) for name, table in PAPER.items()},
        runs=[run_view(results, run) for run in results.runs()],
        statistics={name: tables[name].to_dicts() for name in STATISTICS},
        bases=bases,
        base_name=next(iter(bases.values()), results.study.baseline) if len(set(bases.values())) < 2 else "its base",
        fewest_seeds=FEWEST_SEEDS,
        window=training_summaries.WINDOW,
        range_width=100 // entropy_change.BINS,
    )


def numeral(value: float, style: str) -> str:
    """A number as ``percent``, ``share`` (whole percent), ``points``, ``whole`` or ``plain`` (three digits)."""
    styles = {
        "percent": percent,
        "share": "{:.0%}".format,
        "points": points,
        "whole": "{:,.0f}".format,
        "plain": "{:.3g}".format,
    }
    return styles[style](value).replace("-", "−")


def environment_view(results: Results, tables: dict[str, pl.DataFrame], name: str) -> dict[str, Any]:
    """One environment's numbers in the structure that the template needs."""
    panels = []
    for key, rows in tables["results"].filter(environment=name).group_by("split", "mode", maintain_order=True):
        split, mode = key
        place = {"environment": name, "split": split, "mode": mode}
        seeds = tables["panels"].filter(**place)
        types = tables["success_by_type"].filter(**place)
        stops = tables["stop_reasons"].filter(**place)
        own = tables["episode_metrics"].filter(**place)
        panels.append(
            {
                "split": split,
                "mode": mode,
                "rows": rows.to_dicts(),
                "policies": {m: part.to_dicts() for (m,), part in seeds.group_by("method", maintain_order=True)},
                "types": {
                    t: {r["method"]: r for r in part.to_dicts()} for (t,), part in sorted(types.group_by("task_type"))
                },
                "metrics": {
                    m: {r["method"]: r for r in part.to_dicts()}
                    for (m,), part in own.group_by("metric", maintain_order=True)
                },
                "stops": {
                    s: {r["method"]: r for r in part.to_dicts()} for (s,), part in sorted(stops.group_by("stop_reason"))
                },
            }
        )
    warm_start = results.warm_start(name)
    kind = read_json(warm_start.train / "manifest.json")["config"]["data"]["type"]
    about = read_json(warm_start.evaluate / "summary.json")["about"]
    methods = [WARM_START, *results.study.methods]
    return {"name": name, "panels": panels, "type": kind, "methods": methods, "about": about}


def run_view(results: Results, run: Run) -> dict[str, str]:
    """Links to a run's files, and the commands that make and check them in the project's root."""
    study, data = Path("results", results.study.study), results.study.data_set(run.environment)
    made = [command(study, folder.relative_to(results.root).as_posix(), data) for folder in (run.train, run.evaluate)]
    place = (run.train if run.seed is None else run.train.parent).relative_to(results.root)
    processes = max(read_json(folder / "timing.json").get("processes", 1) for folder in (run.train, run.evaluate))
    return {
        "name": run.name,
        "resumed": f"resumed, {processes} processes" if processes > 1 else "",
        "train": results.relative(run.train),
        "evaluate": results.relative(run.evaluate),
        "commands": "\n".join([*made, f"empg audit {study / place}"]),
        "trajectories": "" if run.method == WARM_START else f"trajectories/{trajectories.page_name(**run.key)}",
    }
