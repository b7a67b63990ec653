"""Pages of evaluation episodes: each policy's list for a panel, with every step, and a panel's table of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment
from markupsafe import Markup

from empg.analysis.results import WARM_START, Results, Run
from empg.files import atomic_directory, write_text
from empg.policy.chat import Chat
from empg.report.addresses import EPISODES_FOLDER, episode_anchor, episodes_page, run_name
from empg.report.listing import drawn_first, page_parts
from empg.report.security import content_policy
from empg.report.tokens import MarkedText
from empg.schema import EPISODES, EVALUATED_STEPS, read_table

LINKED = 30  # policies up to which each outcome of a panel's table is a link
SHOWN = ("trajectory", "observation", "action", "text", "invalid", "truncated", "entropies", "response_ids")


def write_all(results: Results, report: Path, templates: Environment) -> None:
    """Write ``report/episodes``: a list for each policy, panel and decoding, and a table for each panel."""
    with atomic_directory(report / EPISODES_FOLDER) as folder:
        for run in results.runs():
            write_lists(results, run, folder, templates)
        write_tables(results, folder, templates)


def write_lists(results: Results, run: Run, folder: Path, templates: Environment) -> None:
    """Write the lists of a policy's episodes, one for each panel and decoding."""
    episodes = read_table(run.evaluate / "episodes.parquet", EPISODES).with_row_index("trajectory")
    steps = read_table(run.evaluate / "steps.parquet", EVALUATED_STEPS, SHOWN).partition_by("trajectory", as_dict=True)
    mark = marked_text(results, run)
    page, body = templates.get_template("episodes.html.j2"), templates.get_template("steps.html.j2")
    for (split, mode), part in episodes.group_by("split", "mode", maintain_order=True):
        rows = part.sort("task", "episode").rows(named=True)
        bodies = [body.render(steps=step_views(steps.get((row["trajectory"],)), mark)).strip() for row in rows]
        view = _view(results, run, (str(split), str(mode)), rows, bodies)
        place = folder / list_page(run, str(split), str(mode))
        write_text(place, page.render(**view, **page_parts(templates, bodies)))


def marked_text(results: Results, run: Run) -> MarkedText:
    """Marks the run's responses. Training leaves the warm start's tokenizer as it was."""
    return MarkedText(Chat.load(results.warm_start(run.environment).train / "model", ""))


def step_views(steps: pl.DataFrame | None, mark: MarkedText) -> Iterator[dict[str, Any]]:
    """The steps of an episode for their template; none where the episode ended before its first step."""
    for step in () if steps is None else steps.iter_rows(named=True):
        entropies = step["entropies"]
        yield {
            **step,
            "marked": mark(step["text"], step["response_ids"], entropies),
            "mean": sum(entropies) / len(entropies),
            "highest": max(entropies),
        }


def _view(
    results: Results, run: Run, panel: tuple[str, str], rows: list[dict[str, Any]], bodies: Sequence[str]
) -> dict[str, Any]:
    """What the page of one policy and ``panel`` (split, mode) shows."""
    split, mode = panel
    plain = drawn_first(range(len(rows)), run.name, split, mode)
    other_mode = "greedy" if mode == "sampled" else "sampled"
    episodes = [
        row
        | {
            "anchor": episode_anchor(row["task"], row["episode"]),
            "ended": row["stop_reason"].replace("_", " "),
            "body": Markup(bodies[i]) if i in plain else "",
        }
        for i, row in enumerate(rows)
    ]
    alike = [other for other in results.runs() if other.environment == run.environment]
    return {
        "study": results.study,
        "run": run,
        "split": split,
        "mode": mode,
        "episodes": episodes,
        "plain": len(plain),
        "solved": sum(row["success"] for row in rows),
        "types": sorted({row["task_type"] for row in rows}),
        "endings": sorted({episode["ended"] for episode in episodes}),
        "others": [(_spoken(other), other == run, list_page(other, split, mode)) for other in alike],
        "table": table_page(run.environment, split, mode),
        "other_mode": (other_mode, list_page(run, split, other_mode)),
        "source": "../" + results.relative(run.evaluate / "steps.parquet"),
    }


def list_page(run: Run, split: str, mode: str) -> str:
    """The file name of a policy's list."""
    return Path(episodes_page(run.environment, run_name(run.method, run.seed), split, mode)).name


def table_page(environment: str, split: str, mode: str) -> str:
    """The file name of a panel's table."""
    return Path(episodes_page(environment, None, split, mode)).name


def _spoken(run: Run) -> str:
    return "warm start" if run.method == WARM_START else f"{run.method}, seed {run.seed}"


def write_tables(results: Results, folder: Path, templates: Environment) -> None:
    """Write each panel's table: a row for each task, the outcomes of each method in a cell."""
    template = templates.get_template("panel_table.html.j2")
    for key, played in results.episodes().group_by("environment", "split", "mode", maintain_order=True):
        environment, split, mode = map(str, key)
        runs = [run for run in results.runs() if run.environment == environment]
        other_mode = "greedy" if mode == "sampled" else "sampled"
        pages: dict[str, list[tuple[int | None, str]]] = {}
        for run in runs:
            pages.setdefault(run.method, []).append((run.seed, list_page(run, split, mode)))
        page = template.render(
            study=results.study,
            environment=environment,
            split=split,
            mode=mode,
            other_mode=(other_mode, table_page(environment, split, other_mode)),
            pages=pages,
            tasks=_tasks(played),
            anchor=episode_anchor,
            linked=len(runs) <= LINKED,
            policy=content_policy(),
        )
        write_text(folder / table_page(environment, split, mode), page)


def _tasks(played: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Each task with its outcomes: method → seed → plays in order."""
    tasks: dict[tuple[int, str], dict[str, dict[int | None, list[bool]]]] = {}
    columns = ("task", "task_type", "method", "seed", "success")
    for task, kind, method, seed, success in played.sort("task", "episode").select(columns).iter_rows():
        tasks.setdefault((task, kind), {}).setdefault(method, {}).setdefault(seed, []).append(success)
    for (task, kind), outcomes in tasks.items():
        plays = [success for seeds in outcomes.values() for one in seeds.values() for success in one]
        yield {"task": task, "type": kind, "outcomes": outcomes, "solved": sum(plays), "played": len(plays)}
