"""The report: one HTML page that needs no network and no script, its tables as CSV and Parquet, its figures as SVG."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from empg.config import Study, parse, read_yaml
from empg.files import atomic_path, read_json, write_json, write_text
from empg.provenance import stage
from empg.study import analysis, course, entropy_change, figures
from empg.study.aggregates import aggregate_table
from empg.study.commands import command
from empg.study.plates import Plate, plates
from empg.study.results import WARM_START, Results, Run

# The tables of arXiv 2509.09265 by type of environment: title, heads, rows; percent.
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
GRADIENTS = ("norm", "before", "after")
STATISTICS = ("aggregates", "efficiency", "stability", "entropy_change", "gradient_variance")
CREDITED_COLUMNS = ("iteration", "trajectory", "step", "trained", "step_entropy", "gradient_scale")


def run(config: Path, results: Path, out: Path) -> None:
    """Make ``out/report.html``, ``out/metrics.json``, ``out/tables`` and ``out/figures``.

    ``config`` is the study's file, ``results`` the folder (results/STUDY) that holds what its stages wrote.
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
        tables = make_tables(read)
        for name, table in tables.items():
            save_table(table, out / "tables", name)
        drawn = plates(study, tables)
        for plate in drawn:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # altair's remarks on the panels' differing legends
                write_text(out / "figures" / f"{plate.name}.svg", figures.to_svg(plate.whole(), themed=False))
        write_json(out / "metrics.json", metrics(tables["results"], tables["aggregates"]))
        write_text(out / "report.html", render(read, tables, drawn))


def make_tables(results: Results) -> dict[str, pl.DataFrame]:
    """Every table of the report by name."""
    from empg.study.proposition import bin_means, equal_counts, equal_widths, measure

    study = results.study
    panels, episodes, training = results.panels(), results.episodes(), results.training()
    credited = pl.concat(results.credited(run, CREDITED_COLUMNS) for run in results.trained())
    measured = [measure(results, run) for run in results.trained()]
    score_norms, gradient_norms, gradient_moments = (pl.concat(parts[i] for parts in measured) for i in (0, 1, 2))
    rescored = pl.concat(entropy_change.rescored_steps(results, run) for run in results.trained())
    progress = course.training_progress(results, training, credited)
    efficiency = course.sample_efficiency(study, progress)
    scaled = [name for name, method in study.methods.items() if method.modulation in ("empg", "empg_scale")]
    per = ["environment", "method"]
    trained = credited.filter(pl.col("trained"))
    tables = {
        "results": analysis.result_table(study, panels, episodes),
        "panels": panels,
        "success_by_type": analysis.success_by_type(episodes),
        "stop_reasons": analysis.stop_reasons(episodes),
        "episode_metrics": analysis.episode_metrics(episodes),
        "learning_curves": analysis.learning_curves(training, credited),
        "training": training,
        "step_entropy": analysis.histograms(trained, "step_entropy"),
        "gradient_scale": analysis.histograms(trained.filter(pl.col("method").is_in(scaled)), "gradient_scale"),
        "equal_reward": analysis.over_seeds(training, "equal_reward_mass"),
        "score_norms": score_norms,
        "proposition1": bin_means(
            score_norms, "renyi2", ["measured", "expected"], bins=equal_widths("renyi2", 24), per=per
        ),
        "gradient_norms": gradient_norms,
        "gradient_norm": bin_means(
            gradient_norms, "step_entropy", list(GRADIENTS), bins=equal_counts("step_entropy", 6), per=per
        ),
        "cost": analysis.cost(results),
        "aggregates": aggregate_table(study, episodes),
        "progress": progress,
        "sample_efficiency": efficiency,
        "efficiency": course.efficiency_over_seeds(efficiency),
        "stability": course.stability(study, progress, training, entropy_change.forward_kl(rescored)),
        "rescored_steps": rescored,
        "entropy_change": entropy_change.entropy_change(rescored, study.baseline),
        "gradient_moments": gradient_moments,
        "gradient_variance": course.gradient_variance(gradient_moments),
    }
    return {name: analysis.with_seeds(study, table) for name, table in tables.items()}


def save_table(table: pl.DataFrame, folder: Path, name: str) -> None:
    """``folder/name.csv`` and ``folder/name.parquet``."""
    with atomic_path(folder / f"{name}.parquet") as path:
        table.write_parquet(path, compression="zstd", statistics=False)
    with atomic_path(folder / f"{name}.csv") as path:
        table.write_csv(path)


def metrics(result_table: pl.DataFrame, aggregates: pl.DataFrame) -> dict[str, Any]:
    """Environment → split → mode → method → numbers that are there: what ``dvc metrics show`` reads."""
    nested: dict[str, Any] = {}
    chosen = {
        "success": result_table, "low": result_table, "high": result_table, "lift": result_table,
        "difference": result_table, "interquartile_mean": aggregates, "improvement": aggregates,
    }  # fmt: skip
    for name, table in chosen.items():
        for row in table.drop_nulls(name).iter_rows(named=True):
            place = nested
            for level in (*analysis.PANEL_KEY, "method"):
                place = place.setdefault(row[level], {})
            place[name] = row[name]
    return nested


def render(results: Results, tables: dict[str, pl.DataFrame], drawn: list[Plate]) -> str:
    """The page."""
    templates = Environment(
        loader=PackageLoader("empg.study"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": analysis.percent, "points": analysis.points, "numeral": numeral}
    environments = [environment_view(results, tables, name) for name in results.study.environments]
    types = dict.fromkeys(environment["type"] for environment in environments)
    return templates.get_template("report.html.j2").render(
        study=results.study,
        verdict=analysis.verdict(results.study, tables["results"]),
        environments=environments,
        plates=[
            {"plate": plate, "panels": [Markup(figures.to_svg(panel, themed=True)) for panel in plate.panels]}
            for plate in drawn
        ],
        cost=tables["cost"].to_dicts(),
        paper=[dict(zip(("title", "heads", "rows"), PAPER[t], strict=True)) for t in types],
        runs=[run_view(results, run) for run in results.runs()],
        tables=list(tables),
        statistics={name: tables[name].to_dicts() for name in STATISTICS}
        | {"window": course.WINDOW, "percentiles": 100 // entropy_change.BINS},
    )


def numeral(value: float, style: str) -> str:
    """A number as ``percent``, ``points``, ``whole`` or ``plain`` (three significant digits)."""
    styles = {
        "percent": analysis.percent,
        "points": analysis.points,
        "whole": "{:,.0f}".format,
        "plain": "{:.3g}".format,
    }
    return styles[style](value).replace("-", "−")


def environment_view(results: Results, tables: dict[str, pl.DataFrame], name: str) -> dict[str, Any]:
    """One environment's numbers as the template lays them out."""
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
    kind = read_json(results.warm_start(name).train / "manifest.json")["config"]["data"]["type"]
    return {"name": name, "panels": panels, "type": kind, "methods": [WARM_START, *results.study.methods]}


def run_view(results: Results, run: Run) -> dict[str, str]:
    """Links to a run's files, and the commands that made and check them, in the project's root."""
    study, data = Path("results", results.study.study), results.study.data_set(run.environment)
    made = [command(study, folder.relative_to(results.root).as_posix(), data) for folder in (run.train, run.evaluate)]
    place = (run.train if run.seed is None else run.train.parent).relative_to(results.root)
    return {
        "name": run.name,
        "train": results.relative(run.train),
        "evaluate": results.relative(run.evaluate),
        "commands": "\n".join([*made, f"empg audit {study / place}"]),
    }
