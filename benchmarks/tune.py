"""Chooses the learning rate on the `tune` panel, with the same budget for every method of a study.

Needs the study's warm starts and rollouts: `make run` makes those of the default one. Every method trains once with
each rate, on a seed that no study uses, and is evaluated on the tune panel, which no report reads. Prints a table and
writes it to `results/tune/STUDY/tuning.csv`. Runs that are done are not repeated.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import polars as pl

from empg.config import EvaluateRun, Study, TrainRun, evaluate_run, load_data, load_environments, load_study, train_run
from empg.files import read_json
from empg.study import evaluate
from empg.training import rl

SEED = 1000  # not among any study's seeds
RESULTS = Path("results")


Job = tuple[Path, Path, Path, TrainRun, EvaluateRun]


def runs(study: Study, share: float, rates: list[float]) -> list[Job]:
    """One training run and its evaluation for each environment, method and rate; AdamW's rate is a sixth of Muon's.

    Each of ``share`` of the study's iterations, with its folder, that of its environment's warm start and of its data.
    """
    data = load_data(Path("config/data.yaml"))
    result = []
    for environment, method, rate in product(study.environments, study.methods, rates):
        train = train_run(study, data, environment, method, SEED)
        optimiser = train.train.optimiser.model_copy(update={"muon_lr": rate, "lr": rate / 6})
        iterations = max(1, round(share * train.train.iterations))
        settings = train.train.model_copy(update={"optimiser": optimiser, "iterations": iterations})
        panel = evaluate_run(study, data, environment, method, SEED)
        panel = panel.model_copy(update={"evaluate": panel.evaluate.model_copy(update={"splits": ("tune",)})})
        folder = RESULTS / "tune" / study.study / environment / method / f"{rate:g}_{iterations}"
        base, files = RESULTS / study.study / environment, Path("data") / study.data_set(environment)
        result.append((folder, base, files, train.model_copy(update={"train": settings}), panel))
    return result


def play(job: Job) -> dict[str, object]:
    """Train and evaluate one run; its row of the table."""
    folder, base, data, train, panel = job
    if not (folder / "evaluate/manifest.json").exists():
        rl.run(train, data, base / "warmstart/model", base / "rollouts", folder / "train",
               on_metrics=lambda *_: None, progress=lambda *_: None)  # fmt: skip
        evaluate.run(panel, data, folder / "train/model", folder / "evaluate", progress=lambda *_: None)
    summary = read_json(folder / "evaluate/summary.json")["panels"]["tune"]
    return {"environment": train.environment, "method": train.method_name, "muon_lr": train.train.optimiser.muon_lr,
            "iterations": train.train.iterations, "sampled": summary["sampled"]["success"],
            "greedy": summary["greedy"]["success"], "episodes": summary["sampled"]["n"]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--study", type=Path, default=Path("config/config.yaml"), help="the study's file (default: %(default)s)"
    )
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.9e-3, 1.8e-3, 3.6e-3], help="Muon's learning rates"
    )
    parser.add_argument("--share", type=float, default=1.0, help="share of the study's iterations, for every run alike")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one core each")
    arguments = parser.parse_args()
    environments = load_environments(Path("config/environments.yaml"))
    study = load_study(arguments.study, load_data(Path("config/data.yaml")), environments)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        table = pl.DataFrame(list(pool.map(play, runs(study, arguments.share, arguments.rates))))
    table.write_csv(RESULTS / "tune" / study.study / "tuning.csv")
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        print(table)


if __name__ == "__main__":
    main()
