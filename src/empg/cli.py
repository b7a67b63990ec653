"""The command line: arguments and exit codes; no logic.

Each command is one stage of the pipeline and runs on its own as well: files in, files out. Exit codes: 0, done; 2, a
mistake in what was given (configuration, a path, a file); 1, anything else; 130, interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from empg import __version__, progress
from empg.errors import EmpgError

if TYPE_CHECKING:
    from empg.config import Model

# Results must not depend on how many cores a job happens to see. A stage that wants threads asks torch for them.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)
LOGGED = ("warmstart", "rollouts", "train", "evaluate", "report", "track", "dvc")  # jobs, whose logs go on
M = TypeVar("M", bound="Model")
Stage = Callable[[argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; every expected failure is one message on stderr."""
    args = parser().parse_args(argv)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    if args.command in LOGGED and not sys.stderr.isatty():
        print(progress.started(f"empg {args.command}"), file=sys.stderr, flush=True)
    try:
        args.run(args)
    except EmpgError as error:
        return _fail(error.exit_code, str(error))
    except KeyboardInterrupt:
        return _fail(130, "interrupted")
    except OSError as error:
        where = error.filename or getattr(args, "out", None) or "a file"
        return _fail(1, f"{where}: cannot be read or written: {error.strerror or error}")
    except Exception:
        traceback.print_exc()
        return _fail(1, f"{args.command}: an error in the program; the traceback is above")
    return 0


def _fail(code: int, message: str) -> int:
    print(f"empg: error: {message}", file=sys.stderr)
    return code


# ---------------------------------------------------------------------------------------------------------- arguments
ABOUT = """Entropy-Modulated Policy Gradients for language-model agents.
Each command is one stage of the pipeline; `snakemake --cores all` runs them all."""
CONFIG = "JSON file with the stage's settings (results/STUDY/config/… holds those of a study)"
DATA = "folder of the data set (data/NAME)"
MODEL = "model folder in Hugging Face layout"
STUDY = "JSON file of the study (results/STUDY/config/study.json)"
RESULTS = "the study's folder (results/STUDY)"


def parser() -> argparse.ArgumentParser:
    """The argument parser with all commands."""
    top = argparse.ArgumentParser(prog="empg", description=ABOUT)
    top.add_argument("--version", action="version", version=f"empg {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Stage, about: str, **paths: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
        for option, text in paths.items():
            sub.add_argument(f"--{option}", type=Path, required=True, metavar="PATH", help=text)
        sub.set_defaults(run=run)
        return sub

    data = command("data", _data, "write a data set's files (what DVC runs)", out="folder to write")
    dvc = command(
        "dvc", _dvc, "make a data set through DVC if it is missing or outdated, and record its hash", out="JSON file"
    )
    warmstart = command(
        "warmstart",
        _warmstart,
        "fine-tune a policy on expert demonstrations",
        config=CONFIG,
        data=DATA,
        out="folder for model and metrics",
    )
    command(
        "rollouts",
        _rollouts,
        "sample rollouts from the warm-start policy and tabulate the tasks' difficulty",
        config=CONFIG,
        data=DATA,
        model=MODEL,
        out="folder for the rollouts",
    )
    train = command(
        "train",
        _train,
        "train a policy with reinforcement learning; goes on from its last checkpoint",
        config=CONFIG,
        data=DATA,
        model=MODEL,
        rollouts="folder of the rollout stage",
        out="folder for model, metrics and credited rollouts",
    )
    command(
        "evaluate",
        _evaluate,
        "play the evaluation panels with a policy",
        config=CONFIG,
        data=DATA,
        model=MODEL,
        out="folder for episodes and summary",
    )
    command(
        "report",
        _report,
        "write a study's tables, figures and HTML page",
        config=STUDY,
        results=RESULTS,
        out="folder for the report",
    )
    track = command(
        "track", _track, "rebuild a study's runs in the MLflow database from its results folder", results=RESULTS
    )
    serve = command(
        "serve-retriever",
        _serve,
        "search a corpus and answer over HTTP, as `interface.retriever` asks",
        corpus="corpus of passages, JSON lines in wiki-18's form",
        index="folder of its index; built at first, reused while the corpus is the same",
    )
    command("schema", _schema, "write the JSON schemas of the configuration", out="folder to write")
    audit = command("audit", _audit, "compute a run's numbers again from their rows and check its files' hashes")
    command(
        "publish",
        _publish,
        "write a study's results as a page in Markdown with its figures and small tables",
        results=RESULTS,
        out="folder to write (docs/results/STUDY)",
    )
    command("times", _times, "print where the time of a study's stages went", results=RESULTS)

    for sub in (data, dvc):
        sub.add_argument("name", metavar="NAME", help="a data set of the configuration")
        sub.add_argument(
            "--config",
            type=Path,
            default=Path("config/data.yaml"),
            metavar="PATH",
            help="YAML file that describes the data sets (default: %(default)s)",
        )
    for sub in (warmstart, train):
        sub.add_argument(
            "--track", type=Path, metavar="PATH", help=f"{RESULTS}, to log live curves to its MLflow database"
        )
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine only)"
    )
    serve.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: %(default)s)")
    about = "folder of a run (results/STUDY/ENVIRONMENT/METHOD/seedN), or of a whole study"
    audit.add_argument("path", type=Path, metavar="RUN", help=about)
    track.add_argument("--init", action="store_true", help="only create the database, empty; --results is its folder")
    return top


# ------------------------------------------------------------------------------------------------------------- stages
def _data(args: argparse.Namespace) -> None:
    from empg.config import load_data
    from empg.environments import data
    from empg.errors import ConfigError

    sets = load_data(args.config)
    if args.name not in sets:
        raise ConfigError(f"{args.config}: expected the data set {args.name!r}, found {', '.join(sets)}")
    data.run(sets[args.name], args.out)


def _dvc(args: argparse.Namespace) -> None:
    from empg.pipeline import dvc

    dvc.run(args.name, args.config, args.out)


def _warmstart(args: argparse.Namespace) -> None:
    from empg.config import WarmStartRun
    from empg.training import warmstart

    config = _read(WarmStartRun, args.config)
    with progress.shown("tokens") as report, _curves(args, config) as on_metrics:
        warmstart.run(config, args.data, args.out, on_metrics=on_metrics, progress=report)


def _rollouts(args: argparse.Namespace) -> None:
    from empg.config import RolloutsRun
    from empg.rollouts import collect

    with progress.shown("episodes") as report:
        collect.run(_read(RolloutsRun, args.config), args.data, args.model, args.out, progress=report)


def _train(args: argparse.Namespace) -> None:
    from empg.config import TrainRun
    from empg.training import rl

    config = _read(TrainRun, args.config)
    with progress.shown("iterations") as report, _curves(args, config) as on_metrics:
        rl.run(config, args.data, args.model, args.rollouts, args.out, on_metrics=on_metrics, progress=report)


def _evaluate(args: argparse.Namespace) -> None:
    from empg.config import EvaluateRun
    from empg.rollouts import evaluate

    config = _read(EvaluateRun, args.config)
    with progress.shown("episodes") as report:
        evaluate.run(config, data=args.data, model=args.model, out=args.out, progress=report)


def _report(args: argparse.Namespace) -> None:
    from empg.report import page

    with progress.shown("parts") as report:
        page.run(args.config, args.results, args.out, progress=report)


def _track(args: argparse.Namespace) -> None:
    from empg.tracking.database import create
    from empg.tracking.rebuild import rebuild

    if args.init:
        create(args.results)
        return
    with progress.shown("runs") as report:
        rebuild(args.results, progress=report)


def _serve(args: argparse.Namespace) -> None:
    from empg.environments.deepsearch.search.index import Index
    from empg.environments.deepsearch.search.server import serve

    print(f"{args.index}: opening the index of {args.corpus}; it is built first where it is missing", flush=True)
    print(f"{args.index}: {len(Index.build(args.corpus, args.index))} passages", flush=True)
    serve(args.index, args.host, args.port, announce=lambda url: print(f"answers at {url}/retrieve", flush=True))


def _audit(args: argparse.Namespace) -> None:
    from empg.audit import audit

    audit.run(args.path, print)


def _publish(args: argparse.Namespace) -> None:
    from empg.report import publish

    publish.run(args.results, args.out)


def _times(args: argparse.Namespace) -> None:
    from empg.pipeline import times

    print(times.table(args.results))


def _schema(args: argparse.Namespace) -> None:
    from empg.files import write_json
    from empg.pipeline import job_files

    for name, content in job_files.schemas().items():
        write_json(args.out / name, content)


def _read(model: type[M], path: Path) -> M:
    from empg.config import parse
    from empg.files import read_json

    return parse(model, read_json(path), str(path))


# ------------------------------------------------------------------------------------------------------- live curves
@contextmanager
def _curves(args: argparse.Namespace, config: Model) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """Logs metrics to MLflow as they come; does nothing without ``--track``."""
    if args.track is None:
        yield lambda step, metrics: None
        return
    from empg.tracking.live import live

    with live(args.track, args.command, config) as log:
        yield log
