"""``empg tune``: searches settings of a study on the panel ``tune``, with equal budget for every method.

Optuna (Akiba et al. 2019, arXiv 1907.10902) proposes values and ends hopeless trials. Its trials lie in an SQLite
database of the search, so an interrupted search continues: a trial that was cut off is played to its end first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from empg.analysis.tables import save_table
from empg.config import STAGES, DataSet, Study, Tune, evaluate_run, train_run
from empg.errors import ConfigError, DataError, DivergenceError
from empg.pipeline.job_files import read_study
from empg.provenance import digest, json_digest, only_writer
from empg.report import tuning as page
from empg.sources import source_hashes
from empg.tracking.trials import log_trials
from empg.tuning.trial import Arm, Values, play, read, searched

if TYPE_CHECKING:
    import optuna

SUCCESS = {"sampled": pl.Float64, "greedy": pl.Float64}
LEAST = 4  # trials with different success, for importances
BEHIND = "behind"  # the digest of all that the trials of an Optuna study depend on


def run(name: str | None, jobs: int, progress: Callable[[int, int], None], root: Path = Path()) -> Path:
    """Search what the study's ``tune`` names; return the page that says what was found.

    Writes ``results/tune/STUDY``: ``optuna.db``, ``tables/trials.csv`` (and Parquet), ``figures/`` and ``README.md``.
    Trials are runs of the MLflow experiment ``tune_STUDY``. The study's warm starts and rollouts must exist.

    Raises:
        ConfigError: the study has no ``tune``, or one that does not fit; the search was begun with other settings.
        DataError: the warm start or the rollouts are missing.
    """
    study, data_sets = read_study(root / "config", name)
    if study.tune is None:
        raise ConfigError(f"config: study {study.study}: tune: expected what to search, found none")
    folder = root / "results" / "tune" / study.study
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        found = _search(study, list(arms(study, data_sets, study.tune, root)), folder, jobs, progress)
    for table, rows in found.items():
        save_table(rows, folder / "tables", table)
    log_trials(root / "results", study.study, found["trials"])
    page.write(study, found, folder)
    return folder / page.PAGE


def arms(study: Study, data_sets: dict[str, DataSet], tune: Tune, root: Path) -> Iterator[tuple[Arm, str]]:
    """Every method that has a searched setting, in every environment, with a digest of all its trials depend on."""
    for environment, method in product(study.environments, study.methods):
        train = train_run(study, data_sets, environment, method, tune.seed)
        if not (space := searched(train, tune.space)):
            continue
        panel = evaluate_run(study, data_sets, environment, method, tune.seed)
        only_tune = panel.evaluate.model_copy(update={"splits": ("tune",)})
        results = root / "results" / study.study / environment
        made = {stage: results / stage for stage in ("warmstart", "rollouts")}
        for path in made.values():
            if not (path / "manifest.json").exists():
                raise DataError(f"{path}: expected the stage's results, found none; make run STUDY={study.study}")
        data = root / "data" / study.data_set(environment)
        arm = Arm(
            train,
            panel.model_copy(update={"evaluate": only_tune}),
            data,
            made["warmstart"] / "model",
            made["rollouts"],
            root / "results" / "tune" / study.study / environment / method,
            space,
            tune.window,
        )
        behind = [
            arm.train.model_dump(mode="json"),
            arm.evaluate.model_dump(mode="json"),
            tune.model_dump(mode="json", exclude={"trials"}),
            *map(digest, (*made.values(), data)),
            source_hashes(STAGES["train"].module, train.data.type),
        ]
        yield arm, json_digest(behind)


def _search(
    study: Study, found: list[tuple[Arm, str]], folder: Path, jobs: int, progress: Callable[[int, int], None]
) -> dict[str, pl.DataFrame]:
    """Play the trials that are missing; the tables ``trials`` and ``importance``."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    assert study.tune is not None
    if unknown := set(study.tune.space) - {path for arm, _ in found for path in arm.space}:
        raise ConfigError(f"tune.space: expected settings of a training, found {', '.join(sorted(unknown))}")
    everywhere = [(arm, _optuna_study(study.tune, arm, behind, folder)) for arm, behind in found]
    total, done = study.tune.trials * len(everywhere), sum(len(_ended(trials)) for _, trials in everywhere)
    progress(done, total)
    # A forked process would wait for ever for locks that threads of torch and Polars held.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for arm, trials in everywhere:
            waiting: dict[Future[dict[str, float]], optuna.Trial] = {}
            while len(_ended(trials)) + len(waiting) < study.tune.trials or waiting:
                while len(waiting) < jobs and len(_ended(trials)) + len(waiting) < study.tune.trials:
                    trial = trials.ask()
                    waiting[pool.submit(_play, arm, _values(trial, arm), trial)] = trial
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    _tell(trials, waiting.pop(future), future)
                    progress(done := done + 1, total)
    rows = [_row(arm, trial) for arm, trials in everywhere for trial in _ended(trials)]
    importances = [_importance(arm, trials) for arm, trials in everywhere]
    schema = {"environment": pl.String, "method": pl.String, "setting": pl.String, "importance": pl.Float64}
    return {
        "trials": pl.DataFrame(rows, schema_overrides=SUCCESS, infer_schema_length=None),
        "importance": pl.DataFrame([row for part in importances for row in part], schema),
    }


def _row(arm: Arm, trial: Any) -> dict[str, Any]:
    """A trial as a row: its success on ``tune`` is null where it was pruned."""
    return {
        "environment": arm.train.environment,
        "method": arm.train.method_name,
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "sampled": trial.value if trial.state.name == "COMPLETE" else None,
        "greedy": trial.user_attrs.get("greedy"),
        **{path: trial.params.get(path) for path in arm.space},
        "seconds": trial.duration.total_seconds(),
    }


def _importance(arm: Arm, trials: optuna.Study) -> list[dict[str, Any]]:
    """How much of the variance of success each setting explains (fANOVA, Hutter et al. 2014); none for few trials."""
    import optuna

    complete = trials.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if len(arm.space) < 2 or len({trial.value for trial in complete}) < LEAST:
        return []
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(trials, evaluator=evaluator)
    key = {"environment": arm.train.environment, "method": arm.train.method_name}
    return [key | {"setting": path, "importance": float(value)} for path, value in found.items()]


def _play(arm: Arm, values: Values, trial: optuna.Trial) -> dict[str, float]:
    """In a process of its own: play a trial, which ends where the pruner says so."""
    import optuna

    os.environ["OMP_NUM_THREADS"] = "1"

    def report(iteration: int, success: float) -> None:
        trial.report(success, iteration)
        if trial.should_prune():
            raise optuna.TrialPruned

    return play(arm, values, report)


def _tell(trials: optuna.Study, trial: optuna.Trial, future: Future[dict[str, float]]) -> None:
    """Record how a trial ended. A training that diverges is a trial without success."""
    import optuna

    try:
        found = future.result()
    except optuna.TrialPruned:
        trials.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return
    except DivergenceError as error:
        found = {"sampled": 0.0, "greedy": 0.0}
        trial.set_user_attr("error", str(error))
    trial.set_user_attr("greedy", found["greedy"])
    trials.tell(trial, found["sampled"])


def _values(trial: optuna.Trial, arm: Arm) -> Values:
    """The values that the sampler proposes for a trial."""
    values: dict[str, float | int] = {}
    for path, limits in arm.space.items():
        if isinstance(read(arm.train, path), int):
            values[path] = trial.suggest_int(path, int(limits.low), int(limits.high), log=limits.log)
        else:
            values[path] = trial.suggest_float(path, limits.low, limits.high, log=limits.log)
    return values


def _ended(trials: optuna.Study) -> list[Any]:
    """The trials that count. A failed one was cut off."""
    return [trial for trial in trials.trials if trial.state.name in ("COMPLETE", "PRUNED")]


def _optuna_study(tune: Tune, arm: Arm, behind: str, folder: Path) -> optuna.Study:
    """The Optuna study of an arm, whose trials that were cut off come first again."""
    import optuna

    storage = f"sqlite:///{(folder / 'optuna.db').resolve()}"
    pruner = _named(optuna.pruners, "pruner", tune.pruner.name, tune.pruner.options)
    trials = optuna.create_study(
        storage=storage, study_name=arm.name, pruner=pruner, direction="maximize", load_if_exists=True
    )
    # A search that continues must not draw what it has drawn before.
    options = {"seed": tune.seed + len(trials.trials)} | tune.sampler.options
    trials.sampler = _named(optuna.samplers, "sampler", tune.sampler.name, options)
    if trials.user_attrs.setdefault(BEHIND, behind) != behind:
        raise ConfigError(
            f"{folder}: the search was begun with other settings, sources or inputs; delete the folder to begin anew"
        )
    if not trials.trials:
        trials.set_user_attr(BEHIND, behind)
        trials.enqueue_trial(dict(arm.own()))
    for trial in trials.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        trials.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        trials.enqueue_trial(trial.params)
    return trials


def _named(module: Any, key: str, name: str, options: dict[str, Any]) -> Any:
    """An instance of one of Optuna's classes. Raises :class:`ConfigError` for an unknown name or option."""
    known = [each for each in module.__all__ if each.lower().endswith(key)]
    if name not in known:
        raise ConfigError(f"tune.{key}.name: expected one of {', '.join(known)}, found {name!r}")
    try:
        return getattr(module, name)(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"tune.{key}.options: {error}") from None
