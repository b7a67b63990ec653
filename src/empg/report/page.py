"""The report stage: an HTML page that needs no network, with its tables (CSV, Parquet) and figures (SVG).

A small script shows values under the pointer; the page says the same without it.

Each trained run has a page of its own with the episodes of its last training iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from empg.analysis import entropy_change, training_summaries
from empg.analysis.results import WARM_START, Results, Run
from empg.analysis.statistics import FEWEST_SEEDS
from empg.analysis.tables import make_tables, metrics, panel_files, save_table
from empg.analysis.verdict import percent, points, trained_text, verdict
from empg.analysis.warnings import find_warnings, run_title
from empg.config import Study, parse, read_yaml
from empg.files import atomic_directory, read_json, write_json, write_text
from empg.pipeline.commands import command
from empg.provenance import stage
from empg.report import overview, panels, paper, style, trajectories
from empg.report.addresses import trajectories_page
from empg.report.figures import Figure, figures
from empg.report.names import titles, with_titles
from empg.report.security import content_policy

STATISTICS = ("aggregates", "efficiency", "stability", "entropy_change")


def run(
    config: Path, results: Path, out: Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Make ``out/report.html``, ``out/metrics.json`` and the folders ``dvc``, ``tables``, ``figures``, ``trajectories``
    and ``episodes`` of ``out``.

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
        drawn = figures(*with_titles(study, tables))
        for figure in drawn:
            write_text(out / "figures" / f"{figure.name}.svg", style.to_svg(figure.whole(), themed=False))
        write_json(out / "metrics.json", metrics(tables["results"], tables["aggregates"]))
        with atomic_directory(out / "dvc") as folder:
            for name, success in panel_files(tables["results"]).items():
                write_json(folder / name, success)
        templates = environment()
        with atomic_directory(out / "trajectories") as folder:
            for i, run in enumerate(runs, start=len(runs) + 2):
                progress(i, parts)
                write_text(folder / Path(trajectories_page(**run.key)).name, trajectories.render(read, run, templates))
        panels.write_all(read, out, templates)
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
        "needed": needed,
        "anchor": lambda title: title.lower().replace(" ", "-"),
    }
    return templates


def render(results: Results, tables: dict[str, pl.DataFrame], drawn: list[Figure], templates: Environment) -> str:
    """The page as HTML. It names methods as people do (:mod:`empg.report.names`); links and files keep their names."""
    study, shown = with_titles(results.study, tables)
    names = {title: name for name, title in titles(results.study).items()}
    bases = {name: base for name in study.methods if (base := study.compared_with(name))}
    sections: dict[str, list[dict[str, Any]]] = {}
    for figure in drawn:
        drawings = [] if figure.name == "difference" else [Markup(style.to_svg(p, themed=True)) for p in figure.panels]
        legend = {label: style.css(colour) for label, colour in figure.legend.items()}
        entry = {"figure": figure, "panels": drawings, "legend": legend}
        sections.setdefault(figure.caption.section, []).append(entry)
    environments = [environment_view(results, study, shown, name) for name in study.environments]
    script = str(templates.get_template("report.js").render())
    sentences = verdict(study, shown["verdict"], shown["results"])
    headline, _, more = sentences[0].partition(". ")
    return templates.get_template("report.html.j2").render(
        study=study,
        headline=headline,
        more=more,
        verdict=sentences[1:],
        forest=overview.forest(study, shown),
        could_detect=overview.could_detect(shown["detectable"]),
        warnings=find_warnings(results, study, shown),
        few=len(study.seeds) < FEWEST_SEEDS,
        numbers=overview.numbers(study, names, shown),
        papers=paper.lines([view["type"] for view in environments]),
        pipeline=pipeline(study, shown),
        environments=environments,
        sections=sections,
        cost=tables["cost"].to_dicts(),
        runs=[run_view(results, run, names) for run in results.runs()],
        statistics={name: shown[name].to_dicts() for name in STATISTICS},
        bases=bases,
        base_name=next(iter(bases.values()), study.baseline) if len(set(bases.values())) < 2 else "its base",
        window=training_summaries.WINDOW,
        range_width=100 // entropy_change.BINS,
        script=Markup(script),
        policy=content_policy(script),
    )


def pipeline(study: Study, tables: dict[str, pl.DataFrame]) -> list[dict[str, str]]:
    """The stages of the study and their size, for the sketch of the pipeline."""

    def count(number: int, noun: str) -> str:
        return f"{number:,} {noun}{'' if number == 1 else 's'}"

    iterations = sorted({settings.train.iterations for settings in study.environments.values()})
    panels = tables["results"].select("environment", "split").n_unique()
    hours = float(tables["cost"]["cpu_seconds"].sum()) / 3600
    spread = " to ".join(str(end) for end in dict.fromkeys((iterations[0], iterations[-1])))
    training = f"{count(len(study.methods), 'method')}, {count(len(study.seeds), 'seed')} each, {spread} iterations"
    evaluation = f"{count(panels, 'panel')}, greedy and sampled, {int(tables['panels']['n'].sum()):,} episodes"
    steps = {
        "Data": count(len({study.data_set(name) for name in study.environments}), "data set"),
        "Warm start": "an expert, imitated: one policy an environment",
        "Rollouts": "the first batch, and how hard each task is",
        "Train": f"{training}; nothing else differs",
        "Evaluate": evaluation,
        "Report": f"{hours:.2f} CPU hours in all; each number leads to its episodes",
    }
    return [{"name": name, "text": text} for name, text in steps.items()]


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


def needed(row: dict[str, Any], need: str) -> tuple[str, str]:
    """What the seeds needed to reach a threshold, as text: the median, and the least to the most.

    ``row`` is one of the table ``efficiency``. A seed that reached the threshold at a cost that nobody recorded is
    "unknown"; only a seed that did not reach it is "never".
    """
    if row["threshold"] is None:
        return "", ""
    if row["reached"] == 0:
        return "never", ""
    unknown = row["cpu_seconds_unknown"] if need == "cpu_seconds" else 0
    if unknown == row["reached"]:
        return "unknown", ""
    median, least, most = (row[f"{need}_{part}"] for part in ("median", "least", "most"))
    missed = row["reached"] < row["seeds"]
    last = "never" if missed else numeral(most, "whole")
    spread = f"{numeral(least, 'whole')} to {last}" + (f", {unknown} unknown" if unknown else "")
    return ("never for half" if median is None else numeral(median, "whole")), spread


def environment_view(results: Results, study: Study, tables: dict[str, pl.DataFrame], name: str) -> dict[str, Any]:
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
                "cooled": tables["cooled_warm_start"].filter(**place).to_dicts(),
                "trained": trained_text(tables["trained_tasks"], name, str(split)),
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
    methods = [WARM_START, *study.methods]
    return {"name": name, "panels": panels, "type": kind, "methods": methods, "about": about}


def run_view(results: Results, run: Run, names: dict[str, str]) -> dict[str, str]:
    """Links to a run's files, and the commands that make and check them in the project's root."""
    study, data = Path("results", results.study.study), results.study.data_set(run.environment)
    made = [command(study, folder.relative_to(results.root).as_posix(), data) for folder in (run.train, run.evaluate)]
    place = (run.train if run.seed is None else run.train.parent).relative_to(results.root)
    processes = max(read_json(folder / "timing.json").get("processes", 1) for folder in (run.train, run.evaluate))
    return {
        "name": run_title(run, {name: title for title, name in names.items()}),
        "resumed": f"resumed, {processes} processes" if processes > 1 else "",
        "train": results.relative(run.train),
        "evaluate": results.relative(run.evaluate),
        "commands": "\n".join([*made, f"empg audit {study / place}"]),
        "trajectories": "" if run.method == WARM_START else trajectories_page(**run.key),
    }
