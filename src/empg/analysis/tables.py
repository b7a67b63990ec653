"""All tables of a report, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from empg.analysis import entropy_change, training_summaries
from empg.analysis.aggregates import aggregate_table
from empg.analysis.contrasts import noise_table, verdict_table
from empg.analysis.cost import cost, cost_by_part
from empg.analysis.detectable import detectable
from empg.analysis.paired_runs import paired_runs
from empg.analysis.results import Results
from empg.analysis.sensitivity import sensitivity
from empg.analysis.success import (
    PANEL_KEY,
    episode_metrics,
    pool_table,
    result_table,
    stop_reasons,
    success_by_type,
    trained_share,
    with_seeds,
)
from empg.analysis.training_curves import histograms, learning_curves, over_seeds
from empg.files import atomic_path

GRADIENTS = ("norm", "before", "after")
SCALING = ("calibrated", "decisive", "empg", "empg_inverted", "empg_scale", "empg_shuffled")  # g varies and has mean 1
CREDITED_COLUMNS = ("iteration", "trajectory", "step", "trained", "step_entropy", "gradient_scale")


def make_tables(results: Results, on_run: Callable[[int], None] = lambda done: None) -> dict[str, pl.DataFrame]:
    """Every table of the report by name. Calls ``on_run`` with the number of runs whose steps are rescored."""
    study = results.study
    panels, episodes, training = results.panels(), results.episodes(), results.training()
    tasks = results.task_means()
    credited = pl.concat(results.credited(run, CREDITED_COLUMNS) for run in results.trained())
    scored = []
    for done, run in enumerate(results.trained()):
        on_run(done)
        scored.append(entropy_change.rescored_steps(results, run))
    rescored = pl.concat(scored)
    progress = training_summaries.training_progress(results, training, credited)
    efficiency = training_summaries.sample_efficiency(study, progress)
    scaled = [name for name, method in study.methods.items() if method.modulation in SCALING]
    trained = credited.filter(pl.col("trained"))
    results_table, verdict = result_table(study, panels, tasks), verdict_table(study, tasks)
    tables = {
        "verdict": verdict,
        "results": results_table,
        "pools": pool_table(study, panels, tasks),
        "aggregates": aggregate_table(study, tasks),
        "detectable": detectable(verdict),
        "paired_runs": paired_runs(study, tasks),
        "panels": panels,
        "evaluation_noise": noise_table(study, episodes),
        "cooled_warm_start": results.cooled(),
        "trained_tasks": trained_share(tasks),
        "success_by_type": success_by_type(tasks),
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
    """Measurements on the trained networks: Proposition 1 and norms of gradients."""
    from empg.analysis.proposition import bin_means, equal_counts, equal_widths, measure

    measured = [measure(results, run) for run in results.trained()]
    score_norms, gradient_norms = (pl.concat(parts[i] for parts in measured) for i in (0, 1))
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
    }


def save_table(table: pl.DataFrame, folder: Path, name: str) -> None:
    """Write ``folder/name.csv`` and ``folder/name.parquet``."""
    with atomic_path(folder / f"{name}.parquet") as path:
        table.write_parquet(path, compression="zstd", statistics=False)
    with atomic_path(folder / f"{name}.csv") as path:
        table.write_csv(path)


def metrics(results_table: pl.DataFrame, aggregates: pl.DataFrame) -> dict[str, Any]:
    """Environment → split → mode → method → its numbers, without nulls."""
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


def panel_files(results_table: pl.DataFrame) -> dict[str, dict[str, float]]:
    """For ``dvc metrics``: a file for each panel, with the success of each method in percent, to one decimal.

    DVC shows a row for each file and a column for each number in it, so one file of all numbers fits no screen.
    """
    panels = results_table.group_by(*PANEL_KEY, maintain_order=True)
    return {
        f"{environment}/{split}_{mode}.json": {
            row["method"]: round(100 * row["success"], 1) for row in rows.iter_rows(named=True)
        }
        for (environment, split, mode), rows in panels
    }
