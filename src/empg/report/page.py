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
from empg.analysis.aggregates import FEWEST_SEEDS, aggregate_table
from empg.analysis.cost import cost, cost_by_part
from empg.analysis.results import WARM_START, Results, Run
from empg.analysis.sensitivity import sensitivity
from empg.analysis.success import PANEL_KEY, episode_metrics, result_table, stop_reasons, success_by_type, with_seeds
from empg.analysis.training_curves import histograms, learning_curves, over_seeds
from empg.analysis.verdict import percent, points, verdict
from empg.config import Study, parse, read_yaml
from empg.files import atomic_directory, atomic_path, read_json, write_json, write_text
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
GRADIENTS = ("norm", "before", "after")
STATISTICS = ("aggregates", "efficiency", "stability", "entropy_change", "gradient_variance")
CREDITED_COLUMNS = ("iteration", "trajectory", "step", "trained", "step_entropy", "gradient_scale")


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


def make_tables(results: Results, on_run: Callable[[int], None] = lambda done: None) -> dict[str, pl.DataFrame]:
    """Every table of the report by name. Calls ``on_run`` with the number of runs whose steps are rescored."""
    study = results.study
    panels, episodes, training = results.panels(), results.episodes(), results.training()
    credited = pl.concat(results.credited(run, CREDITED_COLUMNS) for run in results.trained())
    scored = []
    for done, run in enumerate(results.trained()):
        on_run(done)
        scored.append(entropy_change.rescored_steps(results, run))
    rescored = pl.concat(scored)
    progress = training_summaries.training_progress(results, training, credited)
    efficiency = training_summaries.sample_efficiency(study, progress)
    scaled = [name for name, method in study.methods.items() if method.modulation in ("empg", "empg_scale")]
    trained = credited.filter(pl.col("trained"))
    results_table = result_table(study, panels, episodes)
    tables = {
        "results": results_table,
        "aggregates": aggregate_table(study, episodes),
        "panels": panels,
        "success_by_type": success_by_type(episodes),
        "stop_reasons": stop_reasons(episodes),
        "episode_metrics": episode_metrics(episodes),
        "learning_curves": learning_curves(training, credited),
        "training": training,
        "training_course": over_seeds(training, ["kl", "grad_norm", "step_entropy_mean"]),
        "stability": training_summaries.stability(study, progress, training, entropy_change.forward_kl(rescored)),
        "progress": progress,
        "sample_efficiency": efficiency,
        "efficiency": training_summaries.efficiency_over_seeds(efficiency),
        "step_entropy": histograms(trained, "step_entropy"),
        "gradient_scale": histograms(trained.filter(pl.col("method").is_in(scaled)), "gradient_scale"),
        "equal_reward": over_seeds(training, ["equal_reward_mass"]),
        "rescored_steps": rescored,
        "entropy_change": entropy_change.entropy_change(rescored, study),
        **gradient_tables(results),
        "sensitivity": sensitivity(study, results_table),
        "cost": cost(results),
        "cost_by_part": cost_by_part(results),
    }
    return {name: with_seeds(study, table) for name, table in tables.items()}


def gradient_tables(results: Results) -> dict[str, pl.DataFrame]:
    """Measurements on the trained networks: Proposition 1, norms and variance of gradients."""
    from empg.analysis.proposition import bin_means, equal_counts, equal_widths, measure

    measured = [measure(results, run) for run in results.trained()]
    score_norms, gradient_norms, moments = (pl.concat(parts[i] for parts in measured) for i in (0, 1, 2))
    ratios = training_summaries.gradient_ratios(moments)
    per = ["environment", "method"]
    return {
        "score_norms": score_norms,
        "proposition1": bin_means(
            score_norms, "renyi2", ["measured", "expected"], bins=equal_widths("renyi2", 24), per=per
        ),
        "gradient_norms": gradient_norms,
        "gradient_norm": bin_means(
            gradient_norms, "step_entropy", list(GRADIENTS), bins=equal_counts("step_entropy", 6), per=per
        ),
        "gradient_moments": ratios,
        "gradient_variance": training_summaries.gradient_variance(ratios),
    }


def save_table(table: pl.DataFrame, folder: Path, name: str) -> None:
    """Write ``folder/name.csv`` and ``folder/name.parquet``."""
    with atomic_path(folder / f"{name}.parquet") as path:
        table.write_parquet(path, compression="zstd", statistics=False)
    with atomic_path(folder / f"{name}.csv") as path:
        table.write_csv(path)


def metrics(results_table: pl.DataFrame, aggregates: pl.DataFrame) -> dict[str, Any]:
    """Environment → split → mode → method → its numbers, without nulls: the file for ``dvc metrics show``."""
    nested: dict[str, Any] = {}
    chosen = {
        "success": results_table,
        "low": results_table,
        "high": results_table,
        "lift": results_table,
        "difference": results_table,
        "interquartile_mean": aggregates,
        "improvement": aggregates,
    }
    for name, table in chosen.items():
        for row in table.drop_nulls(name).iter_rows(named=True):
            place = nested
            for level in (*PANEL_KEY, "method"):
                place = place.setdefault(row[level], {})
            place[name] = row[name]
    return nested


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
        panels = [Markup(charts.to_svg(panel, themed=True)) for panel in figure.panels]
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
