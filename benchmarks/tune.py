"""Chooses the learning rates on the `tune` panel, with the same budget for every method of a study.

Needs the study's warm starts and rollouts: `make run` makes them. Every method trains once with each multiple of its
environment's rates, on a seed that no study uses, and is evaluated on the tune panel, which no report reads.

Prints the runs. If they have all iterations, it also prints the choice of rates, which are other ones only if they are
shown to be better over all methods (`empg.analysis.learning_rates.rate_choice`). With all environments of the study, it
writes the runs to `results/tune/STUDY/tuning.csv`. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.progress import track

from empg.analysis.learning_rates import rate_choice
from empg.config import STAGES, Data, EvaluateRun, Study, TrainRun, evaluate_run, train_run
from empg.files import read_json
from empg.pipeline.job_files import read_study
from empg.provenance import digest, json_digest
from empg.rollouts import evaluate
from empg.sources import source_hashes
from empg.training import rl

SEED = 1000  # not among any study's seeds
RESULTS = Path("results")


Job = tuple[float, Path, Path, Path, TrainRun, EvaluateRun]


def runs(study: Study, data: dict[str, Data], environments: list[str], share: float, factors: list[float]) -> list[Job]:
    """One training run and its evaluation for each environment, method and factor of Muon's and AdamW's rates.

    Each has ``share`` of the study's iterations. A job holds the factor, the run's folder, the folders of the
    environment's results and data, and both configurations.
    """
    result = []
    for environment, method, factor in product(environments, study.methods, factors):
        train = train_run(study, data, environment, method, SEED)
        rates = {name: factor * getattr(train.train.optimiser, name) for name in ("muon_lr", "lr")}
        optimiser = train.train.optimiser.model_copy(update=rates)
        iterations = max(1, round(share * train.train.iterations))
        settings = train.train.model_copy(update={"optimiser": optimiser, "iterations": iterations})
        train = train.model_copy(update={"train": settings})
        panel = evaluate_run(study, data, environment, method, SEED)
        panel = panel.model_copy(update={"evaluate": panel.evaluate.model_copy(update={"splits": ("tune",)})})
        base, files = RESULTS / study.study / environment, Path("data") / study.data_set(environment)
        behind = [
            train.model_dump(mode="json"),
            panel.model_dump(mode="json"),
            digest(base / "warmstart"),
            digest(base / "rollouts"),
            digest(files),
            source_hashes(STAGES["train"].module, train.data.type),
        ]
        folder = RESULTS / "tune" / study.study / environment / method / f"{factor:g}_{json_digest(behind)[:12]}"
        result.append((factor, folder, base, files, train, panel))
    return result


def play(job: Job) -> dict[str, object]:
    """Train and evaluate one run; its row of the table."""
    factor, folder, base, data, train, panel = job
    if not (folder / "evaluate/manifest.json").exists():
        rl.run(
            train,
            data,
            base / "warmstart/model",
            base / "rollouts",
            folder / "train",
            on_metrics=lambda *_: None,
            progress=lambda *_: None,
        )
        evaluate.run(panel, data, folder / "train/model", folder / "evaluate", progress=lambda *_: None)
    summary = read_json(folder / "evaluate/summary.json")["panels"]["tune"]
    return {
        "environment": train.environment,
        "method": train.method_name,
        "factor": factor,
        "muon_lr": train.train.optimiser.muon_lr,
        "lr": train.train.optimiser.lr,
        "iterations": train.train.iterations,
        "sampled": summary["sampled"]["success"],
        "greedy": summary["greedy"]["success"],
        "episodes": summary["sampled"]["n"],
    }


def main() -> None:
    """Play the runs that are not done and print what they decide."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="quick", help="the study's name (default: %(default)s)")
    parser.add_argument("--environments", nargs="+", help="of the study (default: all)")
    parser.add_argument(
        "--factors",
        type=float,
        nargs="+",
        default=[0.5, 2],
        help="of the study's rates, beside 1 (default: %(default)s)",
    )
    parser.add_argument("--share", type=float, default=1.0, help="share of the study's iterations, for every run alike")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one core each")
    arguments = parser.parse_args()
    study, data = read_study(Path("config"), arguments.study)
    environments = arguments.environments or list(study.environments)
    if unknown := set(environments) - set(study.environments):
        parser.error(f"--environments: expected some of {', '.join(study.environments)}, found {', '.join(unknown)}")
    jobs = runs(study, data, environments, arguments.share, sorted({1.0, *arguments.factors}))
    with ProcessPoolExecutor(arguments.jobs) as pool:
        rows = list(track(pool.map(play, jobs), "runs", total=len(jobs), console=Console(stderr=True)))
    table = pl.DataFrame(rows)
    if len(environments) == len(study.environments):
        table.write_csv(RESULTS / "tune" / study.study / "tuning.csv")
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        print(table)
        if arguments.share == 1:
            print(rate_choice(table))


if __name__ == "__main__":
    main()
