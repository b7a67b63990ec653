"""Publishes a study's results as a Markdown page with small files beside it, for a repository to keep."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from empg.analysis.results import Results
from empg.analysis.verdict import points, trained_text, verdict
from empg.config import Study, parse
from empg.errors import DataError
from empg.files import atomic_directory, read_json, write_text
from empg.pipeline.origin import commit
from empg.report.captions import CAPTIONS
from empg.report.names import with_titles
from empg.schema import read_parquet
from empg.timing import processor

LARGEST = 200_000  # bytes; the page only names larger tables
NOTE = (
    "Success is the mean over seeds in %; lift (over the warm start) and differences are in points. Intervals are 95 % "
    "intervals: Student's t for other seeds, from three seeds on; seeds and clusters of tasks both drawn anew for a "
    "difference (tasks alone with fewer than three seeds). A difference is to the method named."
)
POOLED = (
    "Warm starts of a pool count as one environment: the success of their policies, cooled ones included, is the mean "
    "over them, and a run's lift is over its own. [results.csv](tables/results.csv) has each warm start's panels."
)
STAGES = ("warmstart", "train", "evaluate", "report")
PARTS = ("figures/*.svg", "tables/*.csv")  # of a page


def run(results: Path, out: Path) -> None:
    """Write a page, ``out/README.md``, and beside it ``tables`` (CSV), ``figures`` (SVG) and ``study.json``.

    Everything comes from the report in ``results`` (results/STUDY), from the study's search, if there is one
    (``results/tune/STUDY``), which goes to ``out/search``, and from its page on decisiveness, if it has measured that,
    which goes to ``out/decisiveness``. An older ``out`` is replaced.

    A study of the testbed alone has the page of its testbed. Raises :class:`DataError` where there is no report, and
    where ``out`` holds other files than a published page or ``results`` itself, since it is replaced as a whole.
    """
    _check_replaceable(out, results)
    config = results / "config" / "study.json"
    study = parse(Study, read_json(config), str(config))
    report = results / "report" if study.environments else results / "testbed" / "report"
    if not (report / "manifest.json").exists():
        raise DataError(f"{report}: expected the study's report, found none")
    if not study.environments:
        _testbed(results, out)
        return
    tables = sorted((report / "tables").glob("*.csv"), key=lambda path: path.name)
    small = [path for path in tables if path.stat().st_size <= LARGEST]
    figures = [name for name in CAPTIONS if (report / "figures" / f"{name}.svg").exists()]
    large = [path.name for path in tables if path not in small]
    with atomic_directory(out) as folder:
        _copy(_search(results), folder / "search", *PARTS, "README.md")
        _copy(report, folder, *(f"tables/{path.name}" for path in small), *(f"figures/{name}.svg" for name in figures))
        shutil.copyfile(config, folder / "study.json")
        write_text(folder / "README.md", page(study, results, figures, [path.name for path in small], large))
        if study.decisiveness is not None:
            _decisiveness(results / "decisiveness" / "report", folder / "decisiveness")


def _check_replaceable(out: Path, results: Path) -> None:
    if results.resolve().is_relative_to(out.resolve()):
        raise DataError(f"{out}: expected a folder that does not hold the results, found {results} in it")
    if out.exists() and not (out.is_dir() and ((out / "study.json").exists() or not any(out.iterdir()))):
        raise DataError(f"{out}: expected a new folder or a published page (with study.json), found other files")


def _testbed(results: Path, out: Path) -> None:
    """Write the page, figures and CSV tables of a testbed's report, with their origin."""
    report = results / "testbed" / "report"
    timings = [read_json(path) for path in sorted((results / "testbed").glob("*/timing.json"))]
    finished = datetime.fromtimestamp((report / "manifest.json").stat().st_mtime, UTC)
    commits = sorted({(commit(path.parent) or "unknown")[:12] for path in (results / "testbed").glob("*/timing.json")})
    processors = ", ".join(sorted({timing.get("processor", "an unknown processor") for timing in timings}))
    origin = (
        f"Finished on {finished:%Y-%m-%d}, {sum(timing['cpu_seconds'] for timing in timings):.0f} CPU seconds on "
        f"{processors}. Commits: {', '.join(commits)}. Settings: [study.json](study.json)."
    )
    with atomic_directory(out) as folder:
        _copy(report, folder, *PARTS)
        shutil.copyfile(results / "config" / "study.json", folder / "study.json")
        text = (report / "README.md").read_text(encoding="utf-8")
        write_text(folder / "README.md", text.replace("\n## Over", f"\n{origin}\n\n## Over", 1))


def _decisiveness(report: Path, out: Path) -> None:
    """Copy the page on decisiveness with its figures and CSV tables. Raises :class:`DataError` where there is none."""
    if not (report / "manifest.json").exists():
        raise DataError(f"{report}: expected the report on decisiveness, found none")
    _copy(report, out, *PARTS, "README.md")


def _copy(source: Path, out: Path, *patterns: str) -> None:
    """Copy the files of a folder that match, to the same places under ``out``."""
    for path in sorted(path for pattern in patterns for path in source.glob(pattern)):
        target = out / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def page(study: Study, results: Path, figures: list[str], small: list[str], large: list[str]) -> str:
    """The page in Markdown: origin of the results, verdict, every panel, search, figures with captions, table names."""
    names = ("results", "pools", "verdict", "trained_tasks", "cooled_warm_start", "cost")
    read = {name: read_parquet(results / "report" / "tables" / f"{name}.parquet") for name in names}
    called, shown = with_titles(study, read)
    table, trained, cooled, cost = (shown[name] for name in ("results", "trained_tasks", "cooled_warm_start", "cost"))
    lines = [
        f"# Results of the study `{study.study}`",
        "",
        study.description,
        "",
        *_origin(study, results, cost),
        "",
        "## Verdict",
        "",
    ]
    lines += [line for sentence in verdict(called, shown["verdict"], table) for line in (sentence, "")]
    for name in study.pools or study.environments:
        own = study.pools.get(name, (name,))
        rows = shown["pools" if study.pools else "results"].filter(environment=name)
        lines += [f"## {name}", "", *panels(rows, cooled.filter(pl.col("environment").is_in(own)), len(own)), ""]
        seen = [trained_text(trained, own[0], split) for split in rows["split"].unique(maintain_order=True)]
        lines += [line for text in seen if text for line in (text, "")]
    lines += [f"{NOTE} {POOLED}" if study.pools else NOTE, ""]
    if (_search(results) / "README.md").exists():
        lines += ["Settings were searched for on the panel `tune`: [the search](search/README.md).", ""]
    if study.decisiveness is not None:
        lines += ["Which steps decide about the return: [decisiveness](decisiveness/README.md).", ""]
    lines += ["## Figures", ""]
    for name in figures:
        lines += [
            f"**{CAPTIONS[name].title}.** {CAPTIONS[name].text}",
            "",
            f"![{CAPTIONS[name].title}](figures/{name}.svg)",
            "",
        ]
    lines += ["## Tables", "", ", ".join(f"[{name}](tables/{name})" for name in small) + "."]
    if large:
        lines += ["", f"Too large for a repository, made again by the study: {', '.join(large)}."]
    return "\n".join([*lines, ""])


def panels(table: pl.DataFrame, cooled: pl.DataFrame, warm_starts: int) -> list[str]:
    """The rows of one environment or pool as a Markdown table, without columns that are empty; ``cooled`` has those of
    its warm starts."""
    heads = (
        "panel",
        "policy",
        "seeds",
        "success",
        "other seeds",
        "lowest to highest seed",
        "lift",
        "difference",
        "other seeds and tasks",
    )
    rows = []
    for row in table.iter_rows(named=True):
        if row["method"] == table["method"][0]:
            warm = [f"{row['split']}, {row['mode']}", "warm start", str(warm_starts), _percent(row["warm_start"])]
            rows.append(warm + [""] * (len(heads) - len(warm)))
            cool = cooled.filter(split=row["split"], mode=row["mode"])
            if len(cool):
                at = " or ".join(f"{value:g}" for value in cool["temperature"].unique().sort())
                mean = _percent(cool["success"].to_numpy().mean())
                name = f"cooled warm start, temperature {at}"
                rows.append(["", name, str(warm_starts), mean] + [""] * (len(heads) - len(warm)))
        cells = [
            "",
            row["method"],
            str(row["seeds"]),
            _percent(row["success"]),
            _range(row, "low", "high", _percent),
            _range(row, "lowest_seed", "highest_seed", _percent) if row["seeds"] > 1 else "",
            points(row["lift"]),
        ]
        if row["against"] is None:
            cells += ["", ""]
        else:
            cells += [
                f"{points(row['difference'])} to {row['against']}",
                _range(row, "difference_low", "difference_high", points),
            ]
        rows.append(cells)
    filled = [i for i in range(len(heads)) if any(cells[i] for cells in rows)]
    lines = [[heads[i] for i in filled], ["---"] * len(filled), *([cells[i] for i in filled] for cells in rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _search(results: Path) -> Path:
    """The folder of the search that ``empg tune`` made for this study."""
    return results.parent / "tune" / results.name


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _range(row: dict[str, Any], low: str, high: str, form: Callable[[float], str]) -> str:
    return "" if row[low] is None else f"{form(row[low])} to {form(row[high])}"


def _origin(study: Study, results: Path, cost: pl.DataFrame) -> list[str]:
    """When, where and from which commits the results were made."""
    made: dict[str, set[str]] = {name: set() for name in STAGES}
    for stage, folder in [*Results(study, results).jobs(), ("report", results / "report")]:
        if stage in made:
            made[stage].add((commit(folder) or "unknown")[:12])
    finished = datetime.fromtimestamp((results / "report" / "manifest.json").stat().st_mtime, UTC)
    hours = float(cost["cpu_seconds"].sum()) / 3600
    commits = "; ".join(f"{stage} {', '.join(sorted(names))}" for stage, names in made.items() if names)
    return [
        f"Finished on {finished:%Y-%m-%d}, {hours:.2f} CPU hours in {cost['jobs'].sum()} jobs; this page was made "
        f"on {os.cpu_count()} cores of {processor()}. Commits: {commits}. "
        "Settings: [study.json](study.json)."
    ]
